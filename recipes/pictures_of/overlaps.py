"""Overlapping images of two different classes, made on the fly: MultiMNIST."""

import numpy as np
import tensorflow as tf

from export.command import fail
from kcaps.metrics import ExactMatch
from pictures_of import batches, data

SHIFT = 4  # pixels at most, to every side
PARTS = 2  # images in one
HELD_OUT_SEED = 0  # of pictures for validation and test, which are the same in every run


def overlapping(
    images: np.ndarray, labels: np.ndarray, seed: int, batch_size: int, start: int = 0
) -> tf.data.Dataset:
    """Returns pairs of overlapping images without end; the same ones for the same seed.

    Each pass takes every image once, in random order, with a partner drawn from all images of
    other classes. Both are shifted by whole pixels, each on its own, on a canvas that is wider by
    `SHIFT` on every side, and added; sums beyond 255 are cut.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        labels: Integer array `(n,)` with at least two classes.
        seed: Integer from 0 to 2³² - 1.
        batch_size: Positive integer.
        start: Number of the first batch.

    Returns:
        `tf.data.Dataset` of `(pictures, labels, parts)`: float32 pictures `(b, height', width',
        channels)` from 0 to 255, their labels `(b, 2)`, and the shifted images that they are made
        of, `(b, 2, height', width', channels)`.

    Raises:
        ValueError: if all images are of one class.
    """
    by_class = np.argsort(labels, kind="stable")
    sorted_labels = np.asarray(labels)[by_class]
    if sorted_labels[0] == sorted_labels[-1]:
        raise ValueError(
            "`labels` must have two classes at least, for images of different classes to overlap. "
            f"Received: {len(labels)} labels, all {sorted_labels[0]}."
        )
    # Where each class begins and ends in that order: partners are all places but those.
    first = tf.constant(np.searchsorted(sorted_labels, labels, "left"), tf.int32)
    last = tf.constant(np.searchsorted(sorted_labels, labels, "right"), tf.int32)
    images, labels, by_class = map(tf.constant, (images, labels, by_class))
    count = len(labels)

    def read(number, indices):
        seeds = tf.random.experimental.stateless_split((seed, number), 2)
        places = tf.random.stateless_uniform((batch_size,), seeds[0])
        begin, end = tf.gather(first, indices), tf.gather(last, indices)
        others = tf.cast(count - (end - begin), tf.float32)
        # A float32 below 1 times a count may be rounded up to it.
        places = tf.minimum(tf.cast(places * others, tf.int32), tf.cast(others, tf.int32) - 1)
        places = tf.where(places < begin, places, places + end - begin)
        pairs = tf.stack([indices, tf.cast(tf.gather(by_class, places), tf.int32)], axis=1)
        parts = shifted(tf.gather(images, pairs), SHIFT, seeds[1])
        parts = tf.cast(parts, tf.float32)
        return tf.minimum(tf.reduce_sum(parts, axis=1), 255.0), tf.gather(labels, pairs), parts

    numbered = batches.shuffled(count, batch_size, seed, start)
    return numbered.map(read, num_parallel_calls=2).prefetch(2)


def shifted(images: tf.Tensor, margin: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns images at random places of a canvas that is wider by `margin` pixels on every side.

    Args:
        images: Tensor `(b, n, height, width, channels)`.
        margin: Positive integer.
        seed: Two integers.

    Returns:
        Tensor `(b, n, height + 2 margin, width + 2 margin, channels)`.
    """
    height, width = images.shape[2:4]
    margins = [[0, 0], [0, 0], [2 * margin] * 2, [2 * margin] * 2, [0, 0]]
    padded = tf.pad(images, margins)
    corners = tf.random.stateless_uniform(
        (tf.shape(images)[0], images.shape[1], 2), seed, 0, 2 * margin + 1, tf.int32
    )
    rows = corners[..., :1] + tf.range(height + 2 * margin)
    columns = corners[..., 1:] + tf.range(width + 2 * margin)
    padded = tf.gather(padded, rows, axis=2, batch_dims=2)
    return tf.gather(padded, columns, axis=3, batch_dims=2)


def held_out(images: data.Images) -> tuple[tuple, tuple]:
    """Returns pictures of validation and test: one for each digit, with a random partner.

    Ends the program where some of the images, such as those that a small `--limit` leaves, are of
    one class only.

    Args:
        images: Images in three splits.

    Returns:
        Two tuples of arrays as `overlapping` yields them.
    """
    for name in ("train", "validation", "test"):
        labels = getattr(images, name)[1]
        if len(np.unique(labels)) < 2:
            fail(
                f"pictures of two classes need images of two at least: of the {len(labels)} {name} "
                f"images of {images.title} all are of one. Give a larger --limit"
            )
    return _one_each(images.validation), _one_each(images.test)


def _one_each(digits):
    batches = overlapping(*digits, HELD_OUT_SEED, len(digits[0]))
    return tuple(part.numpy() for part in next(iter(batches)))


def targets(pictures, labels, parts) -> tuple:
    """Returns a batch as `CapsNet` takes it, each part to be rebuilt from its own capsule."""
    return pictures, {"labels": labels, "parts": parts}


def training_batches(
    images: np.ndarray, labels: np.ndarray, seed: int, batch_size: int, start: int = 0
) -> tf.data.Dataset:
    """Returns what `overlapping` does as `CapsNet` takes it; see `targets`."""
    return overlapping(images, labels, seed, batch_size, start).map(targets)


def exact_match(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of the pictures whose classes are all among the largest outputs."""
    metric = ExactMatch(PARTS)
    metric.update_state(np.eye(outputs.shape[-1])[labels].max(1), outputs)
    return float(metric.result())
