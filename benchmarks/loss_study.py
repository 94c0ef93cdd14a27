"""Speed of networks that train together in a stack, beside Keras' `fit` of one after another.

The networks are those of the loss study's toys: twelve losses, 200 units, 800 points, batches of
50. In one run: after each epoch of `fit`, the stack takes its steps, so that a slow spell of the
machine falls on both. Both have compiled before. `fit` of all twelve is taken to last twelve times
that of the network measured, of log loss. The total is that of a study of three toys, with the
compilations, which the stack needs once for all toys and `fit` once for each network, and without
the measurements of accuracy. On a machine that is shared, trust the processor's time: `fit` of
small networks waits for its turn more often.
"""

import argparse
import datetime
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from export.command import Parser, positive, quiet_tensorflow, required

with required(), quiet_tensorflow(is_program=__name__ == "__main__"):
    import tensorflow  # noqa: F401

with required():
    import keras
    import numpy as np
    from bench import commit
    from device import versions
    from timing import milliseconds, table

    from kcaps.losses import CLASSIFICATION_LOSSES
    from losses import toys
    from losses.stacks import Stack

UNITS, BATCH, RATE = 200, 50, 6e-4
STEPS = toys.SIZE // BATCH  # of an epoch
STACK_STEPS = 3 * STEPS  # of a call; the quick study has 150
STUDY_STEPS = 3_000


def clocks():
    """Seconds of the clock on the wall, and of the processor in this process."""
    return np.array([time.perf_counter(), time.process_time()])


class Watch(keras.callbacks.Callback):
    """Times each epoch, then the stack. Both compile in the first epoch."""

    def __init__(self, train_stack):
        super().__init__()
        self.train_stack = train_stack
        self.epochs, self.stack = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = clocks()

    def on_epoch_end(self, epoch, logs=None):
        middle = clocks()
        self.train_stack()
        self.epochs.append(middle - self.start)
        self.stack.append(clocks() - middle)


def measure(depth, repeats):
    """Seconds of steps of twelve networks, together and one by one, and of the compilations.

    The steps' have a column for each of the `clocks`.
    """
    (x, y), _ = toys.make("checkerboard", seed=0)
    functions = [loss.function for loss in CLASSIFICATION_LOSSES.values()]
    stack = Stack(functions, (2, *[UNITS] * depth, toys.NUM_CLASSES), RATE)
    stack.restart(seed=0)
    batches = np.random.default_rng(0).integers(len(x), size=(STACK_STEPS, BATCH))

    def train_stack():
        stack.train(x, y, batches)
        stack.step.numpy()  # waits

    layers = [keras.layers.Dense(UNITS, "relu") for _ in range(depth)]
    layers.append(keras.layers.Dense(toys.NUM_CLASSES))
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile(keras.optimizers.Adam(RATE), CLASSIFICATION_LOSSES["log"]())
    watch = Watch(train_stack)
    model.fit(x, y, batch_size=BATCH, epochs=repeats + 2, verbose=0, callbacks=[watch])
    n = len(functions)
    alone, together = n * np.array(watch.epochs) / STEPS, np.array(watch.stack) / STACK_STEPS
    compilations = [
        calls * (seconds[0, 0] - np.median(seconds[2:, 0]))
        for calls, seconds in ((STACK_STEPS, together), (STEPS, alone))
    ]
    return together[2:], alone[2:], compilations


def main():
    parser = Parser(__doc__)
    parser.add_argument("--depths", type=int, choices=range(6), nargs="+", default=[*range(6)])
    parser.add_argument("--repeats", type=positive(int), default=15, help="epochs of `fit`")
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    print(f"# Loss study\n\n{versions()}, {datetime.date.today()}{commit()}")
    lines, totals = [], np.zeros((2, 2))
    for depth in args.depths[:1] if args.quick else args.depths:
        together, alone, compilations = measure(depth, args.repeats)
        ratios = [f"{ratio:.1f}" for ratio in np.median(alone / together, axis=0)]
        seconds = [f"{value:.1f}" for value in compilations]
        times = *milliseconds(together[:, 0]), *milliseconds(alone[:, 0])
        lines.append((str(depth), *times, *ratios, *seconds))
        medians = np.median([together, alone], axis=1)  # (2, clocks)
        totals += len(toys.TOYS) * STUDY_STEPS * medians
        totals[:, 0] += compilations[0], len(toys.TOYS) * compilations[1]
    table(
        "A step of twelve networks",
        (
            *(
                "hidden layers",
                "ms together",
                "quartiles",
                "ms one by one",
                "quartiles",
                "ratio",
                "ratio of processor time",
            ),
            *("s to compile together", "s to compile one by one"),
        ),
        lines,
    )
    together, alone = totals
    print(
        f"\n- {STUDY_STEPS:,} steps on each of {len(toys.TOYS)} toys at these depths: "
        f"{together[0]:.0f} s together, {alone[0]:.0f} s one by one, with compilation: "
        f"ratio {alone[0] / together[0]:.1f}"
        f"\n- seconds of the processor, without compilation: {together[1]:.0f} together, "
        f"{alone[1]:.0f} one by one, ratio {alone[1] / together[1]:.1f}"
    )


if __name__ == "__main__":
    main()
