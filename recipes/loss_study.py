"""Compares the twelve classification losses: speed, accuracy, robustness (Janocha and Czarnecki).

Networks that differ in their losses only are trained side by side. --preset paper has the paper's
numbers of iterations, and needs hours; --preset quick has a fraction of them at a learning rate
that is larger in proportion, fewer depths, and 256 instead of 512 units for MNIST. Linear networks
of images take ten times as many iterations as the quick preset's others. Results are in --output:
curves.csv, input_noise.csv, table.csv, table.md, findings.md and the figures.
"""

import argparse
import csv
import dataclasses
import functools
import json
import pathlib
import time

import data
import training

import keras
import numpy as np
import tensorflow as tf

import loss_findings
import loss_pictures
import toys
from export.command import Parser, fail, positive
from kcaps.losses import CLASSIFICATION_LOSSES
from stacked import Stack

IMAGES = ("mnist", "cifar10")
GROUPS = {"toy": tuple(toys.TOYS), "all": (*toys.TOYS, *IMAGES)}
TOY_UNITS, TOY_BATCH, IMAGE_BATCH = 200, 50, 100
DROPOUT = 0.5  # of MNIST's networks
# Learning rate times iterations, whatever the preset: 0.00003 × 60,000 and 0.00003 × 100,000.
TOY_TRAVEL, IMAGE_TRAVEL = 1.8, 3.0
CONVNET_DEPTH = 4  # CIFAR-10's network is of one shape: three convolutions and a hidden layer
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
    },
    "quick": {
        "toy": 3_000,
        "linear": 20_000,
        "images": 2_000,
        "units": 256,
        "depths": (0, 1, 3, 5),
        "label_noise": (0.5,),
    },
}


TYPES = {"data": str, "loss": str, "depth": int, "iteration": int}  # others are floats


class Convnet:
    """The paper's network for CIFAR-10, with one loss, behind `Stack`'s interface."""

    def __init__(self, loss, shape, num_classes, learning_rate):
        self.loss, self.shape, self.num_classes = loss, shape, num_classes
        self.learning_rate = learning_rate

    def restart(self, seed):
        keras.utils.set_random_seed(seed)
        layers = []
        for pool in (keras.layers.MaxPooling2D, *[keras.layers.AveragePooling2D] * 2):
            layers.append(keras.layers.Conv2D(64, 5, padding="same", activation="relu"))
            layers.append(keras.layers.BatchNormalization())
            layers.append(pool(3, strides=2, padding="same"))
        layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu")]
        layers.append(keras.layers.Dense(self.num_classes))  # the losses have the softmax
        self.model = keras.Sequential([keras.Input(self.shape), *layers])
        optimizer = keras.optimizers.Adam(self.learning_rate)
        # XLA's gradients of convolutions are slow on CPUs.
        self.model.compile(optimizer, CLASSIFICATION_LOSSES[self.loss](), jit_compile=False)

    def train(self, inputs, labels, batches):
        order = batches.ravel()
        size = batches.shape[1]
        self.model.fit(inputs[order], labels[0][order], size, shuffle=False, verbose=0)

    def predict(self, inputs):
        return self.model.predict(inputs, batch_size=500, verbose=0).argmax(-1)[None]

    def accuracies(self, inputs, labels):
        return np.mean(self.predict(inputs) == labels, axis=1)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs and integer labels in two splits: points, rows of pixels in [0, 1], or images."""

    name: str
    title: str
    train: tuple
    test: tuple


@functools.cache
def load(name):
    if name in toys.TOYS:
        return Examples(name, name, *toys.make(name, args.seed))
    images = data.load(name, args.data_dir, args.limit, args.synthetic)
    x, y = map(np.concatenate, zip(images.train, images.validation, strict=True))
    splits = []
    for pixels, labels in ((x, y), images.test):
        pixels = pixels.astype("float32") / 255
        splits.append((pixels if name == "cifar10" else pixels.reshape(len(pixels), -1), labels))
    # A study takes all training images, as published, and looks at test images while it trains.
    return Examples(name, images.title, *splits)


def iterations_of(name, depth):
    kind = "toy" if name in toys.TOYS else "images" if depth else "linear"
    asked = args.iterations or PRESETS[args.preset][kind]
    chunk = max(1, asked // MEASUREMENTS)
    return asked // chunk, chunk


@functools.lru_cache(maxsize=1)
def network(kind, losses, widths, rate):
    """Of one shape, for all its cells: what is compiled serves them all."""
    if kind == "cifar10":
        return Convnet(*losses, widths[:-1], widths[-1], rate)
    functions = [CLASSIFICATION_LOSSES[loss].function for loss in losses]
    is_small = kind == "toy" or len(widths) == 2
    return Stack(functions, widths, rate, DROPOUT if kind == "mnist" else 0.0, is_small)


def noisy(labels, share, num_classes):
    """Labels of which that share is changed, each to another class."""
    rng = np.random.default_rng([args.seed, 1])
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


def run(cell):
    """Trains the networks of a cell: rows of their curves, and of their input noise."""
    name, depth, share, losses = cell
    is_toy, split = name in toys.TOYS, load(name)
    (x, y), (test_x, test_y) = split.train, split.test
    num_classes = toys.NUM_CLASSES if is_toy else 10
    units = TOY_UNITS if is_toy else args.units or PRESETS[args.preset]["units"]
    hidden = [] if name == "cifar10" else [units] * depth
    measurements, chunk = iterations_of(name, depth)
    rate = (TOY_TRAVEL if is_toy else IMAGE_TRAVEL) / (measurements * chunk)
    widths = (*x.shape[1:], *hidden, num_classes)
    net = network("toy" if is_toy else name, losses, widths, rate)
    net.restart(args.seed + depth)
    labels = noisy(y, share, num_classes)
    own_labels = np.tile(labels, (len(losses), 1))  # (n, examples)
    batch = TOY_BATCH if is_toy else IMAGE_BATCH
    stream = batches_of(len(x), batch, np.random.default_rng([args.seed, 2]))
    inputs = x if name == "cifar10" else tf.constant(x)
    common = {"data": name, "depth": depth, "label_noise": share}
    curves, noise = [], []
    for number in range(measurements + 1):
        if number:
            batches = [next(stream) for _ in range(chunk)]
            net.train(inputs, own_labels, np.stack(batches))
        size = None if number == measurements else MEASURED
        train = net.accuracies(x[:size], labels[:size])
        test = net.accuracies(test_x[:size], test_y[:size])
        curves += [
            {
                **common,
                "loss": loss,
                "iteration": number * chunk,
                "train_accuracy": round(float(train[i]), 6),
                "test_accuracy": round(float(test[i]), 6),
            }
            for i, loss in enumerate(losses)
        ]
    if name == "mnist" and not share:
        rng = np.random.default_rng([args.seed, 3])
        for variance in (0.0, *INPUT_NOISE):
            noised = x[:MEASURED] + rng.normal(scale=variance**0.5, size=x[:MEASURED].shape)
            found = net.accuracies(noised.astype("float32"), y[:MEASURED])
            noise += [
                {**common, "loss": loss, "variance": variance, "train_accuracy": float(accuracy)}
                for loss, accuracy in zip(losses, found, strict=True)
            ]
    if is_toy:
        steps = np.linspace(-1, 1, GRID, dtype="float32")
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        decisions = net.predict(grid).reshape(len(losses), GRID, GRID).astype("uint8")
        np.save(args.output / f"decisions_{name}_{depth}.npy", decisions)
    return curves, noise


def share_of(text):
    """Argument type: a number above 0, and at most 1."""
    if not 0 < (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, received {text}")
    return value


def cells():
    """What the networks of a stack have in common: data, depth, label noise, losses."""
    preset = PRESETS[args.preset]
    names = dict.fromkeys(
        name for study in args.study for name in GROUPS.get(study, (study,))
    )  # each once
    losses = tuple(args.losses)
    for depth in args.depths or range(6):
        yield from ((name, depth, 0.0, losses) for name in names if name in toys.TOYS)
    if "mnist" in names:
        for depth in args.depths or preset["depths"]:
            levels = preset["label_noise"] if args.label_noise is None else args.label_noise
            yield from (("mnist", depth, share, losses) for share in (0.0, *levels))
    if "cifar10" in names:
        yield from (("cifar10", CONVNET_DEPTH, 0.0, (loss,)) for loss in losses)


def complete():
    """Rows of all cells; those that are in the files already are not run again."""
    curves, noise = (read(args.output / name) for name in ("curves.csv", "input_noise.csv"))
    wanted = list(cells())
    for number, cell in enumerate(wanted, 1):
        if any(belongs(row, cell) for row in curves):
            continue
        name, depth, share, losses = cell
        about = losses[0] if name == "cifar10" else f"{depth} hidden layers"
        about += f", {100 * share:g} % of labels changed" * bool(share)
        started = time.perf_counter()
        more_curves, more_noise = run(cell)
        # A cell is finished when it is in curves.csv, which is therefore written last.
        noise = [row for row in noise if not belongs(row, cell)] + more_noise
        curves += more_curves
        training.write_csv(args.output / "input_noise.csv", noise)
        training.write_csv(args.output / "curves.csv", curves)
        seconds = time.perf_counter() - started
        print(
            f"{number} of {len(wanted)}: {load(name).title}, {about}: {seconds:.0f} s", flush=True
        )
    return curves, noise


def belongs(row, cell):
    name, depth, share, losses = cell
    key = (row["data"], row["depth"], row["label_noise"])
    return key == (name, depth, share) and row["loss"] in losses


def read(path):
    if not path.exists():
        return []
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return [{name: TYPES.get(name, float)(row[name]) for name in row} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        fail(f"{path} is damaged: {error!r}")


def open_folder():
    """Makes the folder of results; refuses one whose results are of something else."""
    path = args.output / "study.json"
    names = ("preset", "losses", "seed", "iterations", "units", "limit", "synthetic")
    arguments = {name: getattr(args, name) for name in names}
    try:
        if args.output.exists() and any(args.output.iterdir()) and not path.exists():
            fail(f"--output {args.output} is not empty and holds no study of losses")
        before = json.loads(path.read_text()) if path.exists() else arguments
        args.output.mkdir(parents=True, exist_ok=True)
        training.write_json(path, before)
    except (OSError, ValueError) as error:
        fail(f"--output {args.output} cannot be used: {error}")
    if before != arguments:
        fail(f"{path} is of a study with other arguments, {before}: give another --output")


parser = Parser(__doc__)
parser.add_argument(
    "--study", choices=(*toys.TOYS, *IMAGES, *GROUPS), nargs="+", default=["toy"], help="data"
)
parser.add_argument("--preset", choices=list(PRESETS), default="quick")
parser.add_argument(
    "--losses", choices=list(CLASSIFICATION_LOSSES), nargs="+", default=list(CLASSIFICATION_LOSSES)
)
parser.add_argument(
    "--depths",
    type=int,
    choices=range(6),
    nargs="+",
    help="numbers of hidden layers; by default 0 to 5, and 0, 1, 3, 5 of the quick MNIST",
)
parser.add_argument(
    "--label-noise",
    type=share_of,
    nargs="*",
    help="shares of MNIST's training labels that are changed, besides none",
)
parser.add_argument(
    "--iterations", type=positive(int), help="instead of the preset's, the rate in proportion"
)
parser.add_argument("--units", type=positive(int), help="of MNIST's hidden layers")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--output",
    type=pathlib.Path,
    default="studies/losses",
    help="folder of results; a study that is in it goes on",
)
parser.add_argument("--data-dir", help="folder of prepared tensorflow-datasets")
parser.add_argument(
    "--limit", type=positive(int), help="at most so many training and so many test images"
)
parser.add_argument(
    "--synthetic", action="store_true", help="generated images of the same shape as the data's"
)
args = parser.parse_args()
if args.seed < 0 or args.seed >= 2**31 - 10:
    fail(f"--seed must be from 0 to {2**31 - 11}, received {args.seed}")
args.losses = [loss for loss in CLASSIFICATION_LOSSES if loss in args.losses]
open_folder()
started = time.perf_counter()
curves, noise = complete()
titles = {name: load(name).title for name in dict.fromkeys(row["data"] for row in curves)}
table = loss_findings.table(curves)
training.write_csv(args.output / "table.csv", table)
findings = loss_findings.findings(table, curves, noise)
loss_findings.write_markdown(args.output, table, findings, titles)
for name, title in titles.items():
    loss_pictures.draw(name, title, curves, noise, args.output)
reproduced = sum(finding["verdict"] == "reproduced" for finding in findings)
measured = sum(finding["verdict"] != "not measured" for finding in findings)
print(
    f"{', '.join(titles.values())}: {reproduced} of {measured} findings reproduced in "
    f"{time.perf_counter() - started:.0f} s; {args.output / 'findings.md'} written"
)
