"""Tasks that methods are compared on: images, batches without end, and what counts as right."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from harness.settings import ImageSettings
from kcaps.metrics import ExactMatch
from pictures_of import batches, data, distortions, overlaps, robustness

SHIFT = 2  # pixels that images of clothes are shifted by at most
STRENGTH = 0.5  # distortions are half as strong as in distorted_mnist.py


@dataclasses.dataclass(frozen=True)
class Task:
    """Inputs to train on and to test, which are made of images."""

    images: data.Images
    batches: Callable[[int, int, int], tf.data.Dataset]  # takes batch size, seed, first step
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


def plain(images: data.Images, augment: Callable | None = None) -> Task:
    """Returns the task of images as they are, or changed by a function as of `batches.stream`."""

    def shuffled(batch_size, seed, first_step):
        return batches.stream(*images.train, batch_size, seed, first_step, augment)

    return Task(images, shuffled, images.validation, images.test)


def distorted(images: data.Images) -> Task:
    """Returns the task of digits distorted anew in each pass, and not in validation and test."""

    def changed(batch_size, seed, first_step):
        return distortions.distorted(*images.train, seed, batch_size, first_step, STRENGTH)

    return Task(images, changed, images.validation, images.test)


def mirrored_and_shifted(batch: tf.Tensor, seed: tuple[int, int]) -> tf.Tensor:
    """Returns images `(b, height, width, channels)`, mirrored or not, moved by whole pixels."""
    seeds = tf.random.experimental.stateless_split(seed, 2)
    mirrored = tf.random.stateless_uniform((len(batch), 1, 1, 1), seeds[0]) < 0.5
    batch = tf.where(mirrored, batch[:, :, ::-1], batch)
    return overlaps.shifted(batch[:, None], SHIFT, seeds[1])[:, 0, SHIFT:-SHIFT, SHIFT:-SHIFT]


def overlapping(images: data.Images) -> Task:
    """Returns the task of two digits in one picture, both to be found."""

    def pairs(batch_size, seed, first_step):
        made = overlaps.overlapping(*images.train, seed, batch_size, first_step)
        return made.map(overlaps.targets)

    validation, test = overlaps.held_out(images)
    name = ExactMatch(overlaps.PARTS).name
    return Task(images, pairs, overlaps.targets(*validation), test[:2], name)


def placed(images: data.Images) -> Task:
    """Returns the task of digits at random places of a larger canvas."""

    def moved(batch_size, seed, first_step):
        return robustness.placed(*images.train, seed, batch_size, first_step)

    held_out = [
        (robustness.canvas(x, overlaps.HELD_OUT_SEED), labels)
        for x, labels in (images.validation, images.test)
    ]
    return Task(images, moved, *held_out)


TASKS = {  # names of images, and functions that make a task of them
    "mnist": ("mnist", plain),
    "fashion_mnist": ("fashion_mnist", plain),
    "cifar10": ("cifar10", plain),
    "distorted_mnist": ("mnist", distorted),
    "moved_fashion_mnist": ("fashion_mnist", lambda images: plain(images, mirrored_and_shifted)),
    "multi_mnist": ("mnist", overlapping),
    "placed_mnist": ("mnist", placed),
}


def load(name: str, settings: ImageSettings) -> Task:
    """Returns the task of a name in `TASKS`, of the images that settings ask for."""
    images, make = TASKS[name]
    return make(settings.load_images(images))
