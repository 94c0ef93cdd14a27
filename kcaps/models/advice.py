"""Words for those whose data or sizes a reference network was not made for."""

import math
import warnings
import weakref

import keras
import numpy as np

from kcaps.graph import calls, matched
from kcaps.models.targets import as_array

_LARGEST_PIXEL = 255.0
# Weights of class capsules beyond which a network is larger than its images are worth.
_MANY_WEIGHTS = 10_000_000
# By model, the inputs whose pixels are still to be looked at: walking the graph for each batch
# would take time, and an attribute would be saved with the model.
_TO_CHECK = weakref.WeakKeyDictionary()


def on_pixels(model: keras.Model, x) -> None:
    """Warns, once for a model, of pixels from 0 to 1 where it divides them by 255.

    Args:
        model: A functional model.
        x: Its inputs, of which arrays are looked at.
    """
    if model not in _TO_CHECK:
        _TO_CHECK[model] = _divided_inputs(model)
    divided = _TO_CHECK[model]
    if not divided:
        return
    flat = keras.tree.flatten(matched(x, model.input))
    if len(flat) != len(model.inputs):  # a stream, or a list of numbers
        return
    for tensor, data in zip(model.inputs, flat, strict=True):
        images = as_array(data) if id(tensor) in divided else None
        if images is None or images.dtype.kind not in "iufb" or not images.size:
            continue
        least, largest = np.fmin.reduce(images, axis=None), np.fmax.reduce(images, axis=None)
        if 0 < largest <= 1:
            _TO_CHECK[model] = set()
            warnings.warn(
                f"Model {model.name!r} divides its inputs by 255: it takes raw pixels from 0 to "
                "255, as they are read from a file. Received: images with pixels from "
                f"{float(least):g} to {float(largest):g}.",
                stacklevel=4,
            )
            return


def _divided_inputs(model):
    """Identities of the input tensors that the model itself divides by 255."""
    inputs = {id(tensor) for tensor in model.inputs}
    return {
        id(call.inputs[0])
        for call in calls(model.output, keras.layers.Rescaling)
        if id(call.inputs[0]) in inputs
        and np.ndim(call.layer.scale) == 0
        and math.isclose(call.layer.scale * _LARGEST_PIXEL, 1, rel_tol=1e-6)
    }


def on_size(model: keras.Model, show) -> None:
    """Says below a summary when class capsules are too many weights for images of this size.

    Args:
        model: A `CapsNet`.
        show: Function that prints a line.
    """
    layer = model.class_layer
    if layer is None or not layer.built or math.prod(layer.kernel.shape) < _MANY_WEIGHTS:
        return
    num_inputs = layer.kernel.shape[0]
    show(
        f"Note: {layer.name} has {math.prod(layer.kernel.shape):,} weights, a matrix for each pair "
        f"of one of its {num_inputs:,} input capsules and a class, and the input capsules grow "
        "with the image. For larger images put capsules on a network that makes its maps small: "
        "docs/networks.md has examples."
    )
