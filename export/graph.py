"""The way from a Keras model to a small ONNX graph, which has the same names every time."""

import collections
import logging
from collections.abc import Callable

import onnx
import onnxslim
import tensorflow as tf
import tf2onnx

from export import norms
from export.command import first_line

FORBIDDEN = ("Shape", "Gather", "Loop", "If")
PRODUCER = "kcaps"
_RECURRENT = ("GRU", "LSTM", "RNN")
_STEPS = (
    "LSTM, GRU, SimpleRNN and other recurrent layers pass with both `unroll=True` and a fixed "
    "batch size (batch_size=1, --batch-size 1)."
)


def convert(
    model, opset: int, batch_size: int | None = None, name: str = "image"
) -> onnx.ModelProto:
    """Traces a model of named outputs without XLA and converts it to ONNX, for any batch size.

    It has one input, of the given name: tensors that layers hold as constants, such as the mean in
    a Normalization layer, are constants of the graph. With a `batch_size`, it takes that one alone.

    Raises:
        ValueError: if an operation of the model cannot be traced or converted, or is a loop.
    """
    image = model.inputs[0]
    # training=False also keeps XLA out of the trace: ONNX has no operator for it.
    function = tf.function(lambda image: model(image, training=False))
    signature = [tf.TensorSpec((batch_size, *image.shape[1:]), image.dtype, name=name)]
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # `check` finds what it reports
    loops = []

    def loop_error():
        return ValueError(
            "the graph has Loop: steps that depend on the input, as in recurrent layers. "
            f"{_STEPS} Received: {', '.join(loops)}."
        )

    try:
        trace = function.get_concrete_function(*signature)
        loops = [x.name for x in trace.graph.get_operations() if x.type.endswith("While")]
        converted, _ = tf2onnx.convert.from_function(function, signature, opset=opset)
        _embed_constants(converted.graph, trace.graph)
    except Exception as error:  # whatever the tracer and the converter may raise
        if loops:
            raise loop_error() from error
        raise ValueError(f"`model` cannot be converted to ONNX: {first_line(error)}") from error
    if any(node.op_type == "Loop" for node in converted.graph.node):
        raise loop_error()
    return converted


def _embed_constants(graph, trace):
    """Turns the inputs that stand for tensors which a layer holds into constants.

    Tracing makes an input of every tensor that is made outside of the trace and is no variable, and
    so does the converter.
    """
    values = {inner.name: outer for outer, inner in trace.captures if outer.dtype != tf.resource}
    for value in [value for value in graph.input if value.name in values]:
        array = values[value.name].numpy()
        graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        graph.input.remove(value)


def simplify(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Folds constants and shapes and fuses nodes, with onnxslim; a `ValueError` if it cannot.

    Norms and maxima then lose what only training needs (`export.norms.shorten`).
    """
    try:
        graph = onnxslim.slim(graph)
    except Exception as error:  # it has no common base for its errors
        raise ValueError(f"`model` cannot be simplified: {first_line(error)}") from error
    norms.shorten(graph)
    _order(graph.graph, [value.name for value in graph.graph.output])
    return graph


def finish(graph: onnx.ModelProto, outputs: list, batch_size: int | None, metadata: dict) -> None:
    """Puts nodes and names in an order that depends on the computation alone; adds metadata.

    The graph is changed in place. `outputs` are the names of its outputs, in their order.
    """
    _order(graph.graph, outputs)
    _rename(graph.graph)
    del graph.graph.value_info[:]
    for value in (*graph.graph.input, *graph.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if batch_size is None:
            batch.dim_param = "batch"
        else:
            batch.dim_value = batch_size
    domains = {node.domain for node in graph.graph.node}
    for entry in [entry for entry in graph.opset_import if entry.domain not in domains]:
        graph.opset_import.remove(entry)
    graph.graph.name, graph.graph.doc_string = PRODUCER, ""
    graph.producer_name, graph.producer_version = PRODUCER, metadata[PRODUCER]
    onnx.helper.set_model_props(graph, metadata)


def _order(graph, outputs):
    """Sorts the nodes as a walk back from the outputs meets them; drops what it does not meet."""
    makers = {name: node for node in graph.node for name in node.output if name}
    values = {value.name: value for value in graph.output}
    nodes, done, stack = [], set(), [(name, False) for name in reversed(outputs)]
    while stack:
        name, is_ready = stack.pop()
        node = makers.get(name)
        if node is None or node.output[0] in done:
            continue
        if is_ready:
            done.add(node.output[0])
            nodes.append(node)
        else:
            stack.append((name, True))
            stack += [(source, False) for source in reversed(node.input)]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(values[name] for name in outputs)


def _rename(graph):
    """Names nodes by their operator and number, and values by the node that makes or uses them.

    The converter's names hold counters of the process that ran it.
    """
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names, numbers = {name: name for name in fixed}, collections.Counter()
    for node in graph.node:
        node.name = f"{node.op_type}_{numbers[node.op_type]}"
        numbers[node.op_type] += 1
        while any(name.startswith(f"{node.name}_") for name in fixed):
            node.name += "_"
        for index, name in enumerate(node.input):
            names.setdefault(name, f"{node.name}_input_{index}" if name else "")
        for index, name in enumerate(node.output):
            names.setdefault(name, f"{node.name}_output_{index}" if name else "")
        for side in (node.input, node.output):
            side[:] = [names[name] for name in side]
        node.doc_string = ""
    used = [tensor for tensor in graph.initializer if tensor.name in names]
    for tensor in used:
        tensor.name = names[tensor.name]
    used.sort(key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(used)


def refuse_operators(graph: onnx.ModelProto, of_fixed_size: Callable | None = None) -> None:
    """Raises a `ValueError` for operators that make shapes or the flow depend on data.

    It tells the operators, the nodes that have them, and what would pass; `of_fixed_size` makes
    the graph of the same model with a fixed batch size, to find out whether that would. A graph
    with operators that are none of ONNX's is left to `check`.
    """
    nodes = _forbidden(graph)
    if not nodes or not all(onnx.defs.has(x.op_type, x.domain) for x in graph.graph.node):
        return
    found = ", ".join(sorted({node.op_type for node in nodes}))
    names = sorted({node.name.split("__")[0] for node in nodes if "/" in node.name})
    made_by = f" Received: {', '.join(names)}." if names else ""
    raise ValueError(
        f"the graph has {found}: sizes or steps that depend on the input. "
        f"{_advice(graph, nodes, of_fixed_size)}{made_by}"
    )


def _forbidden(graph):
    return [node for node in graph.graph.node if node.op_type in FORBIDDEN]


def _advice(graph, nodes, of_fixed_size):
    """Returns sentences on what would pass in the place of forbidden operators."""
    if {node.op_type for node in graph.graph.node} & {"Loop", *_RECURRENT}:
        return f"They come of the Loop over the steps of a recurrent layer. {_STEPS}"
    if of_fixed_size is not None and not _forbidden(of_fixed_size()):
        return "Give a fixed batch size (batch_size=1, --batch-size 1)."
    tables = {tensor.name for tensor in graph.graph.initializer}
    if any(node.op_type == "Gather" and node.input[0] in tables for node in nodes):
        return (
            "A Gather looks up rows of a table, as Embedding does. In its place, with the table as "
            "its kernel, EinsumDense('btn,nd->btd', (t, d)) of keras.ops.one_hot(ids, n) passes, "
            "for t numbers below n."
        )
    if any(node.op_type == "If" for node in nodes):
        return "Instead of a condition, use keras.ops.where."
    return "Replace the layer they come from; a fixed batch size does not help."


def check(graph: onnx.ModelProto) -> str:
    """Checks a graph against ONNX's and inference servers' rules; returns a line for the report.

    A graph is refused by a `ValueError` if it is not valid, or has an operator that is not of the
    standard domain or that makes shapes or the flow depend on data.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker and shape inference have no common base
        raise ValueError(f"the graph is not valid ONNX: {first_line(error)}") from error
    refuse_operators(graph)
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in graph.graph.node if n.domain})
    if foreign:
        raise ValueError(f"the graph has operators outside ONNX's standard: {', '.join(foreign)}")
    return f"{len(graph.graph.node)} nodes, valid, standard domain, no {', '.join(FORBIDDEN)}"
