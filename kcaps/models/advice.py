"""Words for those whose data or sizes a reference network was not made for."""

import math
import warnings
import weakref

import keras
import numpy as np

from kcaps.models.targets import as_array

_LARGEST_PIXEL = 255.0
# Weights of class capsules beyond which a network is larger than its images are worth.
_MANY_WEIGHTS = 10_000_000
# Models that were warned of: an attribute would be saved with them.
_WARNED = weakref.WeakSet()


def on_pixels(model: keras.Model, x) -> None:
    """Warns, once for a model, of pixels from 0 to 1 where it divides them by 255.

    Args:
        model: A functional model.
        x: Its inputs, of which arrays are looked at.
    """
    if model in _WARNED or len(model.inputs) != 1 or not _divides_pixels(model):
        return
    parts = keras.tree.flatten(x) if isinstance(x, dict | list | tuple) else [x]
    images = as_array(parts[0]) if len(parts) == 1 else None
    if images is None or images.dtype.kind not in "iufb" or not images.size:
        return
    if 0 < images.max() <= 1:
        _WARNED.add(model)
        warnings.warn(
            f"Model {model.name!r} divides its inputs by 255, and takes raw pixels from 0 to 255. "
            f"Received: images with pixels of at most {images.max():g}. Multiply them by 255.",
            stacklevel=3,
        )


def _divides_pixels(model):
    for layer in model.layers:
        if type(layer) is keras.layers.Rescaling and np.ndim(layer.scale) == 0:
            reads_input = any(layer.input is tensor for tensor in model.inputs)
            if reads_input and math.isclose(layer.scale * _LARGEST_PIXEL, 1, rel_tol=1e-6):
                return True
    return False


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
