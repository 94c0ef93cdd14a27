"""The table of networks that train together in a stack, beside Keras' `fit` of one of them."""

import keras
import numpy as np
from timing import clocks, milliseconds, table

from kcaps.losses import CLASSIFICATION_LOSSES
from losses import toys
from losses.stacks import Stack

UNITS, BATCH, RATE = 200, 50, 6e-4
STEPS = toys.SIZE // BATCH  # of an epoch
STACK_STEPS = 3 * STEPS  # of a call; the quick study has 150
STUDY_STEPS = 3_000
HEADER = (
    *("hidden layers", "ms together", "quartiles", "ms one by one", "quartiles", "ratio"),
    *("ratio of processor time", "s to compile together", "s to compile one by one"),
)


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
    """Returns seconds of steps of twelve networks, together and one by one, and to compile them.

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
    alone, together = (n * np.array(watch.epochs) / STEPS, np.array(watch.stack) / STACK_STEPS)
    compilations = [
        calls * (seconds[0, 0] - np.median(seconds[2:, 0]))
        for calls, seconds in ((STACK_STEPS, together), (STEPS, alone))
    ]
    return together[2:], alone[2:], compilations


def print_table(depths, repeats):
    """Prints a row for each number of hidden layers, and the totals of a study of all of them."""
    lines, totals = [], np.zeros((2, 2))
    for depth in depths:
        together, alone, compilations = measure(depth, repeats)
        ratios = [f"{ratio:.1f}" for ratio in np.median(alone / together, axis=0)]
        seconds = [f"{value:.1f}" for value in compilations]
        times = *milliseconds(together[:, 0]), *milliseconds(alone[:, 0])
        lines.append((str(depth), *times, *ratios, *seconds))
        medians = np.median([together, alone], axis=1)  # (2, clocks)
        totals += len(toys.TOYS) * STUDY_STEPS * medians
        totals[:, 0] += compilations[0], len(toys.TOYS) * compilations[1]
    table("A step of twelve networks", HEADER, lines)
    together, alone = totals
    print(
        f"\n- {STUDY_STEPS:,} steps on each of {len(toys.TOYS)} toys at these depths: "
        f"{together[0]:.0f} s together, {alone[0]:.0f} s one by one, with compilation: "
        f"ratio {alone[0] / together[0]:.1f}"
        f"\n- seconds of the processor, without compilation: {together[1]:.0f} together, "
        f"{alone[1]:.0f} one by one, ratio {alone[1] / together[1]:.1f}"
    )
