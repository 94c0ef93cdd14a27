"""Networks without capsules that recipes compare capsules with: from raw pixels to logits.

References:

- Daza, "Deep Learning Assignment 1: MLPs, CNNs and Backpropagation".
- [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 4.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

# PyTorch draws weights from U(-1/√fan_in, 1/√fan_in).
TORCH_INITIALIZER = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1 / 3, "mode": "fan_in", "distribution": "uniform"},
}
VGG_FILTERS = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def mlp(
    input_shape: tuple,
    num_classes: int,
    units: Sequence[int],
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    kernel_initializer: str | dict | keras.Initializer = "he_normal",
    mean: np.ndarray | None = None,
) -> keras.Model:
    """Returns a multi-layer perceptron with ReLU.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        units: Units of each hidden layer, a list.
        dropout: Share of the last hidden layer's units that is dropped in training.
        weight_decay: λ of the gradient λw that is added for all weights and biases, in Adam before
            its moments: the penalty λ/2 ‖w‖² in the loss. (`keras.optimizers.AdamW` is another
            method.)
        kernel_initializer: Initialiser of all kernels.
        mean: Mean of the training images, which is subtracted from each image, or None.

    Returns:
        A `keras.Model` from raw images to logits, not compiled.
    """
    penalty = keras.regularizers.L2(weight_decay / 2) if weight_decay else None

    def dense(width, **options):
        return layers.Dense(
            width,
            kernel_initializer=_fresh(kernel_initializer),
            kernel_regularizer=penalty,
            bias_regularizer=penalty,
            **options,
        )

    image = keras.Input(input_shape, name="image")
    x = layers.Flatten()(_centred(image, mean))
    for width in units:
        x = dense(width, activation="relu")(x)
    if dropout:
        x = layers.Dropout(dropout)(x)
    return keras.Model(image, dense(num_classes, name="logits")(x), name="mlp")


def vgg(
    input_shape: tuple,
    num_classes: int,
    batch_normalization: bool = True,
    kernel_initializer: str | dict | keras.Initializer = "he_normal",
    mean: np.ndarray | None = None,
) -> keras.Model:
    """Returns a VGG-like network: eight convolutions, five times halved by max pooling.

    On `(32, 32, 3)` and 10 classes: 9,231,114 trainable parameters, as published, beside 5,504
    moving averages; 9,225,610 without batch normalisation.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        batch_normalization: Whether each convolution is normalised before its ReLU.
        kernel_initializer: Initialiser of all kernels.
        mean: Mean of the training images, which is subtracted from each image, or None.

    Returns:
        A `keras.Model` from raw images to logits, not compiled.
    """
    image = keras.Input(input_shape, name="image")
    x = _centred(image, mean)
    for block in VGG_FILTERS:
        for filters in block:
            x = layers.Conv2D(
                filters, 3, padding="same", kernel_initializer=_fresh(kernel_initializer)
            )(x)
            if batch_normalization:
                # The momentum and ε of PyTorch: 5,000 steps are few for Keras' slower average.
                x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
            x = layers.ReLU()(x)
        # One pixel on each side. Keras' own "same" would pad only one of them; zeros do for -∞
        # after ReLU.
        x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    x = layers.Flatten()(x)
    logits = layers.Dense(
        num_classes, kernel_initializer=_fresh(kernel_initializer), name="logits"
    )(x)
    return keras.Model(image, logits, name="vgg")


def sabour_cnn(
    input_shape: tuple,
    num_classes: int,
    filters: Sequence[int] = (256, 256, 128),
    units: Sequence[int] = (328, 192),
    dropout: float = 0.5,
) -> keras.Model:
    """Returns the baseline of Sabour et al.: convolutions 5×5 of stride 1, dense layers, ReLU.

    On `(28, 28, 1)` and 10 classes: 35,445,522 parameters, 35.4 million as published. That number
    tells that the convolutions keep the image's size; the paper does not say it, nor the share of
    units that are dropped.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        filters: Filters of each convolution, a list.
        units: Units of each dense layer, a list.
        dropout: Share of the last dense layer's units that is dropped in training.

    Returns:
        A `keras.Model` from raw images to logits, not compiled.
    """
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 255)(image)
    options = {"activation": "relu", "kernel_initializer": "he_normal"}
    for count in filters:
        x = layers.Conv2D(count, 5, padding="same", **options)(x)
    x = layers.Flatten()(x)
    for width in units:
        x = layers.Dense(width, **options)(x)
    x = layers.Dropout(dropout)(x)
    logits = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, logits, name="sabour_cnn")


def with_probabilities(network: keras.Model) -> keras.Model:
    """Returns the network for inference: softmax of its logits, the weights shared."""
    probabilities = layers.Softmax(name="probabilities")(network.output)
    return keras.Model(network.input, probabilities, name=network.name)


def _centred(image, mean):
    if mean is None:
        return image
    return layers.Rescaling(1.0, offset=-np.asarray(mean, "float32"), name="centred")(image)


def _fresh(initializer):
    """Returns an initialiser for one layer: one that is shared would draw the same values."""
    return keras.initializers.get(initializer).clone()
