"""Turns class labels, in the forms in which Keras users hold them, into one form."""

import numpy as np
from keras import ops

from kcaps.validation import agree


def k_hot(labels, num_classes: int, batch_size: int | None = None, exact: bool = False):
    """Returns labels as a float32 k-hot matrix.

    Args:
        labels: Integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix of
            shape `(batch, num_classes)`, any dtype. Of a single class, both forms say whether it
            is present: 1, or absent: 0.
        num_classes: Number of classes.
        batch_size: Number of examples, where it is known: it must be that of the labels.
        exact: Whether each class must be present or absent. Otherwise a matrix may have any
            numbers, such as smoothed labels. Defaults to False.

    Returns:
        Float32 tensor of shape `(batch, num_classes)` with 1 for each class that is present. The
        row of a number that is no class is NaN, as its loss should be: values cannot be refused
        in a compiled program. So is a row of a matrix with another number than 0 and 1, if labels
        are to be exact, and a number below 0 or above 1 for a single class.

    Raises:
        ValueError: if `labels` are no numbers, or their shape fits neither form.
    """
    refuse_text(labels)
    labels = ops.convert_to_tensor(labels)
    if num_classes > 1:
        check_rank(labels, num_classes)
    if num_classes == 1 and _is_column(labels.shape):
        labels = ops.reshape(labels, (-1, 1))
    rank, last = len(labels.shape), labels.shape[-1] if len(labels.shape) else None
    if rank and not agree(labels.shape[:1], (batch_size,)):
        raise ValueError(
            f"`labels` must be as many as the examples, {batch_size}. "
            f"Received: labels of shape {tuple(labels.shape)}."
        )
    if rank == 2 and last == num_classes:
        return _known(ops.cast(labels, "float32"), exact)
    if rank == 1 or (rank == 2 and last == 1):
        return one_hot(ops.reshape(labels, (-1,)), num_classes)
    raise ValueError(
        "`labels` must be integers of shape (batch,) or (batch, 1), or a k-hot matrix of shape "
        f"(batch, {num_classes}). Received: labels of shape {tuple(labels.shape)}."
    )


def one_hot(labels, num_classes: int):
    """Returns the numbers of classes as one-hot vectors, and NaN for a number that is no class.

    `ops.one_hot` would make it a vector of no class, or fail, or cut the digits of 0.7.

    Args:
        labels: Numbers of any shape.
        num_classes: Number of classes.

    Returns:
        Float32 tensor of the shape of `labels`, with an axis of `num_classes` after it.
    """
    labels = ops.expand_dims(ops.cast(labels, "float32"), -1)
    is_class = ops.equal(labels, ops.arange(num_classes, dtype="float32"))
    is_known = ops.any(is_class, axis=-1, keepdims=True)
    return ops.where(is_known, ops.cast(is_class, "float32"), float("nan"))


def targets(labels, predictions):
    """Returns labels as a k-hot matrix of the shape and dtype of the predictions.

    Args:
        labels: As for `k_hot`.
        predictions: Tensor of shape `(batch, num_classes)`.

    Raises:
        ValueError: if the predictions are no matrix, or the labels do not fit them.
    """
    shape = tuple(predictions.shape)
    if len(shape) != 2 or not shape[1]:
        raise ValueError(
            "`y_pred` must have the shape (batch, num_classes), of at least one class. "
            f"Received: y_pred of shape {shape}."
        )
    return ops.cast(k_hot(labels, shape[1], shape[0]), predictions.dtype)


def refuse_text(labels, name: str = "labels") -> None:
    """Raises a `ValueError` for labels, called `name`, that are text or other objects."""
    dtype = getattr(labels, "dtype", None) or np.asarray(labels).dtype
    kind = str(getattr(dtype, "name", dtype))
    if kind.startswith(("str", "bytes", "object", "category")):
        raise ValueError(
            f"`{name}` must hold the numbers of classes. Number them first, as "
            f"`numpy.unique({name}, return_inverse=True)[1]` does. Received: an array of {kind}."
        )


def check_rank(labels, num_classes: int) -> None:
    """Raises a `ValueError` for a tensor of labels whose rank TensorFlow has forgotten."""
    if getattr(getattr(labels, "shape", None), "rank", 0) is None:
        raise ValueError(
            "`labels` came in several shapes, of which TensorFlow keeps none. Give all of them the "
            f"shape (batch,), or (batch, {num_classes}), or compile the model again in between."
        )


def _is_column(shape):
    """Returns whether a shape is not known, or that of a vector or of a matrix of one column."""
    if getattr(shape, "rank", 0) is None:
        return True
    return len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, None))


def _known(matrix, exact):
    """Returns a k-hot matrix with NaN in the rows that cannot be labels."""
    if exact:
        is_label = ops.logical_or(ops.equal(matrix, 0.0), ops.equal(matrix, 1.0))
    elif matrix.shape[1] == 1:  # For a single class, any other number is a mistake.
        is_label = ops.logical_and(matrix >= 0.0, matrix <= 1.0)
    else:
        return matrix
    return ops.where(ops.all(is_label, axis=-1, keepdims=True), matrix, float("nan"))
