"""Training in a checkpoint folder, which goes on after an interruption, and its report."""

import contextlib
import importlib.util
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import keras
import numpy as np

from export.command import fail, fail_unread
from harness import checkpoints, distribution, run_folder, settings, tables
from harness.divergence import Watch
from harness.executions import take_steps_together
from harness.feeding import Feed
from harness.progress import Progress
from harness.run_folder import Run
from harness.settings import CapsNetSettings, RunSettings
from harness.stopping import EarlyStopping
from pictures_of import data
from pictures_of.augmentation import mirrored
from pictures_of.batches import Batches, Change, stream

BACKENDS = ("tensorflow", "jax", "torch")
_DRAWING = ("matplotlib", "sklearn")  # modules that pictures of a trained model need


def begin(
    description: str, kind: type = CapsNetSettings, *, has_folder: bool = True, **defaults: object
) -> RunSettings:
    """Reads the command line, checks the output folder and seeds Keras.

    Args:
        description: Text of `--help`.
        kind: Class of the settings, `harness.settings.RunSettings` or one that derives from it.
        has_folder: Whether images come from a folder, those of some `--data` at least.
        **defaults: Defaults of this program, in place of those of the class.

    Returns:
        Settings of that class.
    """
    asked = settings.read(kind, description, has_folder=has_folder, **defaults)
    check(asked)
    _check_drawing()
    if distribution.writes(asked):
        run_folder.check_output(asked.run)
    asked = distribution.start(asked)
    keras.utils.set_random_seed(asked.seed)
    return asked


def _check_drawing():
    """Raises now the error that an import of a missing package would raise after the training."""
    for name in _DRAWING:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def check(asked: RunSettings) -> None:
    """Ends the program at a seed, or a backend of Keras, that it cannot have."""
    check_backend()
    if asked.seed < 0 or asked.seed >= 2**32:
        fail(f"--seed must be from 0 to {2**32 - 1}, received {asked.seed}")


def check_backend(backends: tuple[str, ...] = BACKENDS) -> None:
    """Ends the program where Keras runs on another backend than one of these."""
    backend = keras.backend.backend()
    if backend not in backends:
        known = " or ".join(map(repr, backends))
        fail(f"this recipe's KERAS_BACKEND must be {known}, or unset. Received: {backend!r}")


def train(
    model: keras.Model,
    images: data.Images,
    run: Run,
    change: Change | None = None,
    report: dict | None = None,
) -> None:
    """Trains a compiled model and fills its checkpoint folder.

    The model of the epoch with the lowest validation loss is kept; the test images are used once,
    at the end.

    Args:
        model: Compiled model from raw images to class lengths.
        images: Images in three splits.
        run: The run, with a batch size.
        change: A random change of the training images. Defaults to None: there is none.
        report: Further numbers for `report.json`.
    """
    size = min(run.batch_size, len(images.train[0]))
    batches = stream(*images.train, size, run.seed, change)
    history = fit(model, images, run, batches, images.validation)
    finish(model, images, run, history, report)


def finish(
    model: keras.Model,
    images: data.Images,
    run: Run,
    history: dict[str, list[float]],
    report: dict | None = None,
) -> None:
    """Tests a trained model and fills its checkpoint folder with the report and pictures.

    Args:
        model: The model, from raw images to class lengths.
        images: Images in three splits.
        run: The run.
        history: What `fit` returned.
        report: Further numbers for `report.json`.
    """
    inputs, labels = images.test
    model = distribution.finish(run.output, model)
    lengths = model.predict(inputs, batch_size=run.batch_size, verbose=0)

    def accuracy_of(outputs):
        return float(np.mean(outputs.argmax(-1) == labels))

    accuracy = accuracy_of(lengths)
    averaged = with_mirror_images(run, model, inputs, lengths, accuracy_of)
    further = {
        "test_balanced_accuracy": balanced_accuracy(lengths.argmax(-1), labels),
        **averaged,
        **(report or {}),
    }
    write_report(run, images, model, history, accuracy, further=further)
    # Now, because its packages take longer to import than all else before the first step.
    from harness import plots

    plots.draw(model, images, lengths, history, run.output)
    print(
        f"test accuracy {100 * accuracy:.2f} %{in_words(averaged)} on {len(labels):,} test images "
        f"of {images.title}; checkpoint in {run.output}{os.sep}"
    )


def balanced_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over the classes of the share of their images that are right."""
    shares = [np.mean(predictions[labels == label] == label) for label in np.unique(labels)]
    return float(np.mean(shares))


def with_mirror_images(
    run: Run,
    model: keras.Model,
    inputs: np.ndarray,
    outputs: np.ndarray,
    accuracy_of: Callable[[np.ndarray], float],
) -> dict[str, float]:
    """Returns what `report.json` says of a test with mirror images, nothing for a run without.

    Args:
        run: The run.
        model: The trained model.
        inputs: Test images.
        outputs: The model's outputs for them, which are averaged with those for mirror images.
        accuracy_of: Function of outputs that returns their accuracy.
    """
    if not run.mirror_test:
        return {}
    others = model.predict(mirrored(inputs), batch_size=run.batch_size, verbose=0)
    return {"test_accuracy_mirrored": accuracy_of((outputs + others) / 2)}


def in_words(report: dict[str, float]) -> str:
    """Returns words for what `with_mirror_images` found, for the last line of a program."""
    value = report.get("test_accuracy_mirrored")
    return "" if value is None else f" ({100 * value:.2f} % with mirror images)"


def fit(
    model: keras.Model,
    images: data.Images,
    run: Run,
    batches: Batches,
    validation: tuple,
) -> dict[str, list[float]]:
    """Trains a compiled model in its checkpoint folder; keeps that of the best or the last epoch.

    Args:
        model: Compiled model.
        images: Images in three splits.
        run: The run, with a batch size.
        batches: Batches of the training images.
        validation: What Keras takes as validation data.

    Returns:
        The columns of history.csv.
    """
    output = run.output
    if run_folder.epochs_done(output) and not run.overwrite:
        run_folder.check_same_model(output, model)
    done = run_folder.open_folder(run, images)
    history = run_folder.read_history(output / "history.csv") if done else {}
    print(f"{run.recipe}: {images.title}, {len(images.train[0])} training images", flush=True)
    steps = batches.count // batches.size
    watch = Watch(steps)
    losses = history.get("val_loss", [])
    if not (run.early_stopping and EarlyStopping(run.early_stopping, losses).is_over):
        callbacks = _callbacks(run, model, history, images.is_synthetic, watch)
        with _interruptions_told(model, run, watch, callbacks):
            take_epochs(model, run, batches, steps, validation, callbacks, watch.look_at)
    history = run_folder.read_history(output / "history.csv")
    watch.check(history, output)
    model.load_weights(output / "model.keras")
    return history


def take_epochs(
    model: keras.Model,
    run: Run,
    batches: Batches,
    steps: int,
    validation: tuple,
    callbacks: list[keras.callbacks.Callback],
    check: Callable | None = None,
) -> None:
    """Trains a compiled model for the epochs of its run that are not done yet.

    Args:
        model: Compiled model.
        run: The run, whose folder is open.
        batches: Batches of the training images.
        steps: Steps of an epoch.
        validation: What Keras takes as validation data.
        callbacks: Keras' callbacks, in order; `checkpoints.Backup` should be the last one.
        check: As for `harness.feeding.Feed`.
    """
    done = run_folder.epochs_done(run.output)
    if distribution.has_strategy():
        feed, length = distribution.share(batches, done * steps, check), steps
    else:
        feed, length = Feed(batches, steps, check), None  # it has one of its own
        callbacks = [feed.starting(), _seed_of_epochs(run.seed), *callbacks]
        take_steps_together(model, steps)
    model.fit(
        feed,
        initial_epoch=done,
        epochs=run.epochs,
        steps_per_epoch=length,
        shuffle=False,  # the batches are shuffled already
        validation_data=validation,
        validation_batch_size=run.batch_size,
        callbacks=[*callbacks, Progress(run.epochs)],
        verbose=1 if sys.stdout.isatty() else 0,
    )


def _seed_of_epochs(seed):
    """Returns a callback that gives each epoch random numbers of its own on torch.

    On other backends, Keras counts what its layers draw, and the count is among their variables.
    On torch, dropout without a seed takes torch's own numbers.
    """

    def begin(epoch, logs):
        if keras.backend.backend() == "torch":
            import torch

            (number,) = np.random.SeedSequence([seed, epoch]).generate_state(1)
            torch.manual_seed(int(number))

    return keras.callbacks.LambdaCallback(on_epoch_begin=begin)


def timer() -> keras.callbacks.Callback:
    """Returns a callback that logs the seconds of each epoch, its validation included."""
    started = []
    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: started.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: logs.update(seconds=time.perf_counter() - started[-1]),
    )


def _callbacks(run, model, history, is_synthetic, watch):
    """Returns the callbacks of a run, in the order in which they must be called."""
    output, losses = run.output, history.get("val_loss", [])
    label = {"synthetic": 1.0} if is_synthetic else {}  # a column of history.csv
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    averages = keras.callbacks.SwapEMAWeights() if optimizer.use_ema else None
    return [
        watch,
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(label)),
        timer(),
        *([EarlyStopping(run.early_stopping, losses)] if run.early_stopping else []),
        *([averages] if averages else []),
        keras.callbacks.CSVLogger(output / "history.csv", append=bool(history)),
        checkpoints.KeptModel(
            output / "model.keras", min(losses, default=math.inf), averages, run.keep == "last"
        ),
        checkpoints.Backup(output / checkpoints.STATE),
    ]


@contextlib.contextmanager
def _interruptions_told(model, run, watch, callbacks):
    """Context of training, after which the program ends with one line where it was interrupted."""
    output = run.output

    def go_on():
        return f"{run.how_to_resume} goes on after {run_folder.epochs_done(output)} epochs"

    try:
        with _interrupting(watch):
            yield
    except KeyboardInterrupt:
        if not (output / "model.keras").exists():
            checkpoints.write_model(model, output / "model.keras")
        done = run_folder.epochs_done(output)
        fail(f"interrupted after {done} epochs; {run.how_to_resume} goes on from there", 130)
    except BrokenPipeError:
        fail_unread(go_on())
    except OSError as error:
        fail(
            f"--output {output} cannot be written any more ({error}); what was saved before is "
            f"still there, and {go_on()}",
            code=1,
        )
    except Exception:  # TensorFlow has the watch's error in one of its own
        if watch.images is None:
            raise
        step, bad, count = watch.images
        positions = " ".join(map(str, bad[:3])) + ("..." if len(bad) > 3 else "")
        fail(
            f"{len(bad)} of {count} images hold NaN or infinity: {watch.place(step)}, images "
            f"{positions} of the batch (from 0); training stopped, what was saved before is still "
            f"there, and {go_on()}",
            code=1,
        )
    finally:
        for callback in callbacks:
            # history.csv is closed where training did not come to its end. A full disk is told of.
            if isinstance(callback, keras.callbacks.CSVLogger):
                with contextlib.suppress(OSError):
                    callback.on_train_end()


@contextlib.contextmanager
def _interrupting(watch):
    """Context in which the watch knows of Ctrl-C, too."""
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number, frame):
        watch.interrupted = True
        before(number, frame)

    # Other threads than the first have no signals; others than Python's own handlers are kept.
    has_signals = threading.current_thread() is threading.main_thread() and callable(before)
    if has_signals:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if has_signals:
            signal.signal(signal.SIGINT, before)


def write_report(
    run: Run,
    images: data.Images,
    model: keras.Model,
    history: dict[str, list[float]],
    accuracy: float,
    metric: str = "accuracy",
    further: dict | None = None,
) -> None:
    """Writes `report.json`.

    Args:
        run: The run.
        images: Its images.
        model: The trained model.
        history: Columns of its history, as of `fit`.
        accuracy: Share of the test images that are right.
        metric: Name of the accuracy in the history.
        further: Further numbers.
    """
    best = int(np.argmin(history["val_loss"]))
    kept = best if run.keep == "best" else len(history["val_loss"]) - 1
    tables.write_json(
        run.output / "report.json",
        {
            "test_accuracy": accuracy,
            "test_images": len(images.test[1]),
            "validation_accuracy": history[f"val_{metric}"][kept],
            "validation_loss": history["val_loss"][kept],
            "best_epoch": best + 1,
            "kept_epoch": kept + 1,
            "epochs": len(history["loss"]),
            "parameters": model.count_params(),
            "training_seconds": round(sum(history["seconds"]), 2),
            "synthetic": images.is_synthetic,
            **(further or {}),
        },
    )
