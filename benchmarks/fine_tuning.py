"""Weights that come with kcaps on another task, beside the same network from nothing.

The class capsules are trained alone, then all layers. The network from nothing gets as many seconds
of the processor as both take together.
"""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import program

from export.command import Parser, fail

BATCH = 32
# Rates of Adam. All layers have a low one where they should not forget what they know.
CAPSULES, ALL, FROM_NOTHING = 5e-3, 3e-4, 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A task that weights have not been trained for.

    Args:
        architecture: Name of the function that makes the network.
        weights: Name of the weights.
        read: Function that returns images of the network's size, and labels.
        pictures: How many to learn from; each number has rows of its own.
        epochs: Passes over them of the class capsules alone, and as many of all layers.
    """

    architecture: str
    weights: str
    read: Callable
    pictures: tuple[int, ...]
    epochs: int


def read_digits():
    """Returns scikit-learn's digits, as large as those of MNIST, and their labels."""
    import keras
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small = small.reshape(-1, 8, 8, 1) * 255 / 16
    images = keras.ops.image.resize(small, (20, 20), interpolation="bicubic")
    images = np.clip(keras.ops.convert_to_numpy(images), 0, 255)
    return np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0))), labels


def read_garments():
    """Returns images of Fashion-MNIST in three channels of 32 × 32, and their labels."""
    from pictures_of import data

    images, labels = (array[:3000] for array in data.load("fashion_mnist").train)
    return np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, axis=-1), labels


TASKS = {
    "digits": Task(
        architecture="efficient_capsnet",
        weights="mnist",
        read=read_digits,
        pictures=(50, 200, 1000),
        epochs=20,
    ),
    "garments": Task(
        architecture="deep_capsnet",
        weights="cifar10",
        read=read_garments,
        pictures=(200, 1000),
        epochs=5,
    ),
}


def train(model, layers, examples, rate, epochs=None, seconds=None):
    """Trains layers of a model, and returns the seconds of the processor.

    Args:
        model: A `kcaps.models.CapsNet`.
        layers: Those of its layers that learn.
        examples: Images and labels.
        rate: Of Adam.
        epochs: Passes over them. Defaults to None: until `seconds` are over.
        seconds: Of the processor, after which the pass that has begun is the last one.
    """
    import keras

    for layer in model.layers:
        layer.trainable = layer in layers
    model.compile(keras.optimizers.Adam(rate), "length_cross_entropy")
    start = time.process_time()

    def end_in_time(epoch, logs):
        model.stop_training = seconds is not None and time.process_time() - start > seconds

    callback = keras.callbacks.LambdaCallback(on_epoch_end=end_in_time)
    model.fit(*examples, BATCH, epochs or 10_000, verbose=0, callbacks=[callback])
    return time.process_time() - start


def make_rows(task, count, epochs):
    """Returns rows of the table: pictures, what was trained, accuracy, seconds.

    Args:
        task: The task.
        count: Pictures to learn from; all others are the test.
        epochs: Passes over them, of each of two trainings.
    """
    import keras
    from sklearn.model_selection import train_test_split

    from harness.network_settings import adapt
    from kcaps import models

    images, labels = task.read()
    x, x_test, y, y_test = train_test_split(
        images.astype("float32"), labels, train_size=count, random_state=0, stratify=labels
    )
    make, number, rows = getattr(models, task.architecture), int(labels.max()) + 1, []

    def add(name, model, seconds):
        right = model.predict(x_test, batch_size=500, verbose=0).argmax(-1) == y_test
        rows.append((f"{count:,}", name, f"{100 * right.mean():.1f} %", f"{seconds:.0f}"))

    keras.utils.set_random_seed(0)
    model = make(weights=task.weights, num_classes=number)
    first = train(model, [model.class_layer], (x, y), CAPSULES, epochs)
    add("class capsules alone", model, first)
    total = first + train(model, model.layers, (x, y), ALL, epochs)
    add("then all layers", model, total)
    model = make(images.shape[1:], number)
    adapt(model, x)
    total = train(model, model.layers, (x, y), FROM_NOTHING, seconds=total)
    add("all layers, from nothing", model, total)
    return rows


def main():
    program.set_up()
    from timing import table

    from kcaps.models import pretrained

    parser = Parser(__doc__)
    program.add_names(parser, "--tasks", TASKS, "NAMES", "separated by commas (default: all)")
    program.add_quick(parser)
    args = parser.parse_args()
    tasks = {name: TASKS[name] for name in args.tasks}
    try:
        for task in tasks.values():
            pretrained.card_of(task.architecture, task.weights)
    except ValueError as error:
        fail(error)
    program.print_title("Fine-tuning")
    for name, task in tasks.items():
        counts, epochs = ((50,), 1) if args.quick else (task.pictures, task.epochs)
        rows = [row for count in counts for row in make_rows(task, count, epochs)]
        table(
            f'{name}: {task.architecture}(weights="{task.weights}")',
            ("pictures", "trained", "test accuracy", "core seconds"),
            rows,
        )


if __name__ == "__main__":
    main()
