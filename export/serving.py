"""Layout of a model repository for servers of ONNX files, and its config file.

REPOSITORY/NAME/config.pbtxt
REPOSITORY/NAME/labels.txt
REPOSITORY/NAME/1/model.onnx
"""

import pathlib
import re

import onnx

MAX_BATCH_SIZE = 256
_CLASSES = ("class_lengths", "probabilities")  # outputs whose places have labels
_TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}


def model_path(repository: pathlib.Path, run: dict) -> pathlib.Path:
    """Returns the path of the first version of a model, which is named after its recipe."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", run["recipe"]) or "model"
    return repository / name / "1" / "model.onnx"


def files(path: pathlib.Path, labels: list[str], provider: str) -> dict:
    """Returns the text files that belong to a model in a repository, at its `model_path`.

    They are a dict from paths to functions, which make the text from the finished ONNX file.
    """
    folder = path.parents[1]
    names = "".join(f"{' '.join(label.split())}\n" for label in labels)
    return {
        folder / "config.pbtxt": lambda new: config(folder.name, onnx.load(new), provider),
        folder / "labels.txt": lambda new: names,
    }


def config(name: str, graph: onnx.ModelProto, provider: str) -> str:
    """Returns the config file (`config.pbtxt`) of a model, in the text form of protocol buffers."""
    (image,) = graph.graph.input
    is_free = bool(image.type.tensor_type.shape.dim[0].dim_param)
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {MAX_BATCH_SIZE if is_free else 0}",
        f"input [\n{_tensor(image, is_free)}\n]",
        "output [\n" + ",\n".join(_tensor(x, is_free) for x in graph.graph.output) + "\n]",
        f"instance_group [ {{ kind: {'KIND_CPU' if provider == 'cpu' else 'KIND_GPU'} }} ]",
    ]
    if is_free:
        lines.append("dynamic_batching { }")
    if provider == "tensorrt":
        lines.append(
            'optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt"'
            " } ] } }"
        )
    return "\n".join(lines) + "\n"


def _tensor(value, is_free):
    """Returns an input or output; the server adds a free batch dimension by itself."""
    tensor = value.type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim][1 if is_free else 0 :]
    name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    label = ', label_filename: "labels.txt"' if value.name in _CLASSES else ""
    return (
        f'  {{ name: "{value.name}", data_type: TYPE_{_TYPES.get(name, name)}, '
        f"dims: [ {', '.join(map(str, dims))} ]{label} }}"
    )
