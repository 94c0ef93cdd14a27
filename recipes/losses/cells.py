"""What a cell of the loss study trains: networks that differ in their losses only."""

import dataclasses
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf

from kcaps.losses import CLASSIFICATION_LOSSES
from losses import toys
from losses.stacks import Stack
from pictures_of import data

IMAGES = ("mnist", "cifar10")
TOY_UNITS, TOY_BATCH, IMAGE_BATCH = 200, 50, 100
DROPOUT = 0.5  # of MNIST's networks
# Learning rate times iterations, whatever the preset: 0.00003 × 60,000 and 0.00003 × 100,000.
TOY_TRAVEL, IMAGE_TRAVEL = 1.8, 3.0
CONVNET_DEPTH = 4  # CIFAR-10's network is of one shape: three convolutions and a hidden layer
GATHERED = 100  # of its batches that are copied at once
MEASUREMENTS = 20  # of each network
MEASURED = 2_000  # images, before the last measurement
INPUT_NOISE = (0.02, 0.05, 0.1, 0.2, 0.4)  # variances, for pixels in [0, 1]
GRID = 120  # decisions along a side
PRESETS = {
    "paper": {
        "toy": 60_000,
        "linear": 100_000,
        "images": 100_000,
        "units": 512,
        "depths": (0, 1, 2, 3, 4, 5),
        "label_noise": (0.1, 0.25, 0.5, 0.75),
        "noisy": {"size": None, "travel": IMAGE_TRAVEL},  # size None: all training images
        "convnet": {"iterations": 100_000, "filters": 64, "travel": IMAGE_TRAVEL},
    },
    "quick": {
        "toy": 3_000,
        "linear": 20_000,
        "images": 2_000,
        "units": 256,
        "depths": (0, 1, 3, 5),
        "label_noise": (0.5,),
        # As many passes as in the paper: log loss learns the changed labels by heart. And a
        # rate with which deep networks train well.
        "noisy": {"size": 1_200, "travel": 0.6},
        "convnet": {"iterations": 1_000, "filters": 32, "travel": 1.0},
    },
}


class Convnet:
    """The paper's network for CIFAR-10, with one loss, behind `Stack`'s interface."""

    def __init__(self, loss, shape, num_classes, filters, learning_rate):
        self.loss, self.shape, self.num_classes = loss, shape, num_classes
        self.filters, self.learning_rate = filters, learning_rate

    def restart(self, seed):
        keras.utils.set_random_seed(seed)
        layers = []
        for pool in (keras.layers.MaxPooling2D, *[keras.layers.AveragePooling2D] * 2):
            layers.append(keras.layers.Conv2D(self.filters, 5, padding="same", activation="relu"))
            layers.append(keras.layers.BatchNormalization())
            layers.append(pool(3, strides=2, padding="same"))
        layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu")]
        layers.append(keras.layers.Dense(self.num_classes))  # the losses have the softmax
        self.model = keras.Sequential([keras.Input(self.shape), *layers])
        optimizer = keras.optimizers.Adam(self.learning_rate)
        # XLA's gradients of convolutions are slow on CPUs.
        self.model.compile(optimizer, CLASSIFICATION_LOSSES[self.loss](), jit_compile=False)

    def train(self, inputs, labels, batches):
        for start in range(0, len(batches), GATHERED):
            part = batches[start : start + GATHERED]
            x, y = (array[part.ravel()] for array in (inputs, labels))
            self.model.fit(x, y, batch_size=part.shape[1], shuffle=False, verbose=0)

    def predict(self, inputs):
        return self.model.predict(inputs, batch_size=500, verbose=0).argmax(-1)[None]

    def accuracies(self, inputs, labels):
        return np.mean(self.predict(inputs) == labels, axis=1)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs and integer labels in two splits: points, rows of pixels in [0, 1], or images."""

    title: str
    train: tuple
    test: tuple


def load(name, args):
    """The examples of a data set, as `Examples`."""
    return _load(name, args.seed, args.data_dir, args.limit, args.synthetic)


@functools.cache
def _load(name, seed, data_dir, limit, synthetic):
    if name in toys.TOYS:
        return Examples(name, *toys.make(name, seed))
    images = data.load(name, data_dir, limit, synthetic)
    x, y = map(np.concatenate, zip(images.train, images.validation, strict=True))
    splits = []
    for pixels, labels in ((x, y), images.test):
        pixels = pixels.astype("float32") / 255
        splits.append((pixels if name == "cifar10" else pixels.reshape(len(pixels), -1), labels))
    # A study takes all training images, as published, and looks at test images while it trains.
    return Examples(images.title, *splits)


def iterations_of(name, depth, args):
    """How many chunks of how many iterations, with a measurement after each."""
    preset = PRESETS[args.preset]
    kind = "toy" if name in toys.TOYS else "images" if depth else "linear"
    by_preset = preset["convnet"]["iterations"] if name == "cifar10" else preset[kind]
    asked = args.iterations or by_preset
    chunk = max(1, asked // MEASUREMENTS)
    return asked // chunk, chunk


@functools.lru_cache(maxsize=1)
def network(kind, losses, widths, rate):
    """Of one shape, for all its cells: what is compiled serves them all."""
    if kind == "cifar10":
        *shape, filters, num_classes = widths
        return Convnet(*losses, tuple(shape), num_classes, filters, rate)
    functions = [CLASSIFICATION_LOSSES[loss].function for loss in losses]
    is_small = kind == "toy" or len(widths) == 2
    return Stack(functions, widths, rate, DROPOUT if kind == "mnist" else 0.0, is_small)


def noisy(labels, share, num_classes, seed):
    """Labels of which that share is changed, each to another class."""
    rng = np.random.default_rng([seed, 1])
    changed = rng.permutation(len(labels))[: round(share * len(labels))]
    labels = labels.copy()
    labels[changed] = (labels[changed] + rng.integers(1, num_classes, len(changed))) % num_classes
    return labels


def batches_of(size, batch, rng):
    """Endless indices `(batch,)`: each pass has each example once, but for the last few."""
    batch = min(batch, size)
    while True:
        order = rng.permutation(size)
        yield from order[: size - size % batch].reshape(-1, batch)


def run(cell, args):
    """Trains the networks of a cell: rows of their curves, and of their input noise."""
    name, depth, share, losses = cell
    is_toy = name in toys.TOYS
    examples = load(name, args)
    preset = PRESETS[args.preset]
    travel = TOY_TRAVEL if is_toy else IMAGE_TRAVEL
    if name == "cifar10":
        travel = preset["convnet"]["travel"]
    elif share and depth:  # a linear network learns little by heart
        noise_preset = preset["noisy"]
        travel = noise_preset["travel"]
        kept = tuple(part[: noise_preset["size"]] for part in examples.train)
        examples = dataclasses.replace(examples, train=kept)
    x, y = examples.train
    num_classes = toys.NUM_CLASSES if is_toy else 10
    units = TOY_UNITS if is_toy else args.units or preset["units"]
    hidden = [preset["convnet"]["filters"]] if name == "cifar10" else [units] * depth
    measurements, chunk = iterations_of(name, depth, args)
    rate = args.learning_rate or travel / (measurements * chunk)
    widths = (*x.shape[1:], *hidden, num_classes)
    net = network("toy" if is_toy else name, losses, widths, rate)
    net.restart(args.seed + depth)
    labels = noisy(y, share, num_classes, args.seed)
    # All cells of a data set see the same batches.
    batch = TOY_BATCH if is_toy else IMAGE_BATCH
    stream = batches_of(len(x), batch, np.random.default_rng([args.seed, 2]))
    chunks = [np.stack(list(itertools.islice(stream, chunk))) for _ in range(measurements)]
    common = {"data": name, "depth": depth, "label_noise": share}
    curves, noise = [], []
    for iteration, train, test in train_and_measure(net, examples, labels, chunks):
        curves += [
            {
                **common,
                "loss": loss,
                "iteration": iteration,
                "train_accuracy": round(float(train[i]), 6),
                "test_accuracy": round(float(test[i]), 6),
            }
            for i, loss in enumerate(losses)
        ]
    if name == "mnist" and not share:
        for variance, found in under_input_noise(net, x[:MEASURED], y[:MEASURED], args.seed):
            noise += [
                {**common, "loss": loss, "variance": variance, "train_accuracy": float(accuracy)}
                for loss, accuracy in zip(losses, found, strict=True)
            ]
    if is_toy:
        np.save(args.output / f"decisions_{name}_{depth}.npy", decisions(net))
    return curves, noise


def train_and_measure(net, examples, labels, chunks):
    """Yields iterations and each network's accuracies: on labels as trained, and on the test's.

    Before the first chunk of batches and after each one; on all examples after the last.
    """
    (x, _), (test_x, test_y) = examples.train, examples.test
    inputs = tf.constant(x) if x.ndim == 2 else x

    def measure(size):
        return net.accuracies(x[:size], labels[:size]), net.accuracies(test_x[:size], test_y[:size])

    yield 0, *measure(MEASURED)
    iteration = 0
    for batches in chunks:
        net.train(inputs, labels, batches)
        iteration += len(batches)
        yield iteration, *measure(None if batches is chunks[-1] else MEASURED)


def under_input_noise(net, x, y, seed):
    """Yields variances of normal noise and each network's accuracies."""
    rng = np.random.default_rng([seed, 3])
    for variance in (0.0, *INPUT_NOISE):
        noise = rng.normal(scale=variance**0.5, size=x.shape)
        yield variance, net.accuracies((x + noise).astype("float32"), y)


def decisions(net):
    """The class that each network gives to each point of a grid: `(n, GRID, GRID)`."""
    steps = np.linspace(-1, 1, GRID, dtype="float32")
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    return net.predict(grid).reshape(-1, GRID, GRID).astype("uint8")
