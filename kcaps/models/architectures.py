"""Reference architectures: functions that return a `CapsNet`."""

import math

import keras
from keras import layers

from kcaps.activations import exponential_squash
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import pretrained
from kcaps.models.capsnet import CapsNet
from kcaps.routing import Routing
from kcaps.validation import positive_int

PIXEL_MAX = 255.0


def decoder(num_capsules: int, capsule_dim: int, image_shape: tuple, units: tuple = (512, 1024)):
    """Returns a fully connected decoder from masked class poses to images of pixels 0 to 255.

    Args:
        num_capsules: Number of class capsules.
        capsule_dim: Components of a class capsule.
        image_shape: Tuple `(height, width, channels)`.
        units: Units of the hidden layers. Defaults to `(512, 1024)`.

    Returns:
        A `keras.Model` from `(batch, num_capsules, capsule_dim)` to `(batch, *image_shape)`.

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), figure 2.
    """
    poses = keras.Input((num_capsules, capsule_dim), name="masked_poses")
    x = layers.Flatten()(poses)
    for width in units:
        x = layers.Dense(width, activation="relu", kernel_initializer="he_normal")(x)
    x = layers.Dense(math.prod(image_shape), activation="sigmoid")(x)
    # Pixels of half precision are too coarse: their steps are 1/8 at 255.
    x = layers.Reshape(image_shape, dtype="float32")(x)
    image = layers.Rescaling(PIXEL_MAX, dtype="float32", name="reconstruction")(x)
    return keras.Model(poses, image, name="decoder")


def capsnet(
    input_shape: tuple,
    num_classes: int,
    routing: str | dict | Routing = "dynamic",
    filters: int = 256,
    num_primary_capsules: int = 32,
    activation: str = "relu",
    decoder_units: tuple | None = (512, 1024),
):
    """Returns the capsule network of Sabour et al., which Yang et al. use for all routings.

    Conv 9×9 → PrimaryCaps 9×9, stride 2, 8 components → DigitCaps, 16 components → lengths, with
    a decoder as a regulariser. On `(28, 28, 1)` and 10 classes: 6,804,224 parameters in the
    network and 1,411,344 in the decoder, and with `"l1"` or `"l2"` 11,520 coupling coefficients.

    Its weights grow with the image: on `(96, 96, 3)` they are 67 million. For larger images take
    `efficient_capsnet`, or put capsules on a network that makes its maps small, such as one of
    `keras.applications`: docs/networks.md has examples.

    Args:
        input_shape: Tuple `(height, width, channels)`, at least 17 × 17.
        num_classes: Positive integer.
        routing: Routing of the class capsules, as for `DigitCaps`. Defaults to `"dynamic"`.
        filters: Filters of the first convolution. Defaults to 256.
        num_primary_capsules: Types of primary capsules. Defaults to 32; the papers use 64 on
            CIFAR-10.
        activation: Activation of the first convolution. Defaults to `"relu"`; Yang et al. use
            `"leaky_relu"` on CIFAR-10.
        decoder_units: Hidden units of the decoder, or None for no decoder.

    Input shape:
        Images `(batch, height, width, channels)` of raw pixels 0 to 255: the model rescales them.

    Output shape:
        Class lengths `(batch, num_classes)`.

    Returns:
        A `kcaps.models.CapsNet`, not compiled.

    Raises:
        ValueError: for an image too small for the two convolutions, or a size that is not a
            positive integer.

    Example:

    >>> model = capsnet((28, 28, 1), 10, routing="l1")
    >>> model.compile("adam", metrics=["accuracy"], routing_learning_rate=1e-4)
    >>> model.output_shape, model.class_poses.shape
    ((None, 10), (None, 10, 16))

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), figure 1.
    - [Yang et al., 2021](https://arxiv.org/abs/2103.04278), table I.
    """
    check_images(input_shape, 17, "two 9 × 9 windows must fit")
    num_classes = positive_int("num_classes", num_classes)
    filters = positive_int("filters", filters)

    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / PIXEL_MAX)(image)
    # Keras' default scale makes these features, and so the first capsules, small on purpose: from
    # larger starts, the network stayed near chance on CIFAR-10 with Adam at its default rate,
    # mostly with all capsules saturated.
    x = layers.Conv2D(filters, kernel_size=9, activation=activation, name="conv")(x)
    primary = PrimaryCaps(num_primary_capsules, 8, kernel_size=9, strides=2, name="primary_caps")
    poses = DigitCaps(num_classes, 16, routing=routing, name="digit_caps")(primary(x))
    return _network(image, poses, 0.0005, decoder_units, name="capsnet")


def efficient_capsnet(
    input_shape: tuple | None = None,
    num_classes: int | None = None,
    routing: str | dict | Routing = "self_attention",
    num_primary_capsules: int = 16,
    decoder_units: tuple | None = None,
    weights: str | None = None,
):
    """Returns Efficient-CapsNet, of few parameters, with self-attention routing.

    Four convolutions with batch normalisation (32 filters 5×5, 64 3×3, 64 3×3, 128 3×3 with stride
    2) → a depthwise convolution over the whole of what is left, whose channels are the primary
    capsules, 8 components each → DigitCaps, 16 components → lengths. Both kinds of capsules are
    squashed by `kcaps.activations.exponential_squash`. On `(28, 28, 1)` and 10 classes: 161,824
    trainable parameters, as published, beside 576 moving averages.

    Args:
        input_shape: Tuple `(height, width, channels)`, at least 13 × 13. Defaults to that of the
            weights.
        num_classes: Positive integer. Defaults to that of the weights.
        routing: Routing of the class capsules, as for `DigitCaps`. Defaults to
            `"self_attention"`.
        num_primary_capsules: Number of primary capsules. Defaults to 16.
        decoder_units: Hidden units of a decoder; the paper regularises by `(512, 1024)`, which it
            does not count. Defaults to None, no decoder.
        weights: Name of weights that come with kcaps, `"mnist"` or `"fashion_mnist"`: docs/zoo.md.
            With another `num_classes` or `routing`, the class capsules begin anew. Defaults to
            None, random weights.

    Input shape:
        Images `(batch, height, width, channels)` of raw pixels 0 to 255: the model rescales them.

    Output shape:
        Class lengths `(batch, num_classes)`.

    Returns:
        A `kcaps.models.CapsNet`, not compiled.

    Raises:
        ValueError: for an image too small for the convolutions, a size that is not a positive
            integer, or weights that there are not or that do not fit.

    Example:

    >>> model = efficient_capsnet((28, 28, 1), 10)
    >>> model.compile(keras.optimizers.Adam(5e-4), metrics=["accuracy"])
    >>> model.output_shape, model.class_poses.shape
    ((None, 10), (None, 10, 16))

    Reference:

    - [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491), figure 1.
    """
    card = pretrained.card_of("efficient_capsnet", weights)
    input_shape, num_classes = pretrained.arguments_of(
        card, {}, input_shape=input_shape, num_classes=num_classes
    )
    check_images(input_shape, 13, "the convolutions must fit")
    num_classes = positive_int("num_classes", num_classes)
    num_primary_capsules = positive_int("num_primary_capsules", num_primary_capsules)
    primary_dim = 8

    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / PIXEL_MAX)(image)
    filters = (32, 64, 64, num_primary_capsules * primary_dim)
    for width, kernel_size, strides in zip(filters, (5, 3, 3, 3), (1, 1, 1, 2), strict=True):
        x = layers.Conv2D(
            width, kernel_size, strides, activation="relu", kernel_initializer="he_normal"
        )(x)
        x = layers.BatchNormalization()(x)
    window = tuple(x.shape[1:3])
    x = layers.DepthwiseConv2D(window, activation="linear", name="primary_caps")(x)
    x = layers.Reshape((num_primary_capsules, primary_dim))(x)
    capsules = layers.Activation(exponential_squash)(x)
    poses = DigitCaps(num_classes, 16, routing=routing, name="digit_caps")(capsules)
    weight = 0.392 / math.prod(input_shape)
    model = _network(image, poses, weight, decoder_units, name="efficient_capsnet")
    return pretrained.fill(model, card)


def check_images(input_shape, smallest, reason):
    """Raises a `ValueError` for a shape of images that is none, or too small."""
    is_shape = isinstance(input_shape, list | tuple) and len(input_shape) == 3
    sizes = [0]
    if is_shape:  # None is a size that is not known
        sizes = [0 if size is None else positive_int("input_shape", size) for size in input_shape]
    if min(sizes[:2]) < smallest or not sizes[-1]:
        raise ValueError(
            f"`input_shape` must be (height, width, channels) with at least {smallest} × "
            f"{smallest} pixels, because {reason}. Received: input_shape={input_shape!r}."
        )


def _network(image, poses, reconstruction_weight, decoder_units, name):
    """Returns the network from the image to the lengths of its class poses."""
    return CapsNet(
        image,
        CapsuleLength(name="class_lengths")(poses),
        decoder=(
            None
            if decoder_units is None
            else decoder(*poses.shape[1:], tuple(image.shape[1:]), decoder_units)
        ),
        reconstruction_weight=reconstruction_weight / PIXEL_MAX**2,
        name=name,
    )
