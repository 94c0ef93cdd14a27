"""Measures beside test errors: times, and robustness."""

import time
from collections.abc import Sequence

import keras
import numpy as np

from harness.feeding import Feed
from harness.settings import StudySettings
from pictures_of import overlaps, robustness
from reproduction import attacks, methods, tasks
from reproduction.cells import Cell

ROUNDS, STEPS = 9, 10  # each round of the timing takes so many steps of every method
NOISE = 0.2  # deviation of pixels, as a share of their range
EPSILON = 0.1  # largest change of a pixel by an attack, as a share of that range
ATTACKS = {"fgsm": 1, "bim": 10}  # numbers of steps
ROBUSTNESS = ("affine", "noise", *ATTACKS)
GOAL = 0.99  # share of validation images, for the time to reach it
INTERVAL = 100  # steps between two looks at them


def step_times(names: Sequence[str], settings: StudySettings) -> list[dict]:
    """Returns a row of times for each method, of training steps on MNIST.

    All methods take steps in turn, round by round. Ratios are medians over the rounds, to the
    first method that has, or has not, a decoder as well.
    """
    task = tasks.load("mnist", settings)
    subjects = {name: _subject(name, task, settings) for name in names}
    times = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, (model, x, y) in subjects.items():
            started = time.perf_counter()
            for _ in range(STEPS):  # each returns its loss, and so waits for it
                model.train_on_batch(x, y)
            times[name].append((time.perf_counter() - started) / STEPS)

    def compared_with(name):
        ending = name.endswith(methods.NO_DECODER)
        return next(other for other in names if other.endswith(methods.NO_DECODER) == ending)

    return [
        {
            "method": name,
            "batch_size": len(subjects[name][1]),
            "seconds_per_100_steps": 100 * float(np.median(times[name])),
            "ratio": float(np.median(np.array(times[name]) / times[compared_with(name)])),
            "to": compared_with(name),
        }
        for name in names
    ]


def _subject(name, task, settings):
    """Returns a method's model, which has trained already, and a batch for it."""
    plan = methods.training_of(name, "mnist", settings.budget)
    keras.utils.set_random_seed(0)
    model = methods.compiled(
        name, "mnist", settings.budget, task, STEPS * ROUNDS, update=settings.update
    )
    size = min(plan.batch_size, len(task.images.train[0]))
    x, y = task.batches(0, size)(0)
    for _ in range(3):  # the first one compiles the model
        model.train_on_batch(x, y)
    return model, x, y


def robustness_of(cell: Cell, settings: StudySettings) -> dict[str, float]:
    """Returns test errors in per cent on digits that are moved, noisy, or mislead the network."""
    task = tasks.load(cell.task, settings)
    model = keras.saving.load_model(cell.folder(settings.output) / "model.keras")
    images, labels = task.test
    # Attacks follow logits, where there are some: the gradient of probabilities near 1 is lost.
    layer = next((layer for layer in model.layers if layer.name == "logits"), model.layers[-1])
    scores = keras.Model(model.input, layer.output)
    changed = {
        "affine": robustness.affine(task.images.test[0], overlaps.HELD_OUT_SEED),
        "noise": robustness.noisy(images, NOISE, overlaps.HELD_OUT_SEED),
    }
    for name, steps in ATTACKS.items():
        changed[name] = attacks.white_box(scores, images, labels, EPSILON, steps, attacks.lead)

    def error(x):
        outputs = model.predict(x, batch_size=100, verbose=0)
        return 100 * float(np.mean(outputs.argmax(-1) != labels))

    return {name: error(x) for name, x in changed.items()}


def time_to_goal(cell: Cell, settings: StudySettings, start_up: float) -> dict:
    """Trains a cell until 99 % of the validation images are right; returns values of its row.

    Args:
        cell: The cell.
        settings: Settings of the program.
        start_up: Seconds that the start of the program took, which count too.
    """
    started = time.perf_counter()
    task, plan = tasks.load(cell.task, settings), cell.plan(settings.budget)
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.seed)
    size = min(plan.batch_size, len(task.images.train[0]))
    most = (settings.epochs or plan.epochs) * (len(task.images.train[0]) // size)
    model = methods.compiled(
        cell.method, cell.task, settings.budget, task, most, ["accuracy"], settings.update
    )

    def look(epoch, logs):
        model.stop_training = logs["val_accuracy"] >= GOAL

    history = model.fit(
        Feed(task.batches(cell.seed, size)),
        epochs=max(1, most // INTERVAL),
        steps_per_epoch=min(INTERVAL, most),
        shuffle=False,  # the batches are shuffled already
        validation_data=task.validation,
        validation_batch_size=1000,
        verbose=2,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)],
    )
    seconds, accuracy = start_up + time.perf_counter() - started, history.history["val_accuracy"]
    return {
        "seconds": round(seconds, 1) if accuracy[-1] >= GOAL else "",
        "steps": min(INTERVAL, most) * len(history.epoch),
        "batch_size": size,
        "validation_error": round(100 * (1 - accuracy[-1]), 2),
        "test_error": round(100 * (1 - task.accuracy(model, 1000)), 2),
    }
