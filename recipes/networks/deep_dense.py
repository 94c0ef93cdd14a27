"""The convolution blocks of the deep capsule network under a dense layer, the control for it."""

import keras
from keras import layers

from kcaps.models import deep_capsnet

_SCALE = 1 / 9  # of the features, so that the first logits are small


def deep_dense(
    input_shape: tuple, num_classes: int, is_pooled: bool = True, **options: object
) -> keras.Model:
    """Returns the network of `deep_capsnet` with a dense layer in the place of the capsules.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        is_pooled: Whether the layer is on the maximum of each feature over all positions, as in
            Jordan's networks, or on the features of all positions. Defaults to True.
        **options: Further arguments of `deep_capsnet`.

    Returns:
        A `keras.Model` from raw images to logits, not compiled.

    Reference:

    - [Jordan, 2024](https://arxiv.org/abs/2404.00498), section 3.
    """
    capsules = deep_capsnet(input_shape, num_classes, **options)
    maps = capsules.get_layer("strongest_features").input
    x = layers.GlobalMaxPooling2D()(maps) if is_pooled else layers.Flatten()(maps)
    x = layers.Rescaling(_SCALE, dtype="float32")(x)
    logits = layers.Dense(num_classes, use_bias=False, dtype="float32", name="logits")(x)
    return keras.Model(capsules.input, logits, name="deep_dense")
