"""The first layer of capsules, on top of a convolution."""

import keras
from keras import ops

from kcaps.activations import squash
from kcaps.backend.convolution import convolve_in_training
from kcaps.validation import boolean, one_of, positive_int, positive_pair


@keras.saving.register_keras_serializable(package="kcaps")
class PrimaryCaps(keras.layers.Layer):
    """Groups the channels of a convolution into capsules and squashes them.

    A convolution with `num_capsules · capsule_dim` filters; at each position, each run of
    `capsule_dim` neighbouring channels is one capsule of one type. Capsules are ordered by
    position (row by row), then by type.

    Args:
        num_capsules: Positive integer, number of capsule types.
        capsule_dim: Positive integer, components of a capsule.
        kernel_size: Integer or pair of integers, size of the convolution's window.
        strides: Integer or pair of integers. Defaults to 1.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        data_format: `"channels_last"` or `"channels_first"`, or None for Keras' setting.
        kernel_initializer: Initializer of the convolution's kernel. The default keeps the mean
            square of the inputs, so that inputs of order one give capsules of lengths around
            one half.
        as_map: Whether the capsules keep their positions, as `ConvCaps2D` needs them. Defaults to
            False.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Input shape:
        Features `(batch, height, width, channels)`, or `(batch, channels, height, width)` with
        `"channels_first"`. Height, width and channels must be known; with `as_map`, the channels.

    Output shape:
        Capsules `(batch, positions · num_capsules, capsule_dim)`; with `as_map`, `(batch, height,
        width, num_capsules, capsule_dim)`.

    Raises:
        ValueError: if a size is not a positive integer, the size of the input is not known, or the
            window does not fit into it.

    Example:

    >>> features = keras.random.normal((2, 20, 20, 256))
    >>> tuple(PrimaryCaps(32, 8, kernel_size=9, strides=2)(features).shape)
    (2, 1152, 8)
    >>> tuple(PrimaryCaps(32, 8, kernel_size=9, strides=2, as_map=True)(features).shape)
    (2, 6, 6, 32, 8)

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 4.
    """

    def __init__(
        self,
        num_capsules: int,
        capsule_dim: int,
        kernel_size: int | tuple,
        strides: int | tuple = 1,
        padding: str = "valid",
        data_format: str | None = None,
        kernel_initializer="lecun_normal",
        *,
        as_map: bool = False,
        **kwargs,
    ):
        num_capsules = positive_int("num_capsules", num_capsules)
        capsule_dim = positive_int("capsule_dim", capsule_dim)
        kernel_size = positive_pair("kernel_size", kernel_size)
        strides = positive_pair("strides", strides)
        padding = one_of("padding", padding, ("valid", "same"))
        as_map = boolean("as_map", as_map)
        super().__init__(**kwargs)
        self.num_capsules = num_capsules
        self.capsule_dim = capsule_dim
        self.as_map = as_map
        self.conv = keras.layers.Conv2D(
            num_capsules * capsule_dim,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name="conv",
        )
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        is_first = self.conv.data_format == "channels_first"
        needed = input_shape[1 if is_first else -1 :][:1] if self.as_map else input_shape[1:]
        if not all(needed):
            raise ValueError(
                "`PrimaryCaps` needs inputs of known height, width and channels, of 1 or more, "
                "because each position has capsules of its own in the next layer; with "
                "as_map=True, of known channels. "
                f"Received: inputs of shape {tuple(input_shape)}."
            )
        self.conv.build(input_shape)
        self.built = True

    def call(self, inputs, training: bool | None = None):
        self.compute_output_shape(inputs.shape)  # It refuses images smaller than the kernel.
        features = convolve_in_training(self.conv, inputs) if training else self.conv(inputs)
        if self.conv.data_format == "channels_first":
            features = ops.transpose(features, (0, 2, 3, 1))  # (b, h, w, types·k)
        if self.as_map:
            _, *sizes, _ = ops.shape(features)  # Tensors, where they are not known.
            shape = (-1, *sizes, self.num_capsules, self.capsule_dim)
        else:
            _, height, width, _ = features.shape
            shape = (-1, height * width * self.num_capsules, self.capsule_dim)
        return squash(ops.reshape(features, shape))

    def compute_output_shape(self, input_shape):
        shape = self.conv.compute_output_shape(input_shape)
        positions = shape[2:] if self.conv.data_format == "channels_first" else shape[1:3]
        if self.as_map:
            return (shape[0], *positions, self.num_capsules, self.capsule_dim)
        return (shape[0], positions[0] * positions[1] * self.num_capsules, self.capsule_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "kernel_size": self.conv.kernel_size,
            "strides": self.conv.strides,
            "padding": self.conv.padding,
            "data_format": self.conv.data_format,
            "kernel_initializer": keras.initializers.serialize(self.conv.kernel_initializer),
            "as_map": self.as_map,
        }
