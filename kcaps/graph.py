"""Finds the calls of layers that lead to the outputs of a functional model.

A layer's own `input` and `output` are those of its first call, in whichever graph that was. A
model's own calls are found by walking from its outputs back to its inputs.
"""

import dataclasses

import keras

from kcaps.backend.keras_private import origin
from kcaps.layers import CapsuleLength, DigitCaps


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer in a graph.

    Args:
        layer: The layer.
        inputs: List of the `keras.KerasTensor`s that it was called on.
        outputs: List of the `keras.KerasTensor`s that came of it.
        options: Dict of the keyword arguments of the call, such as `training`.
    """

    layer: keras.layers.Layer
    inputs: list
    outputs: list
    options: dict


def calls(outputs, kind: type) -> list[Call]:
    """Returns the calls of layers of a kind that lead to some tensors, in the order of the graph.

    Args:
        outputs: Structure of `keras.KerasTensor`s, such as a model's `output`.
        kind: Class of the layers.

    Returns:
        List of `Call`. Layers inside of other layers and models are not searched for.
    """
    found, seen = [], set()
    stack = [(tensor, False) for tensor in reversed(keras.tree.flatten(outputs))]
    while stack:
        tensor, is_done = stack.pop()
        operation, node = origin(tensor)
        if operation is None or (not is_done and id(node) in seen):
            continue
        if is_done:
            if isinstance(operation, kind):
                sources, results = list(node.input_tensors), list(node.outputs)
                found.append(Call(operation, sources, results, node.arguments.kwargs))
            continue
        seen.add(id(node))
        stack.append((tensor, True))
        stack += [(source, False) for source in reversed(node.input_tensors)]
    return found


def class_calls(outputs) -> list[Call]:
    """Returns the calls of `DigitCaps` that may be a model's class capsules: one, if it is clear.

    They are those whose lengths are an output, by `CapsuleLength`; of a model without such an
    output, those that no other `DigitCaps` comes after.
    """
    candidates = calls(outputs, DigitCaps)
    measured = {id(tensor) for call in length_calls(outputs) for tensor in call.inputs}
    with_lengths = [call for call in candidates if id(call.outputs[0]) in measured]
    if with_lengths:
        return with_lengths
    followed = set()
    for call in candidates:
        followed |= {id(earlier.outputs[0]) for earlier in calls(call.inputs, DigitCaps)}
    return [call for call in candidates if id(call.outputs[0]) not in followed]


def length_calls(outputs) -> list[Call]:
    """Returns the calls of `CapsuleLength` whose result is itself one of some outputs."""
    ends = {id(tensor) for tensor in keras.tree.flatten(outputs)}
    return [call for call in calls(outputs, CapsuleLength) if id(call.outputs[0]) in ends]


def matched(x, model_input):
    """Returns inputs in the structure of a model's own, each at the place of its name.

    Keras flattens dicts in the order of their keys. Of a dict for a list of inputs it asks for the
    names; of a dict for a dict it does not, so that a surplus key would move the others to the
    wrong inputs, and neither does it for nested inputs.

    Args:
        x: Inputs as a user gives them: a tensor, or a list or dict of tensors.
        model_input: The model's `input`.
    """
    if isinstance(model_input, keras.KerasTensor):
        if isinstance(x, dict) and model_input.name in x:
            return x[model_input.name]
        return x[0] if isinstance(x, list | tuple) and len(x) == 1 else x
    if not isinstance(x, dict):
        return x
    if isinstance(model_input, dict) and set(model_input) <= set(x):
        return {key: matched(x[key], part) for key, part in model_input.items()}
    names = [tensor.name for tensor in keras.tree.flatten(model_input)]
    if set(names) <= set(x):
        return keras.tree.pack_sequence_as(model_input, [x[name] for name in names])
    return x


def in_order(model_input) -> list[keras.KerasTensor]:
    """Returns the tensors of a model's `input` in its own order, not that of sorted keys."""
    if isinstance(model_input, dict):
        model_input = list(model_input.values())
    if isinstance(model_input, list | tuple):
        return [tensor for part in model_input for tensor in in_order(part)]
    return [model_input]
