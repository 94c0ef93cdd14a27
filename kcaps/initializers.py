"""Initial kernels of capsule layers, and of the convolutions below them."""

import keras
import numpy as np
from keras import ops

from kcaps.validation import positive


@keras.saving.register_keras_serializable(package="kcaps")
class VoteScaling(keras.initializers.Initializer):
    """Random kernel that starts a capsule layer at useful lengths.

    Keras' own variance-scaling initializers take the leading axes of a rank-4 kernel for the
    receptive field of a convolution and start the votes about ten times too short; a squashed
    vector that short has almost no gradient. This one draws `W ~ N(0, stddev²)` with

        stddev = scale · num_outputs / sqrt(0.25 · num_inputs · output_dim)

    so that, with input capsules of length about one half and the equal couplings
    `1 / num_outputs` from which most routings start, the weighted sum of the votes has a length
    of about `scale` before squash.

    Args:
        scale: Positive float, the expected length of the weighted sum. Defaults to 1.
        seed: Integer or `keras.random.SeedGenerator`, or None for Keras' global seed.

    Raises:
        ValueError: if `scale` is not positive, or the kernel's shape has not four axes.

    Example:

    >>> kernel = VoteScaling(seed=0)((1152, 8, 10, 16))
    >>> round(float(np.std(kernel)), 3)
    0.147
    """

    def __init__(self, scale: float = 1.0, seed=None):
        self.scale = positive("scale", scale)
        self.seed = seed

    def __call__(self, shape, dtype=None):
        if len(shape) != 4:
            raise ValueError(
                "`VoteScaling` is for kernels of shape (num_inputs, input_dim, num_outputs, "
                f"output_dim). Received: shape={tuple(shape)}."
            )
        if 0 in shape:
            raise ValueError(
                f"`shape` must have no axis of size 0. Received: shape={tuple(shape)}."
            )
        num_inputs, _, num_outputs, output_dim = shape
        stddev = self.scale * num_outputs / (0.25 * num_inputs * output_dim) ** 0.5
        return keras.initializers.RandomNormal(stddev=stddev, seed=self.seed)(shape, dtype=dtype)

    def get_config(self):
        return {"scale": self.scale, "seed": keras.saving.serialize_keras_object(self.seed)}


@keras.saving.register_keras_serializable(package="kcaps")
class PartialIdentity(keras.initializers.Initializer):
    """Kernel of a convolution whose first filters hand on the input's channels as they are.

    Of `n` input channels and `m` filters, the first `min(n, m)` filters have a one at the centre
    of the channel of their own number and zeros elsewhere; the others are drawn from
    `U(-1/√fan_in, 1/√fan_in)`, with `fan_in = height · width · n`. A stack of such convolutions
    passes the image through it from the first step on.

    Args:
        seed: Integer or `keras.random.SeedGenerator`, or None for Keras' global seed.

    Raises:
        ValueError: if the kernel's shape has not four axes, each of 1 or more.

    Example:

    >>> kernel = PartialIdentity(seed=0)((3, 3, 2, 5))
    >>> [float(x) for x in kernel[1, 1, :, 0]]
    [1.0, 0.0]

    Reference:

    - [Jordan, 2024](https://arxiv.org/abs/2404.00498), section 3.3.
    """

    def __init__(self, seed=None):
        self.seed = seed

    def __call__(self, shape, dtype=None):
        shape = tuple(shape)
        if len(shape) != 4 or 0 in shape:
            raise ValueError(
                "`PartialIdentity` is for kernels of shape (height, width, channels, filters), "
                f"each of 1 or more. Received: shape={shape}."
            )
        height, width, channels, filters = shape
        limit = (height * width * channels) ** -0.5
        drawn = keras.initializers.RandomUniform(-limit, limit, seed=self.seed)(shape, dtype)
        identity = np.zeros(shape)
        identity[(height - 1) // 2, (width - 1) // 2] = np.eye(channels, filters)
        is_drawn = np.arange(filters) >= channels
        return ops.where(is_drawn, drawn, ops.cast(identity, drawn.dtype))

    def get_config(self):
        return {"seed": keras.saving.serialize_keras_object(self.seed)}
