"""Class labels in the forms in which Keras users hold them."""

from keras import ops

from kcaps.validation import agree


def k_hot(labels, num_classes, batch_size=None):
    """Turns labels into a float32 k-hot matrix.

    Args:
        labels: Integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix of
            shape `(batch, num_classes)`, any dtype.
        num_classes: Number of classes.
        batch_size: Number of examples, where it is known: it must be that of the labels.

    Returns:
        Float32 tensor of shape `(batch, num_classes)` with 1 for each class that is present. The
        row of a number that is no class is NaN, as its loss should be: values cannot be refused
        in a compiled program.

    Raises:
        ValueError: if the shape of `labels` fits neither form.
    """
    labels = ops.convert_to_tensor(labels)
    rank, last = len(labels.shape), labels.shape[-1] if len(labels.shape) else None
    if rank and not agree(labels.shape[:1], (batch_size,)):
        raise ValueError(
            f"`labels` must be as many as the examples, {batch_size}. "
            f"Received: labels of shape {tuple(labels.shape)}."
        )
    if rank == 2 and last == num_classes:
        return ops.cast(labels, "float32")
    if rank == 1 or (rank == 2 and last == 1):
        labels = ops.cast(ops.reshape(labels, (-1, 1)), "float32")
        # Not `ops.one_hot`, for which a number that is no class is an example of no class.
        is_class = ops.equal(labels, ops.arange(num_classes, dtype="float32"))  # (b, j)
        is_known = ops.any(is_class, axis=-1, keepdims=True)
        return ops.where(is_known, ops.cast(is_class, "float32"), float("nan"))
    raise ValueError(
        "`labels` must be integers of shape (batch,) or (batch, 1), or a k-hot matrix of shape "
        f"(batch, {num_classes}). Received: labels of shape {tuple(labels.shape)}."
    )


def targets(labels, predictions):
    """Labels as a k-hot matrix of the shape and dtype of the predictions.

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
