"""Digits distorted at random: rotated, stretched, sheared, shifted, bent, thickened."""

import numpy as np

from pictures_of.batches import Batches, Change, stream
from pictures_of.sampling import bilinear

# The ranges of what is drawn anew for each digit; all but the smoothness grow with `strength`.
ROTATION = 15.0  # degrees, at most, to either side
SCALING = 0.15  # relative change of height and width at most, each on its own
SHEAR = 0.2  # columns by which neighbouring rows part at most
SHIFT = 1.5  # pixels at most
SMOOTHNESS = 4.0  # pixels: deviation of the Gaussian that smooths the elastic field
ELASTICITY = 1.1  # pixels: deviation of the elastic displacements
THICKENING = 0.4  # share by which a digit becomes its dilation or its erosion at most


def distorted(
    images: np.ndarray, labels: np.ndarray, seed: int, batch_size: int, strength: float = 1.0
) -> Batches:
    """Returns batches of distorted images, float32 from 0 to 255, and labels.

    Args:
        images: uint8 array `(n, height, width, 1)`.
        labels: Integer array `(n,)`.
        seed: Integer from 0 to 2³² - 1.
        batch_size: Positive integer.
        strength: Factor of all distortions.
    """
    return stream(images, labels, batch_size, seed, distortion(*images.shape[1:3], strength))


def distortion(height: int, width: int, strength: float = 1.0) -> Change:
    """Returns the random distortion of images `(b, height, width, 1)`, by a factor of strength."""
    most = np.float32(strength * THICKENING)
    tall, wide = _bumps(height), _bumps(width)
    tall *= np.float32(strength * ELASTICITY)
    # Places from the centre, for affine maps.
    rows, columns = np.mgrid[:height, :width].astype("float32")
    rows, columns = rows - (height - 1) / 2, columns - (width - 1) / 2

    def draw(rng, count):
        thickening = rng.uniform(-most, most, (count, 1, 1)).astype("float32")
        weights = rng.standard_normal((count, 2, len(tall), len(wide)), "float32")
        return thickening, _affine(rng.uniform(-strength, strength, (6, count))), weights

    def apply(images, thickening, maps, weights):
        thick = _thickened(images[..., 0].astype("float32"), thickening)
        by_row, by_column, shift = np.moveaxis(maps, -1, 0)[..., None, None]  # (b, 2, 1, 1) each
        # A product for each image: large ones would take all cores from the training.
        elastic = tall.T @ weights @ wide  # (b, 2, height, width)
        places = by_row * rows + by_column * columns + shift + elastic
        down, right = np.moveaxis(places, 1, 0)
        moved = bilinear(thick, down + (height - 1) / 2, right + (width - 1) / 2)
        return moved[..., None]

    return Change(draw, apply)


def _thickened(images, amount):
    """Returns images mixed with their dilations, or with their erosions where it is negative."""
    result = images.copy()
    for sign, extreme in ((1, np.maximum), (-1, np.minimum)):
        chosen = np.flatnonzero(sign * amount[:, 0, 0] > 0)
        around = np.pad(images[chosen], [(0, 0), (1, 1), (1, 1)])
        rows = extreme(extreme(around[:, :-2], around[:, 1:-1]), around[:, 2:])
        other = extreme(extreme(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
        result[chosen] += np.abs(amount[chosen]) * (other - images[chosen])
    return result


def _bumps(size):
    """Returns Gaussian bumps along an axis, `(k, size)`.

    Their products in two axes, with normal weights, make the elastic field of Simard et al. (2003):
    smoothed noise. Bumps as far apart as they are wide do for that, and are fewer than the pixels.
    """
    centres = np.arange(-SMOOTHNESS / 2, size + SMOOTHNESS, SMOOTHNESS)
    values = np.exp(-(((np.arange(size) - centres[:, None]) / SMOOTHNESS) ** 2) / 2)
    return (values / np.linalg.norm(values, axis=0)).astype("float32")


def _affine(draws):
    """Returns affine maps as weights of y, x and 1, `(count, 2, 3)`, of draws `(6, count)`."""
    angle, tall, wide, shear, down, right = draws
    angle = np.radians(ROTATION * angle)
    tall, wide, shear = 1 + SCALING * tall, 1 + SCALING * wide, SHEAR * shear
    sine, cosine = np.sin(angle), np.cos(angle)
    rows = [
        [tall * cosine, tall * sine, SHIFT * down],
        [wide * (shear * cosine - sine), wide * (shear * sine + cosine), SHIFT * right],
    ]
    return np.moveaxis(np.array(rows, "float32"), -1, 0)
