"""The cost of checkpointing after each epoch, beside an epoch of the reference network.

The epoch is reckoned from the median of its training steps, all of which are alike; its validation
is left out, which makes the share of checkpointing larger. Both are given in seconds of the clock
and of the processor, which other programs on the machine disturb less. Steps use all cores and
saving uses one: the share that counts is that of the clock, or, where others take the machine, of
the processor's seconds with those of the steps divided by the cores.
"""

import os
import pathlib
import tempfile

import numpy as np
import program

from export.command import Parser, positive

IMAGES, BATCH_SIZE = 54_000, 32  # of an epoch of recipes/mnist.py --network reference
TARGET = 2.0  # per cent


def watch(times):
    """Returns a callback that adds the clocks of each step to a list."""
    import keras
    from timing import clocks

    started = []
    return keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda step, logs: started.append(clocks()),
        on_train_batch_end=lambda step, logs: times.append(clocks() - started.pop()),
    )


def measure(args, folder):
    """Returns medians of a step, of writing the best model, and of writing the state."""
    from timing import clocks

    from harness import checkpoints
    from kcaps.models import capsnet

    model = capsnet((28, 28, 1), 10, **({"filters": 8} if args.quick else {}))
    model.compile("adam", metrics=["accuracy"])
    best = checkpoints.KeptModel(folder / "model.keras")
    backup = checkpoints.Backup(folder / checkpoints.STATE)
    rng, size, steps = np.random.default_rng(0), BATCH_SIZE, []
    images = rng.integers(256, size=((args.repeats + 2) * size, 28, 28, 1)).astype("float32")
    labels = rng.integers(10, size=len(images))
    model.fit(images, labels, size, verbose=0, callbacks=[watch(steps), backup])
    times = {"training step": steps[2:]}  # the first ones compile
    best.set_model(model)
    for name, callback in (("best model", best), ("state to go on from", backup)):
        times[name] = []
        for repeat in range(args.repeats):
            start = clocks()
            callback.on_epoch_end(repeat, {"loss": 1.0, "val_loss": -repeat})
            times[name].append(clocks() - start)
    return {name: np.median(values, axis=0) for name, values in times.items()}


def main():
    program.set_up()
    from timing import table, verdict

    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=positive(int), default=21)
    program.add_quick(parser)
    args = parser.parse_args()
    program.print_title("Checkpointing")
    with tempfile.TemporaryDirectory() as folder:
        times = measure(args, pathlib.Path(folder))
    steps = IMAGES // BATCH_SIZE
    epoch = steps * times["training step"]
    saving = times["best model"] + times["state to go on from"]
    rows = [*times.items(), (f"epoch of {steps:,} steps", epoch), ("checkpointing", saving)]
    table(
        "An epoch of recipes/mnist.py --network reference and what is saved after it, medians",
        ("", "seconds", "processor's seconds"),
        [(name, *(f"{value:.3g}" for value in values)) for name, values in rows],
    )
    shares = 100 * saving / epoch * [1, os.cpu_count()]
    for name, share in zip(("the clock", "the processor, steps on all cores"), shares, strict=True):
        print(f"\n- share by {name}: {share:.3f} % {verdict(share, not args.quick and TARGET)}")


if __name__ == "__main__":
    main()
