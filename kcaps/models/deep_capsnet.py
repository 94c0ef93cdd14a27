"""The deep capsule network: convolution blocks of today below capsules."""

import keras
from keras import layers

from kcaps.initializers import PartialIdentity
from kcaps.layers import (
    CapsuleLength,
    ConstantCaps,
    DigitCaps,
    FusedBatchNormalization,
    PrimaryCaps,
    QuickGELU,
    Whitening,
)
from kcaps.models import pretrained
from kcaps.models.architectures import check_images
from kcaps.models.capsnet import CapsNet
from kcaps.routing import Routing
from kcaps.validation import is_sequence, positive_int

_SMALLEST = 8  # pixels of an image's height and width
_WIDEST_MAP = 4  # positions of the last map in height and in width, at most
_NUM_PRIMARY, _PRIMARY_DIM, _CLASS_DIM = 32, 8, 16
# Of the largest features over all positions: they are of order two, and the primary capsules would
# all be nearly of length one, in the flat part of squash.
_FEATURE_SCALE = 0.25


def deep_capsnet(
    input_shape: tuple | None = None,
    num_classes: int | None = None,
    routing: str | dict | Routing = "uniform",
    widths: tuple | None = None,
    convolutions: int | None = None,
    activation: str = "quick_gelu",
    weights: str | None = None,
):
    """Returns a deep capsule network, the one to choose for images of one's own.

    Whitened 2×2 patches → blocks of 3×3 convolutions, each with a maximum over 2×2 after its first
    convolution → the maximum of each feature over all positions → PrimaryCaps, 32 capsules of 8
    components, and ConstantCaps → DigitCaps, 16 components → lengths. Each convolution is followed
    by batch normalisation and the activation, and begins as a partial identity. With three
    convolutions or more in a block, those after the first are bridged.

    The last map has at most 4×4 positions: an axis with no more is not halved, and larger images
    get further blocks of the last width. No layer grows with the image.

    The first layer is `model.get_layer("whitening")`; its `adapt(images)` should see some thousand
    training images before the model trains, see `kcaps.layers.Whitening`.

    Args:
        input_shape: Tuple `(height, width, channels)`, at least 8 × 8. Defaults to that of the
            weights.
        num_classes: Positive integer. Defaults to that of the weights.
        routing: Routing of the class capsules, as for `DigitCaps`. Defaults to `"uniform"`.
        widths: Filters of each block's convolutions. Defaults to those of the weights, or to
            `(64, 256, 256)`.
        convolutions: Convolutions of a block. Defaults to those of the weights, or to 2.
        activation: Activation of the convolutions, `"quick_gelu"` or one that Keras knows.
            Defaults to `"quick_gelu"`, which is `kcaps.layers.QuickGELU`.
        weights: Name of weights that come with kcaps, `"cifar10"`: docs/zoo.md. With another
            `num_classes` or `routing`, the class capsules begin anew. Defaults to None, random
            weights.

    Input shape:
        Images `(batch, height, width, channels)` of pixels in any unit, commonly 0 to 255.

    Output shape:
        Class lengths `(batch, num_classes)`.

    Returns:
        A `kcaps.models.CapsNet` without a decoder, not compiled.

    Raises:
        ValueError: for an image that is too small, a size that is not a positive integer, or
            weights that there are not or that do not fit.

    Example:

    >>> model = deep_capsnet((32, 32, 3), 10, widths=(16, 32, 32))
    >>> model.get_layer("whitening").adapt(np.random.default_rng(0).uniform(0, 255, (9, 32, 32, 3)))
    >>> model.compile("adam", loss="length_cross_entropy", metrics=["accuracy"])
    >>> model.output_shape, model.class_inputs.shape
    ((None, 10), (None, 33, 8))

    Reference:

    - [Jordan, 2024](https://arxiv.org/abs/2404.00498), whose convolutional blocks these are.
    """
    card = pretrained.card_of("deep_capsnet", weights)
    input_shape, num_classes, widths, convolutions, activation = pretrained.arguments_of(
        card,
        {"widths": (64, 256, 256), "convolutions": 2},
        input_shape=input_shape,
        num_classes=num_classes,
        widths=widths,
        convolutions=convolutions,
        activation=activation,
    )
    check_images(input_shape, _SMALLEST, "the blocks must fit")
    num_classes = positive_int("num_classes", num_classes)
    convolutions = positive_int("convolutions", convolutions)
    widths = _checked_widths(widths)

    image = keras.Input(input_shape, name="image")
    x = _activated(Whitening(name="whitening")(image), activation)
    number = 0
    while number < len(widths) or max(x.shape[1:3]) > _WIDEST_MAP:
        x = _block(x, widths[min(number, len(widths) - 1)], convolutions, activation)
        number += 1
    x = layers.GlobalMaxPooling2D(keepdims=True, name="strongest_features")(x)
    x = layers.Rescaling(_FEATURE_SCALE)(x)
    capsules = PrimaryCaps(_NUM_PRIMARY, _PRIMARY_DIM, kernel_size=1, name="primary_caps")(x)
    capsules = ConstantCaps(name="constant_caps")(capsules)
    poses = DigitCaps(num_classes, _CLASS_DIM, routing=routing, name="digit_caps")(capsules)
    model = CapsNet(image, CapsuleLength(name="class_lengths")(poses), name="deep_capsnet")
    return pretrained.fill(model, card)


def _block(x, filters, convolutions, activation):
    """Returns the maps after a block of convolutions, halved where they are wide."""
    x = _convolution(x, filters)
    window = tuple(2 if size > _WIDEST_MAP else 1 for size in x.shape[1:3])
    if max(window) > 1:
        x = layers.MaxPooling2D(window)(x)
    x = _activated(_normalized(x), activation)
    bridged = x if convolutions > 2 else None
    for number in range(1, convolutions):
        x = _normalized(_convolution(x, filters))
        if bridged is not None and number == convolutions - 1:
            x = layers.Add()([x, bridged])
        x = _activated(x, activation)
    return x


def _convolution(x, filters):
    """Returns maps after a 3×3 convolution that begins as a partial identity."""
    return layers.Conv2D(
        filters, 3, padding="same", use_bias=False, kernel_initializer=PartialIdentity()
    )(x)


def _activated(x, activation):
    """Returns maps after the activation of a name."""
    layer = QuickGELU() if activation == "quick_gelu" else layers.Activation(activation)
    return layer(x)


def _normalized(x):
    """Returns normalised maps: by averages of few steps, and biases that move far in each.

    Both are for trainings of a few thousand steps.
    """
    return FusedBatchNormalization(momentum=0.6, epsilon=1e-5, scale=False, bias_scale=8.0)(x)


def _checked_widths(widths):
    """Returns the widths as a tuple, or raises a `ValueError`."""
    if not is_sequence(widths) or not len(widths):
        raise ValueError(
            "`widths` must be the filters of each block, positive integers. Received: "
            f"widths={widths!r}."
        )
    return tuple(positive_int("widths", width) for width in widths)
