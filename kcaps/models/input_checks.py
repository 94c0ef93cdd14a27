"""Checks of the data that a `CapsNet` trains on and judges, before Keras sees them."""

import math
import warnings
import weakref

import keras
import numpy as np

from kcaps.graph import calls, matched
from kcaps.layers import Whitening
from kcaps.losses import LOSSES
from kcaps.models.objectives import class_labels, needs_labels
from kcaps.models.targets import as_array, as_arrays, check_labels, without_name

_LARGEST_PIXEL = 255.0
# Inputs whose pixels are still to be looked at, with the layers that take them, by model: walking
# the graph for each batch would take time, and an attribute would be saved with the model.
_UNCHECKED_INPUTS = weakref.WeakKeyDictionary()


def checked_targets(model: keras.Model, x, y, training: bool = False):
    """Refuses labels that are no classes, and warns of pixels in the wrong unit.

    Targets of another task pass; where a decoder or the routing objective needs labels in training,
    targets without them do not. Batches of a stream cannot be read here.

    Args:
        model: A `CapsNet`.
        x: Its inputs, of which arrays are looked at.
        y: Targets, or None for a stream that has them.
        training: Whether the model is to train on them.

    Returns:
        The targets in a form that Keras reads as such.

    Raises:
        ValueError: for labels that are missing or no classes.
    """
    y = as_arrays(without_name(y, model.output_names), model.output_shape)
    warn_of_small_pixels(model, x)
    losses = getattr(model, "loss", None)
    if y is None:
        parts = keras.tree.flatten(x) if isinstance(x, dict | list | tuple) else [x]
        if losses is not None and all(as_array(part) is not None for part in parts):
            raise ValueError("`y` must be the labels of the examples. Received: y=None.")
        return y
    output = model._class_graph and model._class_graph.output
    if training and needs_labels(model):
        check_labels(class_labels(model, y), output.num_capsules, exact=True)
    elif output is not None:
        loss = output.loss(losses)
        if output.is_length or _tells_classes(loss):
            _check_unless_ignored(output.of(y, losses), output.num_capsules, loss)
    elif isinstance(model.output, keras.KerasTensor) and _tells_classes(losses):
        if len(model.output.shape) == 2:
            _check_unless_ignored(y, model.output.shape[1], losses)
    return y


def _check_unless_ignored(labels, num_classes, loss):
    """Refuses labels that are no classes, unless the loss ignores one of them."""
    if getattr(loss, "ignore_class", None) is None:
        check_labels(labels, num_classes)


def _tells_classes(loss):
    """Returns whether a loss compares an output with classes."""
    names = "sparse_categorical_crossentropy", *LOSSES
    return isinstance(loss, (keras.losses.SparseCategoricalCrossentropy, *LOSSES.values())) or (
        isinstance(loss, str) and loss in names
    )


def warn_of_small_pixels(model: keras.Model, x) -> None:
    """Warns, once for a model, of pixels from 0 to 1 where it is made for pixels from 0 to 255.

    Args:
        model: A functional model.
        x: Its inputs, of which arrays are looked at.
    """
    if model not in _UNCHECKED_INPUTS:
        _UNCHECKED_INPUTS[model] = _inputs_of_raw_pixels(model)
    raw = _UNCHECKED_INPUTS[model]
    if not raw:
        return
    flat = keras.tree.flatten(matched(x, model.input))
    if len(flat) != len(model.inputs):  # It is a stream, or a list of numbers.
        return
    for tensor, data in zip(model.inputs, flat, strict=True):
        images = as_array(data) if id(tensor) in raw else None
        if images is None or images.dtype.kind not in "iufb" or not images.size:
            continue
        least, largest = np.fmin.reduce(images, axis=None), np.fmax.reduce(images, axis=None)
        if 0 < largest <= 1 and (reason := _reason(raw[id(tensor)])):
            _UNCHECKED_INPUTS[model] = {}
            warnings.warn(
                f"Model {model.name!r} {reason}. Received: images with pixels from "
                f"{float(least):g} to {float(largest):g}.",
                stacklevel=4,
            )
            return


def _inputs_of_raw_pixels(model):
    """Returns the layers that take raw pixels, by the identities of the input tensors they take."""
    inputs = {id(tensor) for tensor in model.inputs}
    divided = [
        call
        for call in calls(model.output, keras.layers.Rescaling)
        if np.ndim(call.layer.scale) == 0
        and math.isclose(call.layer.scale * _LARGEST_PIXEL, 1, rel_tol=1e-6)
    ]
    found = {id(call.inputs[0]): call.layer for call in calls(model.output, Whitening) + divided}
    return {name: layer for name, layer in found.items() if name in inputs}


def _reason(layer):
    """Returns why a layer takes raw pixels, or None for one that was adapted to smaller ones."""
    raw = "it takes raw pixels from 0 to 255, as they are read from a file"
    if not isinstance(layer, Whitening):
        return f"divides its inputs by 255: {raw}"
    mean = float(np.max(keras.ops.convert_to_numpy(layer.mean)))
    adapted = f"before training, its layer {layer.name!r} can be adapted to others"
    return f"subtracts a mean of {mean:.3g} from its inputs: {raw}; {adapted}" if mean > 1 else None
