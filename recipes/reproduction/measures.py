"""Measures beside test errors: times, and robustness."""

import time

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
GOALS = {"time_to_99": 0.99, "time_to_94": 0.94}  # shares of validation images, by table
INTERVAL = 100  # steps between two looks at them


def step_times(settings: StudySettings, rounds: int = ROUNDS, steps: int = STEPS) -> list[dict]:
    """Returns a row of times for each method that settings ask for, of training steps.

    All methods take steps in turn, round by round, on the first task of the settings. Ratios are
    medians over the rounds, to the first method that has, or has not, a decoder as well.

    Args:
        settings: `reproduction.settings.Settings`.
        rounds: Rounds of the timing.
        steps: Steps of every method in a round.
    """
    name = settings.cells[0].task
    task = tasks.load(name, settings)
    names = list(dict.fromkeys(cell.method for cell in settings.cells if cell.task == name))
    subjects = {method: _subject(method, name, task, settings) for method in names}
    times = {method: [] for method in names}
    for _ in range(rounds):
        for method, (model, x, y) in subjects.items():
            started = time.perf_counter()
            for _ in range(steps):  # each returns its loss, and so waits for it
                model.train_on_batch(x, y)
            times[method].append((time.perf_counter() - started) / steps)

    def compared_with(method):
        ending = method.endswith(methods.NO_DECODER)
        return next(other for other in names if other.endswith(methods.NO_DECODER) == ending)

    return [
        {
            "method": method,
            "batch_size": len(subjects[method][1]),
            "seconds_per_100_steps": 100 * float(np.median(times[method])),
            "ratio": float(np.median(np.array(times[method]) / times[compared_with(method)])),
            "to": compared_with(method),
        }
        for method in names
    ]


def _subject(method, name, task, settings):
    """Returns a method's model, which has trained already, and a batch for it."""
    plan = methods.training_of(method, name, settings.budget)
    keras.utils.set_random_seed(0)
    model = methods.compiled(
        method, name, settings.budget, task, STEPS * ROUNDS, update=settings.update
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
    """Trains a cell until enough of the validation images are right; returns values of its row.

    Args:
        cell: The cell.
        settings: Settings of the program.
        start_up: Seconds that the start of the program took, which count too.
    """
    started = time.perf_counter()
    task, plan = tasks.load(cell.task, settings), cell.plan(settings.budget)
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.seed)
    size, goal = min(plan.batch_size, len(task.images.train[0])), GOALS[settings.table]
    most = (settings.epochs or plan.epochs) * (len(task.images.train[0]) // size)
    model = methods.compiled(
        cell.method, cell.task, settings.budget, task, most, ["accuracy"], settings.update
    )

    def look(epoch, logs):
        model.stop_training = logs["val_accuracy"] >= goal

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
        "seconds": round(seconds, 1) if accuracy[-1] >= goal else "",
        "steps": min(INTERVAL, most) * len(history.epoch),
        "batch_size": size,
        "validation_error": round(100 * (1 - accuracy[-1]), 2),
        "test_error": round(100 * (1 - task.accuracy(model, 1000)), 2),
    }
