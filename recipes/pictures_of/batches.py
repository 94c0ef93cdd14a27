"""Batches without end, each a function of its number and of a seed, on every backend alike."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np

from harness.provenance import gpu_name

_MOST_ON_DEVICE = 2**31  # bytes of images that a GPU keeps
_ORDER, _DRAWS, _TURNS = 0, 1, 2  # what a seed's random numbers are for


@dataclasses.dataclass(frozen=True)
class Change:
    """A random change of images.

    Args:
        draw: Function of a `numpy.random.Generator` and a number of images that returns a tuple of
            arrays, which have a row for each image.
        apply: Function of images `(b, height, width, channels)` and rows of these arrays that
            returns the changed images.
        alternates: Whether `apply` takes, right after the images, booleans `(b,)` that tell
            whether it is an image's turn: they alternate from pass to pass, and begin at random.
            Defaults to False.
    """

    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, ...]]
    apply: Callable[..., np.ndarray]
    alternates: bool = False


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches by their number, in shuffled passes over examples that are numbered, too.

    Each pass has every example once, in an order of its own. Batches go on from pass to pass. A
    resumed run therefore has the batches that an uninterrupted one would have had.

    Args:
        count: Number of examples.
        size: Examples of a batch.
        seed: Integer from 0 to 2³² - 1.
        make: Function of indices `(b,)`, and of rows of what was drawn, that returns a batch.
        draw: What is drawn for a batch, as in `Change`. Defaults to nothing.
        tells_passes: Whether `make` takes, right after the indices, the number of the pass that
            each of them is of, `(b,)`. Defaults to False.

    Example:

    >>> batches = Batches(5, 2, seed=0, make=lambda indices: (indices,))
    >>> sorted(int(n) for number in range(5) for n in batches(number)[0])
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """

    count: int
    size: int
    seed: int
    make: Callable[..., tuple]
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, ...]] = lambda rng, size: ()
    tells_passes: bool = False

    def __call__(self, number: int, part: slice = slice(None)) -> tuple:
        """Returns the batch of that number, or a part of it, which alone is made."""
        places = np.arange(number * self.size, (number + 1) * self.size)[part]
        passes, places = np.divmod(places, self.count)
        indices = np.empty_like(places)
        for each in np.unique(passes):
            chosen = passes == each
            indices[chosen] = _order(self.count, self.seed, int(each))[places[chosen]]
        rng = np.random.default_rng([self.seed, _DRAWS, number])
        told = (indices, passes) if self.tells_passes else (indices,)
        # All is drawn, whatever the part: a picture does not depend on who makes it.
        return self.make(*told, *(rows[part] for rows in self.draw(rng, self.size)))


@functools.lru_cache(maxsize=4)  # Batches that are made side by side are of one pass or of two.
def _order(count, seed, number):
    """Returns the order of the examples in a pass."""
    return np.random.default_rng([seed, _ORDER, number]).permutation(count)


def turns(count: int, seed: int, indices: np.ndarray, passes: np.ndarray) -> np.ndarray:
    """Returns whether it is the turn of examples: in every second pass, of the first at random.

    Args:
        count: Number of all examples.
        seed: Integer from 0 to 2³² - 1.
        indices: Integer array of any shape.
        passes: Numbers of passes, of a shape that broadcasts to that of the indices.
    """
    return _first_turns(count, seed)[indices] ^ (passes % 2 == 1)


@functools.lru_cache(maxsize=4)
def _first_turns(count, seed):
    """Returns whether it is the turn of each example in the first pass."""
    return np.random.default_rng([seed, _TURNS]).random(count) < 0.5


def stream(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    change: Change | None = None,
) -> Batches:
    """Returns shuffled batches of float32 images, and labels.

    Args:
        images: uint8 array `(n, height, width, channels)`. A GPU keeps them, as far as they are
            not changed, and fit.
        labels: Integer array `(n,)`.
        batch_size: Positive integer.
        seed: Integer from 0 to 2³² - 1.
        change: A random change of the images, or None.
    """
    if change is None:
        take = _gather_from(images)
        return Batches(len(images), batch_size, seed, lambda rows: (take(rows), labels[rows]))

    def make(rows, passes, *draws):
        if change.alternates:
            draws = (turns(len(images), seed, rows, passes), *draws)
        return change.apply(images[rows], *draws).astype("float32"), labels[rows]

    return Batches(len(images), batch_size, seed, make, change.draw, tells_passes=True)


def _gather_from(images):
    """Returns a function from indices to float32 images, from those on the GPU where there is one.

    TensorFlow's batches come through `tf.data`, which makes them on the CPU.
    """
    on_cpu = keras.backend.backend() == "tensorflow" or gpu_name() is None
    if on_cpu or images.nbytes > _MOST_ON_DEVICE:
        return lambda indices: images[indices].astype("float32")
    kept = keras.ops.convert_to_tensor(images)
    return lambda indices: keras.ops.cast(keras.ops.take(kept, indices, axis=0), "float32")
