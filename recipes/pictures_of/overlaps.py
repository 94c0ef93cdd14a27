"""Overlapping images of two different classes, made on the fly: MultiMNIST."""

import dataclasses

import numpy as np

from export.command import fail
from export.overlapping import SHIFT
from kcaps.metrics import ExactMatch
from pictures_of import data, sampling
from pictures_of.batches import Batches, Change, turns

PARTS = 2  # images in one
HELD_OUT_SEED = 0  # of pictures for validation and test, which are the same in every run


def overlapping(
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    batch_size: int,
    change: Change | None = None,
) -> Batches:
    """Returns batches of pairs of overlapping images.

    Each pass takes every image once, in random order, with a partner drawn from all images of
    other classes. Both are shifted by whole pixels, each on its own, on a canvas that is wider by
    `SHIFT` on every side, and added; sums beyond 255 are cut.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        labels: Integer array `(n,)` with at least two classes.
        seed: Integer from 0 to 2³² - 1.
        batch_size: Positive integer.
        change: A random change of each image before it overlaps another one, or None. A partner
            has its turn as if it were taken in the same pass.

    Returns:
        Batches `(pictures, labels, parts)`: float32 pictures `(b, height', width', channels)` from
        0 to 255, their labels `(b, 2)`, and the shifted images that they are made of,
        `(b, 2, height', width', channels)`.

    Raises:
        ValueError: if all images are of one class.
    """
    labels = np.asarray(labels)
    by_class = np.argsort(labels, kind="stable")
    sorted_labels = labels[by_class]
    if sorted_labels[0] == sorted_labels[-1]:
        raise ValueError(
            "`labels` must have two classes at least, for images of different classes to overlap. "
            f"Received: {len(labels)} labels, all {sorted_labels[0]}."
        )
    # Where each class begins and ends in that order: partners are all places but those.
    first, last = (np.searchsorted(sorted_labels, labels, side) for side in ("left", "right"))

    def draw(rng, count):
        places, corners = rng.random(count), sampling.corners(rng, (count, PARTS), SHIFT)
        drawn = change.draw(rng, count * PARTS) if change else ()
        return places, corners, *(rows.reshape(count, PARTS, *rows.shape[1:]) for rows in drawn)

    def make(indices, passes, places, corners, *drawn):
        begin, end = first[indices], last[indices]
        places = (places * (len(labels) - (end - begin))).astype(int)
        places = np.where(places < begin, places, places + end - begin)
        pairs = np.stack([indices, by_class[places]], axis=1)
        if change and change.alternates:
            drawn = (turns(len(labels), seed, pairs, passes[:, None]), *drawn)
        # One after the other, as if each were an image of its own.
        parts = images[pairs.ravel()]
        if change:
            parts = change.apply(parts, *(rows.reshape(-1, *rows.shape[2:]) for rows in drawn))
        parts = sampling.placed(parts, corners.reshape(-1, 2), SHIFT)
        parts = parts.reshape(*pairs.shape, *parts.shape[1:]).astype("float32")
        return np.minimum(parts.sum(1), 255), labels[pairs], parts

    return Batches(len(labels), batch_size, seed, make, draw, tells_passes=True)


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
    return overlapping(*digits, HELD_OUT_SEED, len(digits[0]))(0)


def targets(pictures, labels, parts) -> tuple:
    """Returns a batch as `CapsNet` takes it, each part to be rebuilt from its own capsule."""
    return pictures, {"labels": labels, "parts": parts}


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    batch_size: int,
    change: Change | None = None,
) -> Batches:
    """Returns what `overlapping` does as `CapsNet` takes it; see `targets`."""
    pairs = overlapping(images, labels, seed, batch_size, change)
    return dataclasses.replace(pairs, make=lambda *drawn: targets(*pairs.make(*drawn)))


def exact_match(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of the pictures whose classes are all among the largest outputs."""
    metric = ExactMatch(PARTS)
    metric.update_state(np.eye(outputs.shape[-1])[labels].max(1), outputs)
    return float(metric.result())
