"""Tasks that methods are compared on: images, batches without end, and what counts as right."""

import collections.abc
import dataclasses

import numpy as np
import tensorflow as tf

from harness import training
from kcaps.metrics import ExactMatch
from pictures_of import data, distortions, overlaps, robustness

SHIFT = 2  # pixels that images of clothes are shifted by at most
STRENGTH = 0.5  # of distortions: half of those that EM has in distorted_mnist.py


@dataclasses.dataclass(frozen=True)
class Task:
    """Args:
    images: `data.Images` that the task is made of.
    batches: Function `(batch_size, seed, first_step)` that returns training batches without end.
    validation: Inputs and targets.
    test: Inputs and labels.
    metric: Name of the accuracy.
    """

    images: data.Images
    batches: collections.abc.Callable
    validation: tuple
    test: tuple
    metric: str = "accuracy"

    @property
    def input_shape(self):
        return self.test[0].shape[1:]

    def make_metric(self):
        return "accuracy" if self.metric == "accuracy" else ExactMatch(overlaps.PARTS)

    def accuracy(self, model, batch_size):
        """Share of the test inputs that a model gets right."""
        outputs = model.predict(self.test[0], batch_size=batch_size, verbose=0)
        if self.metric == "accuracy":
            return float(np.mean(outputs.argmax(-1) == self.test[1]))
        return overlaps.exact_match(outputs, self.test[1])


def plain(images, augment=None):
    """The images as they are; with `augment`, a function as for `training.run`."""

    def batches(batch_size, seed, first_step):
        return training.stream(*images.train, batch_size, seed, first_step, augment)

    return Task(images, batches, images.validation, images.test)


def distorted(images):
    """Digits distorted anew in each pass; validation and test as they are."""

    def batches(batch_size, seed, first_step):
        return distortions.distorted(*images.train, seed, batch_size, first_step, STRENGTH)

    return Task(images, batches, images.validation, images.test)


def clothes(images):
    """Images mirrored and shifted at random; validation and test as they are."""
    return plain(images, mirrored_and_shifted)


def mirrored_and_shifted(batch, seed):
    """Each image mirrored or not, and moved by whole pixels."""
    seeds = tf.random.experimental.stateless_split(seed, 2)
    mirrored = tf.random.stateless_uniform((len(batch), 1, 1, 1), seeds[0]) < 0.5
    batch = tf.where(mirrored, batch[:, :, ::-1], batch)
    return overlaps.shifted(batch[:, None], SHIFT, seeds[1])[:, 0, SHIFT:-SHIFT, SHIFT:-SHIFT]


def overlapping(images):
    """Two digits in one picture, both to be found."""

    def batches(batch_size, seed, first_step):
        pairs = overlaps.overlapping(*images.train, seed, batch_size, first_step)
        return pairs.map(overlaps.targets)

    validation, test = overlaps.held_out(images)
    name = ExactMatch(overlaps.PARTS).name
    return Task(images, batches, overlaps.targets(*validation), test[:2], name)


def placed(images):
    """Digits at random places of a larger canvas."""

    def batches(batch_size, seed, first_step):
        return robustness.placed(*images.train, seed, batch_size, first_step)

    held_out = [
        (robustness.canvas(part[0], overlaps.HELD_OUT_SEED), part[1])
        for part in (images.validation, images.test)
    ]
    return Task(images, batches, *held_out)


TASKS = {  # name of the images, and what is made of them
    "mnist": ("mnist", plain),
    "fashion_mnist": ("fashion_mnist", plain),
    "cifar10": ("cifar10", plain),
    "distorted_mnist": ("mnist", distorted),
    "moved_fashion_mnist": ("fashion_mnist", clothes),
    "multi_mnist": ("mnist", overlapping),
    "placed_mnist": ("mnist", placed),
}


def load(name, args):
    """The task of a name.

    Args:
        name: One of `TASKS`.
        args: Arguments `data_dir`, `limit` and `synthetic`, as for `data.load`.
    """
    images, make = TASKS[name]
    return make(data.load(images, args.data_dir, args.limit, args.synthetic))
