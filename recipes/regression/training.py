"""Fitting of capsule regression to images in a checkpoint folder."""

import dataclasses
import math
import pathlib
import time
import zipfile
from collections.abc import Sequence

import keras
import numpy as np

from export.command import fail
from harness import checkpoints, distribution, plots, run_folder, study, tables
from harness.run_folder import Run
from kcaps.regression import CapsuleRegression, SubspaceProjection, ThresholdSchedule
from kcaps.regression.competition import ARCHITECTURES
from pictures_of.data import Images
from pictures_of.distortions import distorted
from regression import pictures
from regression.settings import RegressionSettings

BATCH_SIZE = 1000  # images that are distorted at once
_TYPES = {"architecture": str, "capsule_dim": int, "epochs": int, "parameters": int}  # of a sweep


def with_distorted(images: Images, count: int, seed: int) -> Images:
    """Returns images whose training images have so many distorted ones of them beside."""
    x, y = images.train
    size = min(BATCH_SIZE, len(x))
    batches = distorted(x, y, seed, size)
    more, labels = np.empty((count, *x.shape[1:]), x.dtype), np.empty(count, y.dtype)
    for number, start in enumerate(range(0, count, size)):
        part = slice(start, start + size)
        new, classes = batches(number)
        more[part], labels[part] = (array[: count - start] for array in (new.round(), classes))
    train = np.concatenate([x, more]), np.concatenate([y, labels])
    return dataclasses.replace(images, train=train)


def new_encoder(images: Images, components: int) -> keras.Sequential:
    """Returns an encoder of raw images that is not adapted; ends the program at few pixels."""
    if components > math.prod(images.shape):
        fail(f"--components must be at most {math.prod(images.shape)}, received {components}")
    layers = [keras.layers.Rescaling(1 / 255), SubspaceProjection(components)]
    return keras.Sequential(layers, name="encoder")


def make_encoder(images: Images, components: int | None = None) -> keras.Sequential:
    """Returns an encoder of raw images by singular directions, by default as many as published."""
    encoder = new_encoder(images, components or images.num_components)
    # As published: the directions are those of all training images, with those of validation.
    pixels = np.concatenate([images.train[0], images.validation[0]]) / np.float32(255)
    encoder.layers[-1].adapt(pixels)
    return encoder


def make_model(
    images: Images,
    encoder: keras.Model,
    architecture: str,
    capsule_dim: int,
    momentum: float = 0.9,
    ridge: float = 0.0,
) -> CapsuleRegression:
    """Returns a model with its first weights; ends the program where data cannot be fitted."""
    model = CapsuleRegression(images.num_classes, capsule_dim, architecture, encoder=encoder)
    try:
        model.compile(metrics=["accuracy"], momentum=momentum, ridge=ridge)
        model.adapt(*images.train)
    except ValueError as error:  # such as too few images, without one of some class
        fail(error)
    return model


def iterate(
    run: Run,
    images: Images,
    model: CapsuleRegression,
    schedule: ThresholdSchedule,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains a model by EM until its schedule or its run ends; calls `callbacks` first."""
    try:
        model.fit(
            *images.train,
            initial_epoch=schedule.epoch,
            epochs=schedule.epoch if schedule.finished else run.epochs,
            validation_data=images.validation,
            verbose=0,
            callbacks=[*callbacks, schedule],  # no backup of an epoch that is not in the history
        )
    except ValueError as error:  # of steps that overflow
        fail(error, code=1)
    except KeyboardInterrupt:
        if schedule.backup:  # a sweep keeps its best finished model
            if schedule.best_kernel is not None:
                model.competition.kernel.assign(schedule.best_kernel)
            checkpoints.write_model(model, run.output / "model.keras")
        fail(f"interrupted after {schedule.epoch} iterations; {run.how_to_resume} goes on", 130)
    finally:
        for callback in callbacks:  # closes the history where training did not come to its end
            callback.on_train_end()


def fit(
    run: Run,
    images: Images,
    model: CapsuleRegression,
    schedule: ThresholdSchedule,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict:
    """Trains a model as `iterate` does, and returns its row of the results."""
    started = time.perf_counter()
    iterate(run, images, model, schedule, callbacks)
    seconds = time.perf_counter() - started
    test = model.evaluate(*images.test, batch_size=2000, verbose=0, return_dict=True)
    train = model.evaluate(*images.train, batch_size=2000, verbose=0, return_dict=True)
    return {
        "architecture": model.competition.architecture,
        "capsule_dim": model.competition.capsule_dim,
        "test_error": test["error"],
        "validation_error": schedule.best,
        "training_error": train["error"],
        "epochs": schedule.epoch,
        "parameters": math.prod(model.competition.kernel.shape),
        "seconds": round(seconds, 1),
    }


def fit_in_folder(run: Run, images: Images, model: CapsuleRegression) -> dict:
    """Trains a model in the open folder of its run, which it fills; returns its row."""
    history = run.output / "history.csv"
    logger = keras.callbacks.CSVLogger(history, append=run.resume)
    row = fit(run, images, model, open_schedule(run.output), [logger])
    finish(run.output, images, model, row)
    model = distribution.finish(run.output, model)
    pictures.draw(model, images, run_folder.read_history(history), run.output)
    return row


def sweep(settings: RegressionSettings, images: Images, encoder: keras.Model) -> dict:
    """Fits a model of each architecture and dimension; those that are finished are kept.

    Returns the row of the model with the lowest validation error, which is left in the folder.
    """
    run, path = settings.run, settings.output / "sweep.csv"
    rows = tables.read_cells(path, _TYPES)
    if any("architecture" not in row or "validation_error" not in row for row in rows):
        fail(f"{path} is damaged: remove it, or start anew with --overwrite")

    def fit_cell(architecture, capsule_dim):
        model = make_model(
            images, encoder, architecture, capsule_dim, settings.momentum, settings.ridge
        )
        row = fit(run, images, model, ThresholdSchedule(verbose=True))
        errors = [other["validation_error"] for other in tables.read_cells(path, _TYPES)]
        if row["validation_error"] <= min(errors, default=math.inf):
            finish(run.output, images, model, row)
        print(f"  test error {100 * row['test_error']:.2f} %, {row['seconds']} s", flush=True)
        return [row]

    def announce(number, cell):
        print(f"{cell['architecture']}, capsules of {cell['capsule_dim']} components", flush=True)

    cells = [
        {"architecture": architecture, "capsule_dim": dim}
        for dim in settings.dims
        for architecture in ARCHITECTURES
    ]
    rows = study.complete(path, cells, fit_cell, _TYPES, announce)
    plots.save(
        pictures.error_by_dimension(rows), images, settings.output / "error_by_dimension.png"
    )
    return min(rows, key=lambda row: row["validation_error"])


def finish(
    output: pathlib.Path,
    images: Images,
    model: CapsuleRegression,
    row: dict,
    report: dict | None = None,
) -> None:
    """Fills a checkpoint folder with a model, its row of `fit`, and the numbers of `report`."""
    checkpoints.write_model(model, output / "model.keras")
    tables.write_json(
        output / "report.json",
        {
            "test_accuracy": 1 - row["test_error"],
            "test_images": len(images.test[1]),
            "validation_accuracy": 1 - row["validation_error"],
            "training_accuracy": 1 - row["training_error"],
            "epochs": row["epochs"],
            "parameters": row["parameters"],
            "training_seconds": row["seconds"],
            "synthetic": images.is_synthetic,
            **(report or {}),
        },
    )


def open_schedule(output: pathlib.Path) -> ThresholdSchedule:
    """Returns the schedule of a run, which goes on from its backup if there is one."""
    path, history = output / "backup" / "schedule.npz", output / "history.csv"
    try:
        schedule = ThresholdSchedule(verbose=True, backup=path)
        if schedule.epoch and len(run_folder.read_history(history)["val_error"]) < schedule.epoch:
            raise ValueError("history.csv is shorter than the backup")
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        fail(f"--output {output} cannot be resumed, its run is damaged: {error!r}")
    return schedule


def epochs_done(output: pathlib.Path) -> int:
    """Returns how many iterations of the run in a folder are done."""
    return open_schedule(output).epoch
