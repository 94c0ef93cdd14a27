"""Random changes of training images by their names: mirrored, shifted, partly covered, bent."""

from collections.abc import Sequence

import numpy as np

from export.command import fail
from pictures_of import distortions, sampling
from pictures_of.batches import Change
from pictures_of.data import Images

NAMES = ("mirror", "shift", "cutout", "elastic", "half-pixel")
HALF_PIXEL = 0.55  # pixels that `half_pixel` moves images by at most: 1,293 digits are few
ELASTIC_STRENGTH = 0.5  # of what `distorted_mnist.py` does to digits


def named(names: Sequence[str], images: Images, max_shift: int, cutout_size: int) -> Change | None:
    """Returns the changes of these names, one after the other, or None for no name.

    Ends the program where a change cannot be had with these images.

    Args:
        names: Some of `NAMES`.
        images: Images, whose training images are to be changed.
        max_shift: Pixels that `"shift"` moves an image by at most.
        cutout_size: Pixels of a side of the square that `"cutout"` covers.
    """
    height, width, channels = images.shape
    if "elastic" in names and channels != 1:
        fail(f"--augment elastic is for images of one channel. Received: {images.shape}.")
    if "shift" in names and max_shift >= min(height, width):
        fail(f"--max-shift must be less than {min(height, width)} pixels. Received: {max_shift}.")
    if "cutout" in names and cutout_size > min(height, width):
        fail(f"--cutout-size must be {min(height, width)} at most. Received: {cutout_size}.")
    makers = {
        "mirror": mirror,
        "shift": lambda: shift(max_shift),
        "cutout": lambda: cutout(height, width, cutout_size, mean_colour(images.train[0])),
        "elastic": lambda: distortions.distortion(height, width, ELASTIC_STRENGTH),
        "half-pixel": half_pixel,
    }
    # The order does not depend on that of the command line: squares are covered last.
    chosen = [makers[name]() for name in NAMES if name in names and name != "cutout"]
    chosen += [makers["cutout"]()] if "cutout" in names else []
    return in_turn(*chosen) if chosen else None


def in_turn(*changes: Change) -> Change:
    """Returns the change that makes several changes one after the other."""
    if len(changes) == 1:
        return changes[0]
    # How many arrays each of them draws.
    counts = [len(change.draw(np.random.default_rng(0), 1)) for change in changes]

    def draw(rng, count):
        return tuple(array for change in changes for array in change.draw(rng, count))

    def apply(images, *arrays):
        turns, arrays = (arrays[:1], arrays[1:]) if alternates else ((), arrays)
        for change, count in zip(changes, counts, strict=True):
            own, arrays = arrays[:count], arrays[count:]
            images = change.apply(images, *(turns if change.alternates else ()), *own)
        return images

    alternates = any(change.alternates for change in changes)
    return Change(draw, apply, alternates)


def mirror() -> Change:
    """Returns the change that mirrors an image from left to right in every second pass.

    Whether that is in its first pass is at random. Of two passes, a network therefore sees both
    forms of each image, where mirroring at random shows one of them twice for half of the images
    (Jordan, 2024, https://arxiv.org/abs/2404.00498).
    """
    return Change(lambda rng, count: (), mirrored, alternates=True)


def random_mirror() -> Change:
    """Returns the change that mirrors half of the images, drawn anew in each batch."""
    return Change(lambda rng, count: (rng.random(count) < 0.5,), mirrored)


def shift(pixels: int, border: str = "reflect") -> Change:
    """Returns the change that moves images by whole pixels.

    Args:
        pixels: Most pixels, to every side.
        border: What surrounds an image, a `mode` of `numpy.pad`: `"reflect"`, its reflection, or
            `"constant"`, black.
    """

    def draw(rng, count):
        return (sampling.corners(rng, count, pixels),)

    return Change(draw, lambda images, corners: sampling.moved(images, corners, pixels, border))


def cutout(height: int, width: int, size: int, colour: np.ndarray) -> Change:
    """Returns the change that covers a square of each image, which lies within the image.

    Args:
        height, width: Size of an image.
        size: Pixels of a side of the square.
        colour: Array `(channels,)` that covers it.

    Reference:

    - [DeVries and Taylor, 2017](https://arxiv.org/abs/1708.04552), where squares may lie partly
      outside.
    """
    places = (height - size + 1, width - size + 1)

    def apply(images, corners):
        result = images.copy()
        fill = colour.astype(images.dtype)
        for image, (row, column) in zip(result, corners.tolist(), strict=True):
            image[row : row + size, column : column + size] = fill
        return result

    return Change(lambda rng, count: (rng.integers(places, size=(count, 2)),), apply)


def half_pixel() -> Change:
    """Returns the change that moves images by about half a pixel, by bilinear interpolation."""

    def draw(rng, count):
        return (rng.uniform(-HALF_PIXEL, HALF_PIXEL, (count, 2)),)

    return Change(draw, _interpolated)


def _interpolated(images, offsets):
    """Returns images moved by offsets `(b, 2)`, in pixels."""
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    down, right = np.transpose(offsets)[..., None, None]
    return np.stack(
        [
            sampling.bilinear(images[..., channel].astype("float32"), rows + down, columns + right)
            for channel in range(images.shape[-1])
        ],
        axis=-1,
    )


def mean_colour(images: np.ndarray) -> np.ndarray:
    """Returns the mean of the pixels of images in each channel, rounded."""
    return np.rint(images.mean((0, 1, 2), dtype="float64"))


def mirrored(images: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """Returns images of which some are mirrored from left to right.

    Args:
        images: Array `(b, height, width, channels)`.
        chosen: Booleans `(b,)`, by default for all images.
    """
    if chosen is None:
        return images[:, :, ::-1]
    result, some = images.copy(), images[chosen]
    backwards = np.empty_like(some)
    for channel in range(images.shape[-1]):  # NumPy takes three times as long for all at once.
        backwards[..., channel] = some[:, :, ::-1, channel]
    result[chosen] = backwards
    return result
