"""Training pictures made on the fly, beside the training that takes them.

In one interleaved run: a training step on a batch that is at hand, and one on a batch that the
generator has to bring; and the generator alone. Training waits for its pictures as far as the ratio
of the two steps is above 1. The networks are the small ones of `reproduce.py --budget cpu`: a
larger network leaves more time for the pictures. Digits are generated, of MNIST's shape and number.
"""

import argparse
import itertools

import numpy as np
import program

from export.command import Parser, positive

ROWS = {  # tasks, and a method; pictures of all but the last are made on the fly
    "multi_mnist": "l2",
    "distorted_mnist": "efficient_capsnet",
    "placed_mnist": "l2_fc",
    "mnist": "l2_fc",
}
STEPS = 5  # of a measurement
DIGITS = 54_000


def measure(name, method, repeats, count):
    """Returns seconds of steps on one batch, of steps on new ones, and of new batches alone."""
    from timing import interleaved

    from harness.feeding import Feed
    from pictures_of import data
    from reproduction import methods, tasks

    images = data.load("mnist", synthetic=True)
    x, y = images.train
    x, y = (np.resize(part, (count, *part.shape[1:])) for part in (x, y))
    images = data.Images(images.name, images.class_names, images.source, (x, y), *[images.test] * 2)
    task = tasks.TASKS[name][1](images)
    plan = methods.training_of(method, name, "cpu")
    model = methods.compiled(method, name, "cpu", task, 10_000)
    first = task.batches(0, plan.batch_size)(0)
    fed = map(Feed(task.batches(1, plan.batch_size)).__getitem__, itertools.count())
    alone = map(task.batches(2, plan.batch_size), itertools.count())
    seconds = interleaved(
        {
            "one": lambda: [model.train_on_batch(*first) for _ in range(STEPS)],
            "new": lambda: [model.train_on_batch(*next(fed)) for _ in range(STEPS)],
            "alone": lambda: [next(alone) for _ in range(STEPS)],
        },
        repeats,
    )
    return {row: times / STEPS for row, times in seconds.items()}, plan.batch_size


def main():
    program.set_up()
    import keras
    from timing import milliseconds, table

    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=positive(int), default=15)
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    program.print_title("Pictures made on the fly")
    lines = []
    for name, method in list(ROWS.items())[: 1 if args.quick else None]:
        keras.utils.set_random_seed(0)
        seconds, batch = measure(name, method, args.repeats, 200 if args.quick else DIGITS)
        ratio = np.median(seconds["new"] / seconds["one"])
        rate = batch / np.median(seconds["alone"])
        times = *milliseconds(seconds["one"]), *milliseconds(seconds["new"])
        lines.append((name, method, *times, f"{ratio:.3f}", f"{rate:,.0f}"))
    table(
        "A training step",
        (
            *("task", "method", "ms, one batch", "quartiles", "ms, new batches", "quartiles"),
            *("ratio", "pictures a second, alone"),
        ),
        lines,
    )


if __name__ == "__main__":
    main()
