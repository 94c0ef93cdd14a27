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


def model_path(repository: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of the first version of a model, named after its recipe or its file."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", name) or "model"
    return repository / name / "1" / "model.onnx"


def files(path: pathlib.Path, labels: list[str] | None, provider: str) -> dict:
    """Returns the text files that belong to a model in a repository, at its `model_path`.

    They are a dict from paths to functions, which make the text from the finished ONNX file.
    """
    folder, has_labels = path.parents[1], labels is not None
    made = {
        folder / "config.pbtxt": lambda new: config(
            folder.name, onnx.load(new), provider, has_labels
        )
    }
    if has_labels:
        names = "".join(f"{' '.join(label.split())}\n" for label in labels)
        made[folder / "labels.txt"] = lambda new: names
    return made


def config(name: str, graph: onnx.ModelProto, provider: str, has_labels: bool = True) -> str:
    """Returns the config file (`config.pbtxt`) of a model, in the text form of protocol buffers."""
    (image,) = graph.graph.input
    is_free = bool(image.type.tensor_type.shape.dim[0].dim_param)
    outputs = [_tensor(value, is_free, has_labels) for value in graph.graph.output]
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {MAX_BATCH_SIZE if is_free else 0}",
        f"input [\n{_tensor(image, is_free, False)}\n]",
        "output [\n" + ",\n".join(outputs) + "\n]",
        "instance_group [ {{ kind: {'KIND_CPU' if provider == 'cpu' else 'KIND_GPU'} }} ]",
    ]
    if is_free:
        lines.append("dynamic_batching { }")
    if provider == "tensorrt":
        lines.append(
            'optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt"'
            " } ] } }"
        )
    return "\n".join(lines) + "\n"


def _tensor(value, is_free, has_labels):
    """Returns an input or output; the server adds a free batch dimension by itself."""
    tensor = value.type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim][1 if is_free else 0 :]
    name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    label = ', label_filename: "labels.txt"' if has_labels and value.name in _CLASSES else ""
    return (
        f'  {{ name: "{value.name}", data_type: TYPE_{_TYPES.get(name, name)}, '
        f"dims: [ {', '.join(map(str, dims))} ]{label} }}"
    )
