"""Export of Keras models with kcaps layers to ONNX, checked in ONNX Runtime.

python -m export.onnx --model ckpt/
"""

import json
import os
import pathlib
import tempfile

from export import command

with command.quiet_tensorflow():
    import tensorflow as tf

import numpy as np
import onnx
import onnxruntime
import tf2onnx

import kcaps
from export.checkpoint import inference_model
from export.parity import ParityError, comparison_images, verify

OPSETS = range(13, 19)


def export_onnx(model, path, opset=18, tolerance=1e-5, run=None):
    """Writes an ONNX file that is known to compute what the Keras model does.

    The graph is converted, checked by ONNX's own checker, loaded in ONNX Runtime and compared
    with the model at batch sizes 1, 7 and 64. Only then does the file appear at `path`.

    Args:
        model: A functional Keras model with one input.
        path: Path of the file to write. An existing file is replaced.
        opset: Version of the ONNX operator set, from 13 to 18. Defaults to 18.
        tolerance: Largest absolute difference to Keras that passes. Defaults to 1e-5.
        run: Content of the checkpoint's `run.json`: names the images to compare on and goes into
            the file's metadata. Defaults to None: random images.

    Returns:
        The rows of the comparison (`export.parity.Row`) and a description of the images.

    Raises:
        ValueError: for a model that cannot be exported, or an unsupported opset.
        OSError: if `path` cannot be written.
        ParityError: if the file does not load or does not compute the same; nothing is written.

    Example:

    >>> rows, images = export_onnx(model, "model.onnx")
    """
    if opset not in OPSETS:
        raise ValueError(f"`opset` must be from 13 to 18. Received: opset={opset}.")
    path, run = pathlib.Path(path), run or {}
    model = inference_model(model)
    image = model.inputs[0]
    graph = _convert(model, image, opset)
    onnx.helper.set_model_props(graph, _metadata(run))
    images, description = comparison_images(run, image)

    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        onnx.save(graph, aside)
        rows = verify(model.predict_on_batch, _session(aside), images, tolerance)
        os.chmod(aside, 0o644)  # mkstemp's own mode is for the owner alone
        os.replace(aside, path)
    finally:
        pathlib.Path(aside).unlink(missing_ok=True)
    return rows, description


def _convert(model, image, opset):
    """ONNX graph of a model with input `image` and the model's output names."""
    # training=False also keeps XLA out of the trace: ONNX has no operator for it.
    function = tf.function(lambda image: model(image, training=False))
    signature = [tf.TensorSpec(image.shape, image.dtype, name="image")]
    try:
        converted, _ = tf2onnx.convert.from_function(function, signature, opset=opset)
    except Exception as error:  # whatever the tracer and the converter may raise
        raise ValueError(f"`model` cannot be converted to ONNX: {error}") from error
    for value in (*converted.graph.input, *converted.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return converted


def _metadata(run):
    data = run.get("data", {})
    entries = {
        "kcaps": kcaps.__version__,
        "recipe": run.get("recipe"),
        "data": data.get("title"),
        "labels": run.get("labels") and json.dumps(run["labels"]),
        "input_range": run.get("input_range") and json.dumps(run["input_range"]),
    }
    return {key: str(value) for key, value in entries.items() if value}


def _session(path):
    """Function from images to named outputs, by ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they also reach us as exceptions
    try:
        onnx.checker.check_model(path, full_check=True)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX and its runtime have no common base for their errors
        raise ParityError(f"ONNX Runtime cannot load the file: {error}") from error
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(
        zip(names, session.run(names, {"image": np.asarray(images)}), strict=True)
    )


def main():
    parser = command.export_parser(__doc__.splitlines()[0], "model.onnx")
    parser.add_argument("--opset", type=int, default=18, help="ONNX operator set, 13 to 18")
    args = parser.parse_args()
    command.run_export(export_onnx, args, "model.onnx", opset=args.opset)


if __name__ == "__main__":
    main()
