"""Pixels of images at other places than their own."""

import numpy as np
from scipy import ndimage


def bilinear(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the pixels of images at places between their own, by bilinear interpolation.

    What surrounds an image is black.

    Args:
        images: float32 array `(b, height, width)`.
        rows: Array `(b, height', width')` of places, in pixels.
        columns: The same of columns.

    Returns:
        float32 array `(b, height', width')`.
    """
    numbers = np.broadcast_to(np.arange(len(images)).reshape(-1, 1, 1), rows.shape)
    places = [numbers, rows, columns]
    return ndimage.map_coordinates(images, places, order=1, mode="grid-constant")


def placed(images: np.ndarray, corners: np.ndarray, margin: int) -> np.ndarray:
    """Returns images at places of a canvas that is wider by a margin on every side.

    Args:
        images: Array `(b, height, width, channels)`.
        corners: Integers `(b, 2)` from 0 to twice the margin: an image's first row and column.
        margin: Positive integer, in pixels.

    Returns:
        Array `(b, height + 2 margin, width + 2 margin, channels)` of the images' type.
    """
    count, height, width, channels = images.shape
    canvas = np.zeros((count, height + 2 * margin, width + 2 * margin, channels), images.dtype)
    for each, image, (row, column) in zip(canvas, images, corners, strict=True):
        each[row : row + height, column : column + width] = image
    return canvas


def corners(rng: np.random.Generator, count: int | tuple, margin: int) -> np.ndarray:
    """Returns random corners for `placed`, all alike probable, `(count, 2)`."""
    shape = (count, 2) if isinstance(count, int) else (*count, 2)
    return rng.integers(2 * margin + 1, size=shape)


def moved(images: np.ndarray, corners: np.ndarray, margin: int, border: str) -> np.ndarray:
    """Returns images moved by whole pixels within their frame.

    Args:
        images: Array `(b, height, width, channels)`.
        corners: Integers `(b, 2)` from 0 to twice the margin, as for `placed`: rows and columns
            that an image is moved down and right by, and the margin with them.
        margin: Most pixels that an image moves by.
        border: What surrounds an image, a `mode` of `numpy.pad`.

    Returns:
        Array of the images' shape and type.
    """
    count, height, width, channels = images.shape
    padded = np.pad(images, [(0, 0), (margin, margin), (margin, margin), (0, 0)], mode=border)
    padded = np.ascontiguousarray(padded)  # which rows of pixels in the windows rely on
    windows = np.lib.stride_tricks.as_strided(  # (b, 2 margin + 1, 2 margin + 1, height, width c)
        padded,
        (count, 2 * margin + 1, 2 * margin + 1, height, width * channels),
        (*padded.strides[:3], *padded.strides[1::2]),
        writeable=False,
    )
    down, right = np.transpose(2 * margin - corners)
    return windows[np.arange(count), down, right].reshape(images.shape)
