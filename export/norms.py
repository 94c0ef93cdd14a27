"""Norms and maxima in an ONNX graph, in fewer nodes."""

import numpy as np
import onnx

# What `kcaps.activations` bounds squared lengths by, and takes from lengths again, to keep
# gradients finite.
_SQUARED, _LENGTH = np.float32(1e-36), np.float32(1e-18)
# The first operator set in which `ReduceSumSquare` takes axes in the form of `ReduceSum`.
_SUM_OF_SQUARES = 18


def shorten(model: onnx.ModelProto) -> None:
    """Takes out what only gradients and empty batches need, and writes sums of squares as one node.

    - `max(x, -inf)` is `x`: Keras bounds maxima for batches that may be empty.
    - `sqrt(max(Σ x², 1e-36))`, of which 1e-18 is taken or which is divided, is `sqrt(Σ x²)` but for
      1e-18: there, the bound is for the gradient. It stays where the root is a divisor, too.
    - `ReduceSum(x · x)` is `ReduceSumSquare(x)`, which has the same form from operator set 18 on.

    Args:
        model: The graph, changed in place. Nodes that nobody reads any more stay in it.
    """
    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    values = {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer if not x.dims}
    for node in list(graph.node):
        bound = values.get(node.input[1]) if len(node.input) == 2 else None
        if node.op_type == "Max" and bound == -np.inf:
            _pass_by(graph, node)
        elif node.op_type == "Max" and bound == _SQUARED and _is_for_gradient(graph, node, values):
            _pass_by(graph, node)
        elif node.op_type == "Sub" and bound == _LENGTH:
            root = _maker(graph, node, "Sqrt")
            if root is not None and _maker(graph, root, "Max") is None:
                _pass_by(graph, node)
    for node in graph.node if opset >= _SUM_OF_SQUARES else ():
        square = _square(graph, node)
        if square is not None:
            node.op_type = "ReduceSumSquare"
            node.input[0] = square.input[0]


def _maker(graph, node, operator):
    """Returns the node of an operator that makes the first input of a node, or None."""
    makers = (x for x in graph.node if x.op_type == operator and x.output[0] == node.input[0])
    return next(makers, None)


def _square(graph, node):
    """Returns the node that squares what a node adds, or None."""
    square = _maker(graph, node, "Mul") if node.op_type == "ReduceSum" else None
    return square if square is not None and square.input[0] == square.input[1] else None


def _is_for_gradient(graph, node, values):
    """Tells whether a node bounds a sum of squares whose root may as well be zero."""
    total, roots = _maker(graph, node, "ReduceSum"), _readers(graph, node)
    if total is None or _square(graph, total) is None or {x.op_type for x in roots} != {"Sqrt"}:
        return False
    if any(value.name == node.output[0] for value in graph.output):
        return False
    return all(
        (x.op_type == "Div" and x.input[1] != root.output[0])
        or (x.op_type == "Sub" and values.get(x.input[1]) == _LENGTH)
        for root in roots
        for x in _readers(graph, root)
    )


def _readers(graph, node):
    return [x for x in graph.node if node.output[0] in x.input]


def _pass_by(graph, node):
    """Removes a node; what read its result reads its first input."""
    graph.node.remove(node)
    old, new = node.output[0], node.input[0]
    if any(value.name == old for value in graph.output):  # The name of an output has to stay.
        old, new = new, old
    for other in graph.node:
        for names in (other.input, other.output):
            names[:] = [new if name == old else name for name in names]
