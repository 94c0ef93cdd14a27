"""Norms and squashing of capsule vectors: pure functions, float32 inside."""

import keras
from keras import ops

# Squared lengths below this one count as zero. Its root is lost in lengths above 1e-11.
_SMALLEST_SQUARED_NORM = 1e-36


def _squared_norm(x, axis, keepdims=False):
    """Returns the squared Euclidean length of the vectors along `axis`."""
    return ops.sum(ops.square(x), axis=axis, keepdims=keepdims)


def _root(squared):
    """Returns the square root, 1e-18 at 0, with gradient 0 there, where `ops.sqrt` has infinity."""
    return ops.sqrt(ops.maximum(squared, _SMALLEST_SQUARED_NORM))


def safe_norm(x, axis: int = -1, keepdims: bool = False):
    """Returns the Euclidean length of the vectors along `axis`, differentiable at the zero vector.

    `‖x‖ = sqrt(Σ x²)`, computed in float32. The gradient at a zero vector is zero, not NaN.

    Args:
        x: Tensor of floats.
        axis: The axis that holds the components of a vector.
        keepdims: Whether to keep `axis` with size 1.

    Returns:
        Float32 tensor, the shape of `x` without `axis` (or with size 1 there).

    Example:

    >>> np.asarray(safe_norm([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [5.0, 0.0]
    """
    x = ops.cast(ops.convert_to_tensor(x), "float32")
    return _root(_squared_norm(x, axis, keepdims)) - _SMALLEST_SQUARED_NORM**0.5


@keras.saving.register_keras_serializable(package="kcaps")
def squash(x, axis: int = -1):
    """Shrinks each vector to a length in [0, 1) and keeps its direction.

    `squash(x) = ‖x‖² / (1 + ‖x‖²) · x / ‖x‖`, computed in float32 and returned in the dtype of
    `x`. Zero vectors stay zero, with a finite gradient.

    Args:
        x: Tensor of floats.
        axis: The axis that holds the components of a vector.

    Returns:
        Tensor of the shape and dtype of `x`.

    Example:

    >>> np.asarray(squash([[3.0, 4.0]])).round(4)  # the length 5 becomes 25 / 26
    array([[0.5769, 0.7692]], dtype=float32)

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), equation (1).
    """
    x = ops.convert_to_tensor(x)
    vectors = ops.cast(x, "float32")
    squared = _squared_norm(vectors, axis)
    # The axis returns after the additions, which ONNX Runtime makes one by one along a last axis of
    # size 1.
    factors = ops.expand_dims(_root(squared) / (1.0 + squared), axis)
    return ops.cast(vectors * factors, x.dtype)


@keras.saving.register_keras_serializable(package="kcaps")
def exponential_squash(x, axis: int = -1):
    """Shrinks each vector to a length in [0, 1), more eagerly than `squash` at short lengths.

    `exponential_squash(x) = (1 - e^{-‖x‖}) · x / ‖x‖`, computed in float32 and returned in the
    dtype of `x`. Zero vectors stay zero, with a finite gradient.

    Args:
        x: Tensor of floats.
        axis: The axis that holds the components of a vector.

    Returns:
        Tensor of the shape and dtype of `x`.

    Example:

    >>> np.asarray(exponential_squash([[3.0, 4.0]])).round(4)  # the length 5 becomes 1 - e^-5
    array([[0.596 , 0.7946]], dtype=float32)

    Reference:

    - [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491), equation (2).
    """
    x = ops.convert_to_tensor(x)
    vectors = ops.cast(x, "float32")
    length = _root(_squared_norm(vectors, axis))
    # This is (1 - e^-n) / n, in a form that loses no digits of short lengths.
    factors = ops.tanh(length / 2) * (1 + ops.exp(-length)) / length
    return ops.cast(vectors * ops.expand_dims(factors, axis), x.dtype)
