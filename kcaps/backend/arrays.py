"""Arrays, and their shapes and dtypes, in the form in which a backend takes them."""

import math

import keras
import numpy as np
from keras import ops


def available_dtype(dtype) -> str:
    """Returns the name of a dtype, or of the shorter one that JAX has in its place."""
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.dtypes.canonicalize_dtype(dtype))
    return str(dtype)


def maxima(values, axis: int | tuple, least: float, keepdims: bool = True):
    """Returns the maxima along axes, and `least` where that is more: of an empty batch, too.

    On torch, Keras 3.15 makes `least` on the CPU, wherever the values are, and its other functions
    make float32 of float64.

    Args:
        values: Array, for which NumPy computes, or tensor.
        axis: Axis or axes.
        least: Lower bound of the maxima.
        keepdims: Whether the axes stay, of size 1. Defaults to True.
    """
    if isinstance(values, np.ndarray):
        return values.max(axis=axis, keepdims=keepdims, initial=least)
    if keras.backend.backend() == "torch":
        return values.amax(dim=axis, keepdim=keepdims).clamp(min=least)
    return ops.max(values, axis=axis, keepdims=keepdims, initial=least)


def has_unknown_sizes(tensor, expected: tuple) -> bool:
    """Returns whether TensorFlow traces a tensor without sizes that `expected` has.

    Args:
        tensor: A tensor, with an axis of examples.
        expected: A shape, in which None stands for any size.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    if getattr(tensor.shape, "rank", 0) is None:
        return True
    pairs = zip(tuple(tensor.shape)[1:], expected[1:], strict=False)
    return any(size is None and other is not None for size, other in pairs)


def ensure_shape(tensor, shape: tuple):
    """Returns a tensor of TensorFlow whose shape is checked when the program runs."""
    import tensorflow as tf

    return tf.ensure_shape(tensor, shape)


def needs_batches(array) -> bool:
    """Returns whether Keras' `fit` would copy an array, or make float32 of float64."""
    return keras.backend.backend() == "tensorflow" or str(array.dtype) == "float64"


def batched(arrays: tuple, batch_size: int):
    """Returns batches of arrays in order, which Keras' `fit` takes for its `x` and does not copy.

    Args:
        arrays: Tuple of arrays, or structures of them, with the same number of rows; None is left
            out.
        batch_size: Rows of a batch; the last one may have fewer.

    Returns:
        A `tf.data.Dataset` on TensorFlow, and a `keras.utils.PyDataset` on other backends.
    """
    arrays = tuple(part for part in arrays if part is not None)
    if keras.backend.backend() != "tensorflow":
        return _Batches(arrays, batch_size)
    import tensorflow as tf

    rows = len(keras.tree.flatten(arrays)[0])
    batch_size = min(batch_size, rows)
    whole = rows // batch_size * batch_size

    def first(part):
        return part[:whole].reshape(-1, batch_size, *part.shape[1:])

    batches = tf.data.Dataset.from_tensor_slices(keras.tree.map_structure(first, arrays))
    if whole < rows:
        last = keras.tree.map_structure(lambda part: part[whole:], arrays)
        rest = tf.data.Dataset.from_tensors(last)
        batches = batches.concatenate(rest)
    return batches


class _Batches(keras.utils.PyDataset):
    """Batches of arrays in order, in the arrays' own dtypes."""

    def __init__(self, arrays, batch_size):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size

    def __len__(self):
        return math.ceil(len(keras.tree.flatten(self.arrays)[0]) / self.batch_size)

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return keras.tree.map_structure(lambda part: part[rows], self.arrays)
