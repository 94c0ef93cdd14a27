"""From a Keras model to a small ONNX graph with the same names every time."""

import collections
import logging

import onnx
import onnxslim
import tensorflow as tf
import tf2onnx

from export.command import first_line

FORBIDDEN = ("Shape", "Gather", "Loop", "If")
PRODUCER = "kcaps"


def convert(model, opset, batch_size=None):
    """Traces a model without XLA and converts it to ONNX.

    Args:
        model: A functional Keras model with one input and a dict of outputs.
        opset: Version of the ONNX operator set.
        batch_size: Size of the batch, or None for any.

    Returns:
        An `onnx.ModelProto` with the input `image`.

    Raises:
        ValueError: if an operation of the model cannot be traced or converted.
    """
    image = model.inputs[0]
    # training=False also keeps XLA out of the trace: ONNX has no operator for it.
    function = tf.function(lambda image: model(image, training=False))
    signature = [tf.TensorSpec((batch_size, *image.shape[1:]), image.dtype, name="image")]
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # `check` finds what it reports
    try:
        converted, _ = tf2onnx.convert.from_function(function, signature, opset=opset)
    except Exception as error:  # whatever the tracer and the converter may raise
        raise ValueError(f"`model` cannot be converted to ONNX: {first_line(error)}") from error
    return converted


def simplify(graph):
    """Folds constants and shapes and fuses nodes, with onnxslim.

    Raises:
        ValueError: if onnxslim cannot.
    """
    try:
        return onnxslim.slim(graph)
    except Exception as error:  # it has no common base for its errors
        raise ValueError(f"`model` cannot be simplified: {first_line(error)}") from error


def finish(graph, outputs, batch_size, metadata):
    """Puts nodes and names in an order that depends on the computation alone; adds metadata.

    Args:
        graph: An `onnx.ModelProto`, changed in place.
        outputs: Names of the outputs, in their order.
        batch_size: Size of the batch, or None for any.
        metadata: Dict of texts.
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


def check(graph):
    """Checks a graph against ONNX's rules and against those of an inference server.

    Returns:
        A line for the report.

    Raises:
        ValueError: if the graph is not valid, or has an operator that is not of the standard
            domain or that makes shapes or the flow depend on data.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker and shape inference have no common base
        raise ValueError(f"the graph is not valid ONNX: {first_line(error)}") from error
    found = sorted({node.op_type for node in graph.graph.node} & set(FORBIDDEN))
    if found:
        raise ValueError(
            f"the graph has {', '.join(found)}: sizes or steps that depend on the input. Give a "
            "fixed batch size, or replace the layer they come from."
        )
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in graph.graph.node if n.domain})
    if foreign:
        raise ValueError(f"the graph has operators outside ONNX's standard: {', '.join(foreign)}")
    return f"{len(graph.graph.node)} nodes, valid, standard domain, no {', '.join(FORBIDDEN)}"
