"""Lower precision of an ONNX graph, and what it costs in accuracy."""

import logging
import pathlib
import warnings

import numpy as np
import onnx

from export.command import first_line
from export.errors import ParityError
from export.parity import Comparison

# Points of accuracy that a precision may lose unless the user says otherwise.
MAX_ACCURACY_DROP = {"float16": 0.1, "int8": 0.5}
# Differences beyond which a value is wrong rather than rounded; a user's tolerance may be wider.
# Routing can make much of the rounding of 8-bit integers: there accuracy is the judge.
TOLERANCES = {"float32": 0.0, "float16": 0.01, "int8": 1.0}
EXACT = "a float32 file gives every image the class that Keras gives it"  # no drop to allow
PRECISIONS = tuple(TOLERANCES)

# Products, and what moves or cuts their values, in half precision; norms, squash and softmax, whose
# squares and quotients leave its range, stay in float32.
_HALF = {
    *("Conv", "Gemm", "MatMul", "Relu", "LeakyRelu", "MaxPool", "Transpose", "Reshape", "Flatten"),
}
_CALIBRATION_BATCH = 64


def to_float16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Converts convolutions and products to half precision; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    operators = {node.op_type for node in graph.graph.node}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants below half precision's smallest number
        graph = convert_float_to_float16(
            graph, keep_io_types=True, op_block_list=sorted(operators - _HALF)
        )
    _skip_round_trips(graph.graph)
    return graph


def _skip_round_trips(graph):
    """Lets float32 nodes read each other directly: the converter casts every value between them.

    Nodes that nobody reads any more go when the graph is put in order.
    """
    sources = {
        (node.output[0], node.attribute[0].i): node.input[0]
        for node in graph.node
        if node.op_type == "Cast"
    }
    full, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    for node in graph.node:
        for index, name in enumerate(node.input):
            between = sources.get((name, full))
            if (between, half) in sources:
                node.input[index] = sources[between, half]
    for name in [value.name for value in graph.output]:
        source = sources.get((sources.get((name, full)), half))
        for node in graph.node if source else ():
            node.input[:] = [name if other == source else other for other in node.input]
            if name in node.output:
                node.output[:] = [""]
            node.output[:] = [name if other == source else other for other in node.output]


def to_int8(graph: onnx.ModelProto, images: np.ndarray, folder: pathlib.Path) -> onnx.ModelProto:
    """Quantizes convolutions to 8-bit integers, with ranges from training images.

    Weights have a scale for each filter; routing, a small part of the time, stays in float32. The
    quantizer writes intermediate files into the folder.
    """
    if "Conv" not in {node.op_type for node in graph.graph.node}:
        raise ValueError(
            "`precision='int8'` quantizes convolutions. Received: a model without any."
        )
    from onnxruntime.quantization import QuantType, quantize_static

    fixed = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    size = fixed or min(_CALIBRATION_BATCH, len(images))
    images = np.take(images, range(max(len(images), size)), axis=0, mode="wrap")
    source, target = folder / "float32.onnx", folder / "int8.onnx"
    onnx.save(graph, source)
    logging.disable(logging.WARNING)  # advice on a preparation that has been done
    try:
        quantize_static(
            source,
            target,
            _reader(graph.graph.input[0].name, images, size),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    except OSError:  # such as of a full disk
        raise
    except Exception as error:  # the quantizer and the runtime have no common base
        raise ValueError(
            "`calibration` must be training images on which the model can be computed. "
            f"Received: {len(images)} images, with which quantizing fails: {first_line(error)}"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(target)


def _reader(name, images, size):
    """Returns whole batches of images as the quantizer reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self):
            starts = range(0, len(images) - size + 1, size)
            self.batches = ({name: images[start : start + size]} for start in starts)

        def get_next(self):
            return next(self.batches, None)

    return Reader()


def check_drop(max_drop: float | None) -> None:
    """Raises a `ValueError` if `max_drop` is neither None nor a number of points."""
    if max_drop is None:
        return
    if type(max_drop) not in (int, float) or not 0 <= max_drop <= 100:
        raise ValueError(
            f"`max_accuracy_drop` must be from 0 to 100 points. Received: {max_drop!r}."
        )


def check_accuracy(comparison: Comparison, precision: str, max_drop: float | None = None) -> None:
    """Raises a `ParityError` if a precision loses more than `max_drop` points.

    None stands for the `MAX_ACCURACY_DROP` of the precision.
    """
    if comparison.accuracy_before is None:
        raise ValueError(f"{precision} is judged by its accuracy, and there are no labelled images")
    check_drop(max_drop)
    max_drop = MAX_ACCURACY_DROP[precision] if max_drop is None else max_drop
    drop = 100 * (comparison.accuracy_before - comparison.accuracy_after)
    if drop > max_drop + 1e-9:  # 0.1 points are not 0.1 in floating point
        raise ParityError(
            f"{precision} loses {drop:.2f} points of accuracy, from "
            f"{100 * comparison.accuracy_before:.2f} to {100 * comparison.accuracy_after:.2f} %; "
            f"at most {max_drop:g} are allowed (--max-accuracy-drop)"
        )
