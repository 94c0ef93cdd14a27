"""Images that try a trained network: moved by affine maps, in random places, or noisy.

References:

- [affNIST](https://www.cs.toronto.edu/~tijmen/affNIST/) (the affine maps).
- [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 5.2 (training on digits that are
  shifted and not distorted otherwise).
"""

import numpy as np
from scipy import ndimage

from kcaps.models.architectures import PIXEL_MAX
from kcaps.validation import fraction
from pictures_of import sampling
from pictures_of.batches import Batches, Change, stream

MARGIN = 6  # pixels of canvas on every side of an image: 40 × 40 for MNIST, as in affNIST

# affNIST's ranges.
ROTATION = 20.0  # degrees at most, to either side
SHEAR = 0.2  # columns by which neighbouring rows part at most
EXPANSION = (0.8, 1.2)  # factor of the height and of the width, each on its own


def affine(images: np.ndarray, seed: int) -> np.ndarray:
    """Returns images moved by `transformations` of affNIST's ranges, the same for the same seed."""
    return transformed(images, transformations(images, seed))


def transformations(images: np.ndarray, seed: int) -> np.ndarray:
    """Returns a random affine map of each image: rotation, shear, expansion and translation.

    Translations are uniform over those that leave all of the image's ink on the canvas. Ink that
    is too large for the canvas is centred on it.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        seed: Integer >= 0.

    Returns:
        Array `(n, 6)`: degrees counterclockwise, shear, factors of height and width, and pixels
        down and to the right.
    """
    low = np.array([-ROTATION, -SHEAR, EXPANSION[0], EXPANSION[0]])
    high = np.array([ROTATION, SHEAR, EXPANSION[1], EXPANSION[1]])
    # In one draw, by rows: an image's map does not depend on how many images follow.
    draws = np.random.default_rng(seed).uniform(size=(len(images), 6))
    maps = low + (high - low) * draws[:, :4]
    first, last = np.stack(list(map(_translations, images, _matrices(maps))), axis=1)
    return np.hstack([maps, first + (last - first) * draws[:, 4:]])


def transformed(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns images moved by affine maps about their centres, by bilinear interpolation.

    An image is rotated, sheared, expanded and translated, in this order. What surrounds it is
    black.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        maps: Array `(n, 6)`, as from `transformations`.

    Returns:
        uint8 array `(n, height + 12, width + 12, channels)`.
    """
    count, height, width, channels = images.shape
    moved = np.empty((count, height + 2 * MARGIN, width + 2 * MARGIN, channels), "uint8")
    centre = (np.array([height, width]) - 1) / 2
    # SciPy asks where in the image a place of the canvas comes from.
    inverses = np.linalg.inv(_matrices(maps))
    offsets = centre - np.einsum("nij,nj->ni", inverses, centre + MARGIN + maps[:, 4:])
    for result, image, inverse, offset in zip(moved, images, inverses, offsets, strict=True):
        for channel in range(channels):
            values = ndimage.affine_transform(
                image[..., channel].astype("float64"),
                inverse,
                offset,
                output_shape=result.shape[:2],
                order=1,
                mode="grid-constant",
            )
            result[..., channel] = np.rint(values)
    return moved


def _matrices(maps):
    """Returns matrices `(n, 2, 2)` that rotate, shear and expand `(y, x)` from the centre."""
    angle, shear, tall, wide = np.transpose(maps[:, :4])
    angle = np.radians(angle)
    sine, cosine = np.sin(angle), np.cos(angle)
    # y points down, so that counterclockwise is from x to -y.
    rows = [
        [tall * cosine, -tall * sine],
        [wide * (sine + shear * cosine), wide * (cosine - shear * sine)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _translations(image, matrix):
    """Returns the first and last translation `(2, 2)` with which no ink falls off the canvas."""
    size = np.array(image.shape[:2])
    ink = np.argwhere(image.any(-1) if image.any() else np.ones(size, bool))
    places = (ink - (size - 1) / 2) @ matrix.T + (size - 1) / 2 + MARGIN
    # Bilinear interpolation spreads a pixel by less than one pixel of the image.
    spread = np.abs(matrix).sum(1)
    first = -1 - (places.min(0) - spread)
    last = size + 2 * MARGIN - (places.max(0) + spread)
    middle = (first + last) / 2
    return np.where(first <= last, [first, last], middle)


def placed(images: np.ndarray, labels: np.ndarray, seed: int, batch_size: int) -> Batches:
    """Returns batches of images at random places of a wider canvas, and labels.

    Images come in shuffled passes, shifted by whole pixels in another way in each pass.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        labels: Integer array `(n,)`.
        seed: Integer from 0 to 2³² - 1.
        batch_size: Positive integer.

    Returns:
        Batches of float32 images `(batch_size, height + 12, width + 12, channels)` from 0 to 255,
        and labels `(batch_size,)`.
    """
    return stream(images, labels, batch_size, seed, PLACEMENT)


PLACEMENT = Change(
    draw=lambda rng, count: (sampling.corners(rng, count, MARGIN),),
    apply=lambda images, corners: sampling.placed(images, corners, MARGIN),
)


def canvas(images: np.ndarray, seed: int) -> np.ndarray:
    """Returns each of the images once at a random place of a wider canvas, as `placed` does."""
    return PLACEMENT.apply(images, *PLACEMENT.draw(np.random.default_rng(seed), len(images)))


def noisy(images: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """Returns images with Gaussian noise, cut to 0 … 255.

    Args:
        images: Array of pixels from 0 to 255.
        deviation: Standard deviation of the noise as a share of 255.
        seed: Integer >= 0.

    Returns:
        float32 array of the same shape.

    Raises:
        ValueError: for a deviation that is not a number from 0 to 1.
    """
    deviation = PIXEL_MAX * fraction("deviation", deviation)
    noise = np.random.default_rng(seed).standard_normal(np.shape(images), dtype="float32")
    return np.clip(images + np.float32(deviation) * noise, 0, PIXEL_MAX)
