"""Convolutions with strides in training, where TensorFlow or JAX computes them on a CPU."""

import functools
import math

import keras
from keras import ops

from kcaps.backend.compiling import compiled
from kcaps.backend.gradients import with_gradient_of

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"

# Channels times filters from which TensorFlow's gradients of strided convolutions in bfloat16 fall
# behind: they were as fast for 128 × 128, and took twice the time for 128 × 256.
_WIDE = 128 * 256

if IS_TENSORFLOW:
    import tensorflow as tf


def convolve_in_training(conv: keras.layers.Conv2D, inputs):
    """Returns `conv(inputs)`, computed in the way that trains fastest on a CPU.

    On TensorFlow in float32, XLA computes the forward pass, in three quarters of TensorFlow's time,
    and TensorFlow the gradients, for which XLA takes fifty times as long: on JAX, which has no
    others, `convolve_by_phases` avoids the worst of them. It also convolves with wide kernels in
    bfloat16 on TensorFlow. Where neither saves time (without strides, in float16, on a GPU and on
    torch), and outside of `tf.function`, this is the plain call.

    Args:
        conv: Built `keras.layers.Conv2D` with a bias and without an activation.
        inputs: Features as `conv` takes them.

    Returns:
        Features as `conv` gives them.
    """
    way = None
    if conv.data_format == "channels_last":
        way = _fastest_in_training(inputs, conv.kernel.shape, conv.strides, conv.compute_dtype)
    if way is None:
        return conv(inputs)
    kernel, bias = (ops.cast(x, conv.compute_dtype) for x in (conv.kernel, conv.bias))
    return way(inputs, kernel, conv.strides, conv.padding) + bias


def convolve(inputs, kernel, strides: tuple, padding: str, training: bool | None = None):
    """Returns a convolution without bias; in training as `convolve_in_training` computes it.

    Args:
        inputs: Features `(batch, height, width, channels)`.
        kernel: Weights `(kernel height, kernel width, channels, filters)`, of the same dtype.
        strides: Pair of integers.
        padding: `"valid"` or `"same"`.
        training: Whether the model trains. Defaults to None: nobody knows.

    Returns:
        Features `(batch, new height, new width, filters)`.
    """
    way = None
    if training:
        dtype = keras.backend.standardize_dtype(kernel.dtype)
        way = _fastest_in_training(inputs, kernel.shape, strides, dtype)
    if way is None:
        return ops.conv(inputs, kernel, strides, padding, "channels_last")
    return way(inputs, kernel, strides, padding)


def _fastest_in_training(inputs, kernel_shape, strides, dtype):
    """Returns the function that convolves channels last in the least time, None for the plain."""
    if max(strides) == 1 or not _is_on_cpu():
        return None
    if IS_TENSORFLOW and dtype == "float32":
        return _convolve_by_xla
    if IS_TENSORFLOW and (dtype != "bfloat16" or not gains_by_phases(kernel_shape, strides)):
        return None
    # Maps of unknown size cannot be cut into blocks.
    return None if None in tuple(inputs.shape)[1:] else convolve_by_phases


def _is_on_cpu():
    """Returns whether TensorFlow, in a graph, or JAX computes on a CPU."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    return (
        IS_TENSORFLOW and not tf.executing_eagerly() and not tf.config.list_physical_devices("GPU")
    )


def gains_by_phases(kernel_shape: tuple, strides: tuple) -> bool:
    """Returns whether `convolve_by_phases` takes less time than TensorFlow's gradients in bfloat16.

    They are slow for many channels; and zeros that fill up a kernel must not double its products.
    """
    *window, channels, filters = kernel_shape
    pairs = zip(window, strides, strict=True)
    filled = math.prod(math.ceil(size / stride) * stride for size, stride in pairs)
    return channels * filters >= _WIDE and filled <= 2 * math.prod(window)


def _convolve_by_xla(inputs, kernel, strides, padding):
    """Returns a convolution that XLA computes, with TensorFlow's own gradients."""
    plain = functools.partial(
        ops.conv, strides=strides, padding=padding, data_format="channels_last"
    )
    return with_gradient_of(compiled(plain), plain)(inputs, kernel)


def convolve_by_phases(inputs, kernel, strides: tuple, padding: str):
    """Returns a convolution with strides as one without, of the maps and kernel of `in_phases`.

    TensorFlow's gradients in bfloat16 are several times slower than its products of matrices: that
    of the inputs with strides, and that of the kernel always, which is therefore one product for
    each pixel of the smaller kernel. For the gradient of the inputs with strides, XLA on a CPU
    takes a hundred times as long as for these products, of which all is made on JAX.

    Args:
        inputs: Features `(batch, height, width, channels)`, all but the batch known.
        kernel: Weights `(kernel height, kernel width, channels, filters)`.
        strides: Pair of integers.
        padding: `"valid"` or `"same"`.

    Returns:
        Features `(batch, new height, new width, filters)`.
    """
    return _convolve_without_strides(*in_phases(inputs, kernel, strides, padding))


def in_phases(inputs, kernel, strides: tuple, padding: str) -> tuple:
    """Returns smaller and deeper maps and kernel, whose valid convolution is that with strides.

    The pixels of a block, of the size of the strides, become channels of one pixel, and so do the
    kernel's, after zeros have filled it up to whole blocks. Arguments are those of
    `convolve_by_phases`.
    """
    *window, channels, filters = kernel.shape
    blocks = [math.ceil(size / stride) for size, stride in zip(window, strides, strict=True)]
    sizes = zip(inputs.shape[1:3], window, blocks, strides, strict=True)
    maps = _in_blocks(inputs, [_margins(*axis, padding) for axis in sizes], strides)
    filled = [
        (0, n * stride - size) for n, stride, size in zip(blocks, strides, window, strict=True)
    ]
    flat = ops.reshape(kernel, (1, *window, channels * filters))
    flat = _in_blocks(flat, filled, strides)  # (1, h, w, s·t·c·f)
    return maps, ops.reshape(flat, (*blocks, -1, filters))


def _margins(size, window, blocks, stride, padding):
    """Returns the numbers of zeros before and after the pixels of an axis, negative to cut some."""
    outputs, before = (size - window) // stride + 1, 0
    if padding == "same":
        outputs = math.ceil(size / stride)
        before = max((outputs - 1) * stride + window - size, 0) // 2
    return before, (outputs - 1 + blocks) * stride - size - before


def _in_blocks(maps, margins, strides):
    """Returns maps `(b, h·s, w·t, c)`, after margins are added to them, as `(b, h, w, s·t·c)`."""
    zeros = [(before, max(after, 0)) for before, after in margins]
    maps = ops.pad(maps, [(0, 0), *zeros, (0, 0)])
    ends = [min(after, 0) or None for _, after in margins]
    maps = maps[:, : ends[0], : ends[1]]
    (_, height, width, channels), (rows, columns) = maps.shape, strides
    height, width = height // rows, width // columns
    maps = ops.reshape(maps, (-1, height, rows, width, columns, channels))
    maps = ops.transpose(maps, (0, 1, 3, 2, 4, 5))
    return ops.reshape(maps, (-1, height, width, rows * columns * channels))


def _convolve_without_strides(maps, kernel):
    """Returns a valid convolution whose gradient in the kernel is made of products of matrices."""
    if not IS_TENSORFLOW:
        return _sum_of_products(maps, kernel)
    rows, columns, channels, filters = kernel.shape
    options = {"strides": [1, 1, 1, 1], "padding": "VALID"}

    @tf.custom_gradient
    def convolve(maps, kernel):
        outputs = tf.nn.conv2d(maps, kernel, **options)
        _, height, width, _ = outputs.shape

        def gradients(upstream):
            below = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(maps), filter=kernel, out_backprop=upstream, **options
            )
            flat = tf.reshape(upstream, (-1, filters))
            windows = [
                tf.reshape(maps[:, y : y + height, x : x + width], (-1, channels))
                for y in range(rows)
                for x in range(columns)
            ]
            products = [tf.matmul(window, flat, transpose_a=True) for window in windows]
            return below, tf.reshape(tf.stack(products), kernel.shape)

        return outputs, gradients

    return convolve(maps, kernel)


def _sum_of_products(maps, kernel):
    """Returns a valid convolution as one product of matrices for each pixel of the kernel."""
    rows, columns, channels, filters = kernel.shape
    height, width = maps.shape[1] - rows + 1, maps.shape[2] - columns + 1
    products = [
        ops.matmul(
            ops.reshape(maps[:, y : y + height, x : x + width], (-1, channels)), kernel[y, x]
        )
        for y in range(rows)
        for x in range(columns)
    ]
    return ops.reshape(sum(products), (-1, height, width, filters))
