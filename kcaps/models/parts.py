"""Targets that hold the parts of an image apart, as overlapping digits in one picture."""

from keras import ops

from kcaps.labels import one_hot
from kcaps.losses import ReconstructionLoss


def class_targets(y, num_classes):
    """The k-hot classes of targets with parts; any other targets as they are.

    Args:
        y: Dict of `"labels"`, integers `(batch, num_parts)`, and `"parts"`, images `(batch,
            num_parts, height, width, channels)`; or targets of another form.
        num_classes: Number of classes.

    Returns:
        Float32 tensor `(batch, num_classes)`. The row of an image with a number that is no class
        is NaN.

    Raises:
        ValueError: for a dict with other keys, or labels of another shape than the parts'.
    """
    if not isinstance(y, dict):
        return y
    check(y)
    counts = ops.sum(one_hot(y["labels"], num_classes), axis=1)  # (b, j)
    return ops.where(ops.isnan(counts), counts, ops.minimum(counts, 1.0))


def reconstruction_loss(decoder, poses, y, weight, sample_weight, training):
    """Error of each part, rebuilt from the capsule of its class alone, summed over the parts.

    Args:
        decoder: Model from masked poses to images.
        poses: Class poses `(batch, num_classes, capsule_dim)`.
        y: Targets with parts, as for `class_targets`.
        weight: Weight of the summed squared error.
        sample_weight: Weights of the examples, `(batch,)`, or None.
        training: Whether the decoder trains.
    """
    check(y)
    masks = ops.cast(one_hot(y["labels"], poses.shape[1]), poses.dtype)  # (b, n, j)
    masked = ops.expand_dims(masks, -1) * ops.expand_dims(poses, 1)  # (b, n, j, d)
    images = decoder(ops.reshape(masked, (-1, *poses.shape[1:])), training=training)
    parts = ops.cast(y["parts"], images.dtype)
    images = ops.reshape(images, (-1, *parts.shape[1:]))
    return ReconstructionLoss(weight)(parts, images, sample_weight=sample_weight)


def are_parts(y):
    """Whether targets are meant as a dict with parts: one that has one of its keys."""
    return isinstance(y, dict) and not {"labels", "parts"}.isdisjoint(y)


def check(y):
    """Raises a `ValueError` for a dict that does not have labels and parts that fit each other."""
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in y.items()}
    if (
        set(y) != {"labels", "parts"}
        or len(shapes["labels"]) != 2
        or shapes["parts"][1:2] != shapes["labels"][1:]
    ):
        raise ValueError(
            "`y` as a dict must hold 'labels', integers of shape (batch, num_parts), and 'parts', "
            "images of shape (batch, num_parts, height, width, channels). "
            f"Received: shapes {shapes}."
        )
