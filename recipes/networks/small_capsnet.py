"""A small capsule network for small images, and the shifts that it is trained on."""

import math

import keras
from keras import layers

from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.models.architectures import PIXEL_MAX, decoder
from kcaps.routing import Routing
from pictures_of.augmentation import half_pixel

SHIFT = half_pixel()  # of the small images that it is trained on


def small_capsnet(
    input_shape: tuple,
    num_classes: int,
    routing: str | Routing = "dynamic",
    capsule_dim: int = 16,
    decoder_units: tuple | None = (256, 512),
) -> CapsNet:
    """Returns conv → PrimaryCaps, 8 types of 8 components → DigitCaps → lengths, and a decoder.

    Windows are 3 × 3 on images of few pixels, and 9 × 9, the second with stride 2, on others.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        routing: Routing of the class capsules, as for `DigitCaps`.
        capsule_dim: Components of a class capsule.
        decoder_units: Hidden units of the decoder, or None for no decoder.

    Returns:
        A `CapsNet` of raw pixels 0 to 255, not compiled.
    """
    kernel_size, strides = (3, 1) if min(input_shape[:2]) < 17 else (9, 2)
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / PIXEL_MAX)(image)
    x = layers.Conv2D(64, kernel_size, activation="relu", kernel_initializer="he_normal")(x)
    capsules = PrimaryCaps(8, capsule_dim=8, kernel_size=kernel_size, strides=strides)(x)
    poses = DigitCaps(num_classes, capsule_dim, routing=routing)(capsules)
    return CapsNet(
        image,
        CapsuleLength(name="class_lengths")(poses),
        decoder=decoder_units and decoder(num_classes, capsule_dim, input_shape, decoder_units),
        # 12 × the mean squared error of pixels in [0, 1]: with the reference network's weight, a
        # thirtieth of this, capsules hold little beside their class; with five times this, they
        # tell the classes apart less well.
        reconstruction_weight=12 / math.prod(input_shape) / PIXEL_MAX**2,
    )
