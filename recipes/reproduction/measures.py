"""What is measured beside test errors: times and robustness."""

import time

import keras
import numpy as np

from pictures_of import overlaps, robustness
from reproduction import methods, tasks

ROUNDS, STEPS = 9, 10  # of the timing: each round takes so many steps of every method
NOISE = 0.2  # deviation of pixels, as a share of their range, as the next one
EPSILON = 0.1
ATTACKS = {"fgsm": 1, "bim": 10}  # steps
ROBUSTNESS = ("affine", "noise", *ATTACKS)
GOAL = 0.99  # share of validation images, for the time to reach it
INTERVAL = 100  # steps between two looks at them


def step_times(names, args):
    """Time of training steps on MNIST, all methods in turn, round by round.

    Args:
        names: Methods.
        args: Arguments of the program.

    Returns:
        List of rows, with ratios to the first method that has, or has not, a decoder as well:
        medians of the ratios of the rounds.
    """
    task = tasks.load("mnist", args)
    models, times = {}, {name: [] for name in names}
    for name in names:
        plan = methods.training_of(name, "mnist", args.budget)
        keras.utils.set_random_seed(0)
        model = methods.compiled(
            name, "mnist", args.budget, task, STEPS * ROUNDS, update=args.update
        )
        size = min(plan.batch_size, len(task.images.train[0]))
        # As arrays, for Keras' other backends.
        x, y = keras.tree.map_structure(np.asarray, next(iter(task.batches(size, 0, 0))))
        for _ in range(3):  # compiles
            model.train_on_batch(x, y)
        models[name] = model, x, y
    for _ in range(ROUNDS):
        for name, (model, x, y) in models.items():
            started = time.perf_counter()
            for _ in range(STEPS):  # each returns its loss, and so waits for it
                model.train_on_batch(x, y)
            times[name].append((time.perf_counter() - started) / STEPS)
    rows = []
    for name in names:
        without = name.endswith(methods.NO_DECODER)
        first = next(other for other in names if other.endswith(methods.NO_DECODER) == without)
        rows.append(
            {
                "method": name,
                "batch_size": len(models[name][1]),
                "seconds_per_100_steps": 100 * float(np.median(times[name])),
                "ratio": float(np.median(np.array(times[name]) / times[first])),
                "to": first,
            }
        )
    return rows


def robustness_of(cell, args):
    """Test errors in per cent of a cell on digits that are moved, noisy, or made to mislead it."""
    task = tasks.load(cell.task, args)
    model = keras.saving.load_model(cell.folder(args.output) / "model.keras")
    images, labels = task.test

    def error(changed):
        outputs = model.predict(changed, batch_size=100, verbose=0)
        return 100 * float(np.mean(outputs.argmax(-1) != labels))

    # Of logits, where there are some: the gradient of probabilities that are nearly 1 is lost.
    layer = next((layer for layer in model.layers if layer.name == "logits"), model.layers[-1])
    scores = keras.Model(model.input, layer.output)
    return {
        "affine": error(robustness.affine(task.images.test[0], overlaps.HELD_OUT_SEED)),
        "noise": error(robustness.noisy(images, NOISE, overlaps.HELD_OUT_SEED)),
        **{
            name: error(
                robustness.white_box(scores, images, labels, EPSILON, steps, robustness.lead)
            )
            for name, steps in ATTACKS.items()
        },
    }


class _Goal(keras.callbacks.Callback):
    """Ends training when enough of the validation images are right."""

    reached = False

    def on_epoch_end(self, epoch, logs=None):
        self.reached = self.model.stop_training = logs["val_accuracy"] >= GOAL


def time_to_goal(cell, args, before):
    """Trains until 99 % of the validation images are right.

    Args:
        cell: `cells.Cell`.
        args: Arguments of the program.
        before: Seconds that the start of the program took.

    Returns:
        Row of seconds since the start, data and compilation included; steps; and test error.
    """
    started = time.perf_counter()
    task = tasks.load(cell.task, args)
    plan = methods.training_of(cell.method, cell.task, args.budget)
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.seed)
    size = min(plan.batch_size, len(task.images.train[0]))
    most = (args.epochs or plan.epochs) * (len(task.images.train[0]) // size)
    model = methods.compiled(
        cell.method, cell.task, args.budget, task, most, ["accuracy"], args.update
    )
    goal = _Goal()
    history = model.fit(
        task.batches(size, cell.seed, 0),
        epochs=max(1, most // INTERVAL),
        steps_per_epoch=min(INTERVAL, most),
        shuffle=False,  # the batches are shuffled already
        validation_data=task.validation,
        validation_batch_size=1000,
        verbose=2,
        callbacks=[goal],
    )
    seconds = before + time.perf_counter() - started
    return {
        "seconds": round(seconds, 1) if goal.reached else "",
        "steps": min(INTERVAL, most) * len(history.epoch),
        "batch_size": size,
        "validation_error": round(100 * (1 - history.history["val_accuracy"][-1]), 2),
        "test_error": round(100 * (1 - task.accuracy(model, 1000)), 2),
    }
