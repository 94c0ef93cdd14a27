"""Networks of `keras.applications` below capsules."""

import inspect
import os

import keras
import numpy as np
from keras import layers

from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.routing import Routing

_PRIMARY_DIM, _CLASS_DIM = 8, 16
_MOST_TYPES, _CAPSULES = 32, 512  # of primary capsules
# Keras' own, of up to 0.999, is for trainings of many thousand steps.
_MOMENTUM = 0.9


class WeightsError(ValueError):
    """Weights that are not there, or are not those of the network."""


def names() -> list[str]:
    """Returns the names of the networks of `keras.applications`."""
    return sorted(name for name in dir(keras.applications) if name[0].isupper())


def on_backbone(
    name: str,
    input_shape: tuple,
    num_classes: int,
    routing: str | Routing = "uniform",
    weights: str | None = None,
    is_frozen: bool = False,
) -> CapsNet:
    """Returns backbone → PrimaryCaps 1×1, 8 components → DigitCaps, 16 components → lengths.

    What the backbone does to pixels before its first layer is in the model, which takes raw pixels
    from 0 to 255. Grey images are given to its three channels alike.

    Args:
        name: One of `names()`.
        input_shape: Tuple `(height, width, channels)` with 1 or 3 channels.
        num_classes: Positive integer.
        routing: Routing of the class capsules, as for `DigitCaps`.
        weights: File of weights without the top layers, `"imagenet"`, which Keras downloads, or
            None for random ones.
        is_frozen: Whether the weights of the backbone do not train.

    Returns:
        A `CapsNet`, not compiled.

    Raises:
        ValueError: for images that are too small.
        WeightsError: for weights that are not there, or of another network.
    """
    backbone = _backbone(name, input_shape, weights)
    backbone.trainable = not is_frozen
    image = keras.Input(input_shape, name="image")
    maps = backbone(_prepared(image, name))
    positions = maps.shape[1] * maps.shape[2]
    if not positions:
        raise ValueError(f"{name} leaves nothing of images of {input_shape}.")
    types = max(4, min(_MOST_TYPES, _CAPSULES // positions))
    capsules = PrimaryCaps(types, _PRIMARY_DIM, kernel_size=1, name="primary_caps")(maps)
    poses = DigitCaps(num_classes, _CLASS_DIM, routing=routing, name="digit_caps")(capsules)
    return CapsNet(image, CapsuleLength(name="class_lengths")(poses), name="capsules_on_backbone")


def _backbone(name, input_shape, weights):
    """Returns the network without its top layers."""
    make = getattr(keras.applications, name)
    if weights not in (None, "imagenet") and not os.path.isfile(weights):
        raise WeightsError(f"`weights` must be a file, or imagenet. Received: {weights}.")
    shape = (*input_shape[:2], 3)
    try:
        backbone = make(include_top=False, weights=None, input_shape=shape, name="backbone")
    except ValueError as error:  # Keras knows how small an image each of them takes.
        raise ValueError(f"{name} cannot take images of {input_shape}: {error}") from error
    try:
        if weights == "imagenet":
            # Its files are for the names of layers that Keras gives by default.
            backbone = make(include_top=False, weights="imagenet", input_shape=shape)
        elif weights:
            backbone.load_weights(weights)
    except Exception as error:  # files and downloads fail in many ways
        reason = " ".join(str(error).split()).partition(". ")[0][:200].removesuffix(".")
        raise WeightsError(
            f"{weights} gives no weights to {name} without top: {reason}. Give those of "
            f"keras.applications.{name}(include_top=False)."
        ) from error
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = min(layer.momentum, _MOMENTUM)
    return backbone


def _prepared(image, name):
    """Returns images as the network of a name takes them, by a convolution that does not train."""
    function = _preprocessing(name)
    zero = function(np.zeros((1, 1, 1, 3), "float32"))[0, 0, 0]
    # What each of the three channels becomes: this is a scale, an offset, or another order.
    units = function(255 * np.eye(3, dtype="float32")[:, None, None])[:, 0, 0]
    kernel = (units - zero) / 255
    if image.shape[-1] == 1:
        kernel = kernel.sum(0, keepdims=True)
    elif not zero.any() and np.array_equal(kernel, np.eye(3)):
        return image
    return layers.Conv2D(
        3,
        1,
        kernel_initializer=keras.initializers.Constant(kernel[None, None].tolist()),
        bias_initializer=keras.initializers.Constant(zero.tolist()),
        trainable=False,
        dtype="float32",
        name="preprocessing",
    )(image)


def _preprocessing(name):
    """Returns the function of `keras.applications` that prepares images for a network."""
    modules = dict(inspect.getmembers(keras.applications, inspect.ismodule))
    # That of MobileNetV3 does not hold its networks.
    named = [key for key in modules if name.lower().startswith(key.replace("_", ""))]
    holding = [key for key in modules if hasattr(modules[key], name)]
    return modules[(holding or sorted(named, key=len))[-1]].preprocess_input
