"""Class labels in the forms in which Keras users hold them."""

from keras import ops


def k_hot(labels, num_classes):
    """Turns labels into a float32 k-hot matrix.

    Args:
        labels: Integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix of
            shape `(batch, num_classes)`, any dtype.
        num_classes: Number of classes.

    Returns:
        Float32 tensor of shape `(batch, num_classes)` with 1 for each class that is present.

    Raises:
        ValueError: if the shape of `labels` fits neither form.
    """
    labels = ops.convert_to_tensor(labels)
    rank, last = len(labels.shape), labels.shape[-1] if len(labels.shape) else None
    if rank == 2 and last == num_classes:
        return ops.cast(labels, "float32")
    if rank == 2 and last == 1:
        labels, rank = ops.squeeze(labels, axis=-1), 1
    if rank == 1:
        return ops.one_hot(ops.cast(labels, "int32"), num_classes, dtype="float32")
    raise ValueError(
        "`labels` must be integers of shape (batch,) or (batch, 1), or a k-hot matrix of shape "
        f"(batch, {num_classes}). Received: labels of shape {tuple(labels.shape)}."
    )
