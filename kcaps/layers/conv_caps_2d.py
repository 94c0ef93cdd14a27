"""A layer of capsules that looks at a window of a map of capsules."""

import keras
from keras import ops

from kcaps import routing as routings
from kcaps.activations import squash
from kcaps.backend.convolution import convolve
from kcaps.layers.routed_caps import RoutedCaps
from kcaps.validation import one_of, positive_pair


@keras.saving.register_keras_serializable(package="kcaps")
class ConvCaps2D(RoutedCaps):
    """Capsules at each position of a map, which receive the votes of a window of the map below.

    The window holds `i = 1 … kernel height · kernel width · types` capsules, row by row, column by
    column and type by type. Each pair of one of them and an output capsule `j` has a matrix
    `W_ij`, which all positions share, and each position routes on its own:

        û_j|i = u_i W_ij,  v_j = squash(Σ_i c_ij û_j|i)

    Kernels are therefore as small as those of a convolution, and do not grow with the image.
    `"same"` surrounds the map with zero capsules, whose votes are zero.

    Windows overlap: the routing sees `kernel height · kernel width / strides` times the capsules of
    the map, and that is what it costs in time and memory. Routings whose couplings no example
    changes (`"l1"`, `"l2"` and `"uniform"`) have no windows: they are one convolution, with the
    kernel times the couplings, and squash.

    Args:
        num_capsules: Positive integer, number of capsule types at a position.
        capsule_dim: Positive integer, components of an output capsule.
        kernel_size: Integer or pair of integers, size of the window.
        strides: Integer or pair of integers. Defaults to 1.
        padding: `"valid"`, or `"same"`, with zero capsules on the sides on which TensorFlow has
            them. Defaults to `"valid"`.
        routing: As for `DigitCaps`. Weights of a routing are shared by all positions, too.
            Defaults to `"dynamic"`.
        kernel_initializer: Initializer of the kernel, or None for
            `kcaps.initializers.VoteScaling()`. Defaults to None.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Input shape:
        Maps of capsules `(batch, height, width, types, input_dim)`, the last two known: from
        `PrimaryCaps(…, as_map=True)` or another `ConvCaps2D`.

    Output shape:
        Maps `(batch, new height, new width, num_capsules, capsule_dim)`.

    Raises:
        ValueError: if a size is not a positive integer, the padding or the routing is unknown, the
            types or components of the input are not known, a window does not fit into it, or a
            routing with weights is given to a second layer.

    Example:

    >>> maps = keras.random.normal((2, 6, 6, 32, 8))
    >>> tuple(ConvCaps2D(16, 8, kernel_size=3, strides=2, routing="l2")(maps).shape)
    (2, 2, 2, 16, 8)

    Reference:

    - [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), section 4.
    """

    def __init__(
        self,
        num_capsules: int,
        capsule_dim: int,
        kernel_size: int | tuple,
        strides: int | tuple = 1,
        padding: str = "valid",
        routing: routings.Routing | dict | str = "dynamic",
        kernel_initializer=None,
        **kwargs,
    ):
        kernel_size = positive_pair("kernel_size", kernel_size)
        strides = positive_pair("strides", strides)
        padding = one_of("padding", padding, ("valid", "same"))
        super().__init__(num_capsules, capsule_dim, routing, kernel_initializer, **kwargs)
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.input_spec = keras.layers.InputSpec(ndim=5)

    def build(self, input_shape):
        types, input_dim = input_shape[3:]
        if not types or not input_dim:
            raise ValueError(
                "`ConvCaps2D` needs a known number of types and of components of input capsules, "
                f"of 1 or more. Received: inputs of shape {tuple(input_shape)}."
            )
        self.input_spec = keras.layers.InputSpec(ndim=5, axes={3: types, 4: input_dim})
        rows, columns = self.kernel_size
        self.build_votes(rows * columns * types, input_dim)
        self.built = True

    def call(self, inputs, training: bool | None = None):
        self.compute_output_shape(inputs.shape)  # It refuses maps smaller than the window.
        kernel = ops.convert_to_tensor(self.kernel)
        couplings = routings.couplings_to_fold(self.routing, tuple(kernel.shape))
        if couplings is None:
            poses = self.routing(self.routed(inputs), kernel, training=training)
        else:
            maps = _as_channels(inputs)
            filters = self._filters(kernel, couplings)
            sums = convolve(maps, filters, self.strides, self.padding, training)
            poses = squash(ops.reshape(sums, (-1, self.num_capsules, self.capsule_dim)))
        height, width = self._output_size(_sizes(inputs))
        return ops.reshape(poses, (-1, height, width, self.num_capsules, self.capsule_dim))

    def _filters(self, kernel, couplings):
        """Returns the kernel of the convolution that fixed couplings make of this layer."""
        # Products of half precision would be rounded twice.
        dtype = keras.backend.result_type(kernel.dtype, "float32")
        couplings = ops.expand_dims(ops.expand_dims(ops.cast(couplings, dtype), 1), -1)
        folded = ops.cast(ops.cast(kernel, dtype) * couplings, kernel.dtype)
        return ops.reshape(folded, (*self.kernel_size, -1, self.num_capsules * self.capsule_dim))

    def routed(self, inputs):
        """Returns the windows, `(batch · positions, kernel height · kernel width · types, k)`."""
        maps = _as_channels(inputs)
        if self.padding == "same":
            sizes = zip(_sizes(maps), self.kernel_size, self.strides, strict=True)
            maps = ops.pad(maps, [(0, 0), *(_margins(*axis) for axis in sizes), (0, 0)])
        shifts = [(y, x) for y in range(self.kernel_size[0]) for x in range(self.kernel_size[1])]
        windows = [self._shifted(maps, *shift) for shift in shifts]
        return ops.reshape(ops.concatenate(windows, axis=-1), (-1, *self.kernel.shape[:2]))

    def _shifted(self, maps, y, x):
        """Returns the pixel of each window that is `(y, x)` from its corner."""
        sizes = zip(_sizes(maps), self.kernel_size, self.strides, strict=True)
        rows, columns = ((size - window) // stride * stride for size, window, stride in sizes)
        down, right = self.strides
        return maps[:, y : y + rows + 1 : down, x : x + columns + 1 : right]

    def _output_size(self, sizes):
        """Returns height and width of the output, each None or a tensor where the input's is."""
        axes = zip(sizes, self.kernel_size, self.strides, strict=True)
        return tuple(
            None if size is None else self._steps(size, window, stride)
            for size, window, stride in axes
        )

    def _steps(self, size, window, stride):
        """Returns the number of windows along an axis."""
        if self.padding == "same":
            return -(-size // stride)
        return (size - window) // stride + 1

    def compute_output_shape(self, input_shape):
        sizes = self._output_size(input_shape[1:3])
        if any(size is not None and size < 1 for size in sizes):
            raise ValueError(
                f"`kernel_size` must fit into the maps. Received: kernel_size={self.kernel_size} "
                f"for inputs of shape {tuple(input_shape)}."
            )
        return (input_shape[0], *sizes, self.num_capsules, self.capsule_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }


def _sizes(maps):
    """Returns height and width, which are tensors where TensorFlow does not know them."""
    sizes = tuple(maps.shape)[1:3]
    return ops.shape(maps)[1:3] if None in sizes else sizes


def _as_channels(maps):
    """Returns maps `(b, h, w, n, k)` as `(b, h, w, n·k)`."""
    return ops.reshape(maps, (-1, *_sizes(maps), maps.shape[3] * maps.shape[4]))


def _margins(size, window, stride):
    """Returns the zeros before and after an axis with which TensorFlow pads for `"same"`."""
    total = (-(-size // stride) - 1) * stride + window - size
    total = max(total, 0) if isinstance(total, int) else ops.maximum(total, 0)
    return total // 2, total - total // 2
