"""The calls of layers that lead to the outputs of a functional model.

A layer's own `input` and `output` are those of its first call, in whichever graph that was. A
model's own calls are found by walking from its outputs back to its inputs.
"""

import dataclasses

import keras

from kcaps.layers import CapsuleLength, DigitCaps


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer in a graph.

    Args:
        layer: The layer.
        inputs: List of the `keras.KerasTensor`s that it was called on.
        outputs: List of the `keras.KerasTensor`s that came of it.
    """

    layer: keras.layers.Layer
    inputs: list
    outputs: list


def calls(outputs, kind: type) -> list[Call]:
    """Returns the calls of layers of a kind that lead to some tensors, each after those before it.

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
        operation, index, _ = tensor._keras_history
        if operation is None or (not is_done and (id(operation), index) in seen):
            continue
        node = operation._inbound_nodes[index]
        if is_done:
            if isinstance(operation, kind):
                found.append(Call(operation, list(node.input_tensors), list(node.outputs)))
            continue
        seen.add((id(operation), index))
        stack.append((tensor, True))
        stack += [(source, False) for source in reversed(node.input_tensors)]
    return found


def class_calls(outputs) -> list[Call]:
    """Returns the calls of `DigitCaps` that may be a model's class capsules: one, if it is clear.

    They are those whose lengths are an output, by `CapsuleLength`; of a model without such an
    output, those that no other `DigitCaps` comes after.

    Args:
        outputs: The model's `output`.

    Returns:
        List of `Call`.
    """
    candidates = calls(outputs, DigitCaps)
    measured = {id(tensor) for call in length_calls(outputs) for tensor in call.inputs}
    with_lengths = [call for call in candidates if id(call.outputs[0]) in measured]
    if with_lengths:
        return with_lengths
    followed = set()
    for call in candidates:
        followed |= {id(before.outputs[0]) for before in calls(call.inputs, DigitCaps)}
    return [call for call in candidates if id(call.outputs[0]) not in followed]


def length_calls(outputs) -> list[Call]:
    """Returns the calls of `CapsuleLength` whose result is itself one of some outputs."""
    ends = {id(tensor) for tensor in keras.tree.flatten(outputs)}
    return [call for call in calls(outputs, CapsuleLength) if id(call.outputs[0]) in ends]
