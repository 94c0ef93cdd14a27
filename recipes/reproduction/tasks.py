"""Tasks that methods are compared on: images, batches without end, and what counts as right."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np

from harness.settings import ImageSettings
from kcaps.metrics import ExactMatch
from pictures_of import augmentation, data, distortions, overlaps, robustness
from pictures_of.batches import Batches, Change, stream

SHIFT = 2  # pixels that images are shifted by at most, as by Sabour et al.


@dataclasses.dataclass(frozen=True)
class Task:
    """Inputs to train on and to test, which are made of images."""

    images: data.Images
    batches: Callable[[int, int], Batches]  # takes a seed and a batch size
    validation: tuple  # inputs and targets
    test: tuple  # inputs and labels
    metric: str = "accuracy"  # name of the accuracy

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.test[0].shape[1:]

    def make_metric(self) -> str | keras.Metric:
        """Returns the accuracy, as for `compile`."""
        return "accuracy" if self.metric == "accuracy" else ExactMatch(overlaps.PARTS)

    def accuracy(self, model: keras.Model, batch_size: int) -> float:
        """Returns the share of the test inputs that a model gets right."""
        outputs = model.predict(self.test[0], batch_size=batch_size, verbose=0)
        if self.metric == "accuracy":
            return float(np.mean(outputs.argmax(-1) == self.test[1]))
        return overlaps.exact_match(outputs, self.test[1])


def plain(images: data.Images, change: Change | None = None) -> Task:
    """Returns the task of images as they are, or changed at random."""

    def shuffled(seed, batch_size):
        return stream(*images.train, batch_size, seed, change)

    return Task(images, shuffled, images.validation, images.test)


def distorted(images: data.Images) -> Task:
    """Returns the task of digits distorted anew in each pass, and not in validation and test."""
    return plain(images, distortions.distortion(*images.shape[:2], augmentation.ELASTIC_STRENGTH))


# Images are mirrored or not, and moved by whole pixels; digits are not mirrored.
_MOVED = augmentation.shift(SHIFT, "constant")
MIRRORED_AND_SHIFTED = augmentation.in_turn(augmentation.random_mirror(), _MOVED)


def _draw_moves(rng, count):
    """Draws what moves digits, after numbers that digits have no use for.

    Runs that were begun with these pictures go on with them: clothes are mirrored by the numbers.
    """
    rng.random(count)
    return _MOVED.draw(rng, count)


SHIFTED = dataclasses.replace(_MOVED, draw=_draw_moves)


def varied(images: data.Images) -> Task:
    """Returns the task of photographs, mirrored in turn and shifted, as `cifar10.py` has them."""
    return plain(images, augmentation.named(("mirror", "shift"), images, SHIFT, 1))


def overlapping(images: data.Images) -> Task:
    """Returns the task of two digits in one picture, both to be found."""
    pairs = functools.partial(overlaps.training_batches, *images.train)
    validation, test = overlaps.held_out(images)
    name = ExactMatch(overlaps.PARTS).name
    return Task(images, pairs, overlaps.targets(*validation), test[:2], name)


def placed(images: data.Images) -> Task:
    """Returns the task of digits at random places of a larger canvas."""
    held_out = [
        (robustness.canvas(x, overlaps.HELD_OUT_SEED), labels)
        for x, labels in (images.validation, images.test)
    ]
    return Task(images, functools.partial(robustness.placed, *images.train), *held_out)


TASKS = {  # names of images, and functions that make a task of them
    "mnist": ("mnist", plain),
    "fashion_mnist": ("fashion_mnist", plain),
    "cifar10": ("cifar10", plain),
    "distorted_mnist": ("mnist", distorted),
    "moved_mnist": ("mnist", lambda images: plain(images, SHIFTED)),
    "moved_fashion_mnist": ("fashion_mnist", lambda images: plain(images, MIRRORED_AND_SHIFTED)),
    "multi_mnist": ("mnist", overlapping),
    "placed_mnist": ("mnist", placed),
    "varied_cifar10": ("cifar10", varied),
}


def load(name: str, settings: ImageSettings) -> Task:
    """Returns the task of a name in `TASKS`, of the images that settings ask for."""
    images, make = TASKS[name]
    return make(settings.load_images(images))
