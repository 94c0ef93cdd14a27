"""Cells of the study of losses: trainings of networks that differ in their losses only."""

import dataclasses
import functools
import itertools

import numpy as np
import tensorflow as tf

from harness import study, tables
from kcaps.losses import CLASSIFICATION_LOSSES
from losses import toys
from losses.settings import PRESETS, LossSettings
from losses.stacks import Convnet, Stack
from pictures_of import data

DROPOUT = 0.5  # of MNIST's networks
MEASUREMENTS = 20  # of each network
MEASURED = 2_000  # images, before the last measurement
INPUT_NOISE = (0.02, 0.05, 0.1, 0.2, 0.4)  # variances, for pixels in [0, 1]
GRID = 120  # decisions along a side
_TYPES = {"data": str, "loss": str, "depth": int, "iteration": int}


@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs and integer labels in two splits: points, rows of pixels in [0, 1], or images."""

    title: str
    train: tuple
    test: tuple


@dataclasses.dataclass(frozen=True)
class Training:
    """Training of a cell; its travel is the learning rate times the iterations."""

    examples: Examples
    num_classes: int
    hidden: list[int]
    iterations: int
    travel: float
    batch_size: int = 100


def complete(settings: LossSettings) -> tuple[list[dict], list[dict]]:
    """Returns rows of curves, and of input noise, of all cells; runs those that are missing."""
    cells, paths = settings.cells(), _paths(settings)

    def tell(number, cell, seconds):
        title, share = load(cell["data"], settings).title, cell["label_noise"]
        about = cell.get("loss", f"depth {cell['depth']}")
        about += f", {100 * share:g} % of labels changed" * bool(share)
        print(f"{number} of {len(cells)}: {title}, {about}: {seconds:.0f} s", flush=True)

    curves = study.complete(paths[0], cells, functools.partial(run, settings), _TYPES, finish=tell)
    return curves, tables.read_cells(paths[1], _TYPES)


def _paths(settings):
    return [settings.output / name for name in ("curves.csv", "input_noise.csv")]


def load(name: str, settings: LossSettings) -> Examples:
    """Returns the examples of a data set; those of each are kept."""
    return _load(name, settings.seed, settings.data_dir, settings.limit, settings.synthetic)


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


def _training(settings, name, depth, label_noise):
    """Returns the training of a cell, by its preset."""
    preset, examples = PRESETS[settings.preset], load(name, settings)
    if name in toys.TOYS:
        hidden = [toys.UNITS] * depth
        steps = preset.toy_iterations, preset.toy_travel, toys.BATCH_SIZE
        return Training(examples, toys.NUM_CLASSES, hidden, *steps)
    if name == "cifar10":
        steps = preset.convnet_iterations, preset.convnet_travel
        return Training(examples, 10, [preset.convnet_filters], *steps)
    if not depth:
        return Training(examples, 10, [], preset.linear_iterations, preset.image_travel)
    hidden, travel = [settings.units or preset.units] * depth, preset.image_travel
    if label_noise:  # a linear network learns little by heart
        travel = preset.noisy_travel
        kept = tuple(part[: preset.noisy_size] for part in examples.train)
        examples = dataclasses.replace(examples, train=kept)
    return Training(examples, 10, hidden, preset.image_iterations, travel)


@functools.lru_cache(maxsize=1)
def network(
    name: str, losses: tuple[str, ...], widths: tuple[int, ...], rate: float
) -> Stack | Convnet:
    """Returns networks of one shape for all cells that have it: they are compiled once."""
    if name == "cifar10":
        *shape, filters, num_classes = widths
        return Convnet(*losses, tuple(shape), num_classes, filters, rate)
    functions = [CLASSIFICATION_LOSSES[loss].function for loss in losses]
    is_small = name != "mnist" or len(widths) == 2
    return Stack(functions, widths, rate, DROPOUT if name == "mnist" else 0.0, is_small)


def run(
    settings: LossSettings, data: str, depth: int, label_noise: float, loss: str | None = None
) -> list[dict]:
    """Trains the networks of a cell, by default of all losses, and returns rows of their curves.

    Writes their accuracies on noisy inputs, or their decisions, into the folder of the study.
    """
    losses = settings.compared if loss is None else (loss,)
    training = _training(settings, data, depth, label_noise)
    x, y = training.examples.train
    iterations = settings.iterations or training.iterations
    chunk = max(1, iterations // MEASUREMENTS)
    measurements = iterations // chunk
    rate = settings.learning_rate or training.travel / (measurements * chunk)
    # Toys of one depth have one stack, as their networks are of one shape.
    kind = "toy" if data in toys.TOYS else data
    widths = (*x.shape[1:], *training.hidden, training.num_classes)
    net = network(kind, losses, widths, rate)
    net.restart(settings.seed + depth)
    labels = _noisy(y, label_noise, training.num_classes, settings.seed)
    # All cells of a data set see the same batches.
    rng = np.random.default_rng([settings.seed, 2])
    stream = _batches(len(x), training.batch_size, rng)
    chunks = [np.stack(list(itertools.islice(stream, chunk))) for _ in range(measurements)]
    common = {"data": data, "depth": depth, "label_noise": label_noise}
    rows = []
    for iteration, *accuracies in _train_and_measure(net, training.examples, labels, chunks):
        for name, train, test in zip(losses, *accuracies, strict=True):
            row = {**common, "loss": name, "iteration": iteration}
            row["train_accuracy"] = round(float(train), 6)
            rows.append(row | {"test_accuracy": round(float(test), 6)})
    if data == "mnist" and not label_noise:
        _write_input_noise(settings, net, common, losses)
    if kind == "toy":
        np.save(settings.output / f"decisions_{data}_{depth}.npy", _decisions(net))
    return rows


def _noisy(labels, share, num_classes, seed):
    """Returns labels of which that share is changed, each to another class."""
    rng = np.random.default_rng([seed, 1])
    changed = rng.permutation(len(labels))[: round(share * len(labels))]
    labels = labels.copy()
    labels[changed] = (labels[changed] + rng.integers(1, num_classes, len(changed))) % num_classes
    return labels


def _batches(size, batch, rng):
    """Yields indices `(batch,)` without end: each pass has each example once, but the last few."""
    batch = min(batch, size)
    while True:
        order = rng.permutation(size)
        yield from order[: size - size % batch].reshape(-1, batch)


def _train_and_measure(net, examples, labels, chunks):
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


def _write_input_noise(settings, net, common, losses):
    """Writes training accuracies under normal noise, in place of older ones of the cell."""
    x, y = (part[:MEASURED] for part in load(common["data"], settings).train)
    rng, path = np.random.default_rng([settings.seed, 3]), _paths(settings)[1]
    old = tables.read_cells(path, _TYPES)
    rows = [row for row in old if not common.items() <= row.items()]
    for variance in (0.0, *INPUT_NOISE):
        noise = rng.normal(scale=variance**0.5, size=x.shape)
        accuracies = net.accuracies((x + noise).astype("float32"), y)
        for loss, accuracy in zip(losses, accuracies, strict=True):
            row = {**common, "loss": loss, "variance": variance}
            rows.append(row | {"train_accuracy": float(accuracy)})
    tables.write_csv(path, rows)


def _decisions(net):
    """Returns the class of each point of a grid for each network, `(n, GRID, GRID)`."""
    steps = np.linspace(-1, 1, GRID, dtype="float32")
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    return net.predict(grid).reshape(-1, GRID, GRID).astype("uint8")
