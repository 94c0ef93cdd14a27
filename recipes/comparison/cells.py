"""Cells of the comparison of baselines: a model that is trained from a seed."""

import dataclasses
import functools
import math
import shutil

import keras
import numpy as np

from comparison.curves import Curve
from comparison.models import BASELINES
from comparison.settings import LONG, REGRESSION, SHORT, ComparisonSettings
from export.command import fail
from harness import checkpoints, provenance, run_folder, study, tables
from harness.run_folder import Run
from harness.training import take_epochs, timer
from networks import baselines as networks
from pictures_of.batches import stream
from pictures_of.data import Images
from regression import training as regression

CAPSULE_DIM = 8
COLUMNS = {  # of cells.csv
    "model": str,
    "seed": int,
    "steps": int,
    "test_accuracy": float,
    "peak_test_accuracy": tables.number_or_nothing,
    "validation_accuracy": tables.number_or_nothing,
    "parameters": int,
    "seconds_per_epoch": float,
    **dict.fromkeys(provenance.COLUMNS, str),
}


def complete(settings: ComparisonSettings, images: Images) -> list[dict]:
    """Returns the rows of cells.csv; trains the models that it lacks."""
    path, cells = settings.output / "cells.csv", settings.cells()
    for row in tables.read_cells(path, COLUMNS):
        if set(row) != set(COLUMNS):
            fail(f"{path} is damaged: its columns should be {', '.join(COLUMNS)}")
        model, steps = row["model"], settings.count_steps(row["model"])
        if model in settings.models and row["steps"] != steps:
            fail(
                f"{path} has {model} after {row['steps']} steps, not {steps}: give the same "
                "--steps, or another --output"
            )

    def announce(number, cell):
        about = f"{cell['model']}, seed {cell['seed']}, {images.title}"
        print(f"{number} of {len(cells)}: {about}", flush=True)

    def finish(number, cell, seconds):
        shutil.rmtree(settings.output / cell["model"] / "backup", ignore_errors=True)

    run_cell = functools.partial(_run, settings, images)
    return study.complete(path, cells, run_cell, COLUMNS, announce, finish)


def _run(settings, images, model, seed):
    """Trains one model from one seed, and leaves its checkpoint folder; returns its rows."""
    source = provenance.here()  # a commit made while this trains has not trained it
    steps, output = settings.count_steps(model), settings.output / model
    arguments = {"recipe": settings.recipe, "model": model, "seed": seed, "steps": steps}
    run = Run(
        recipe=settings.recipe,
        output=output,
        epochs=math.ceil(steps / LONG),
        seed=seed,
        arguments=arguments | settings.arguments,
    )
    keras.utils.set_random_seed(seed)
    train = _train_regression if model == REGRESSION else _train_network
    trained, results = train(study.continued(run), images, steps)
    checkpoints.write_model(trained, output / "model.keras")
    report = {"seed": seed, "steps": steps, **results}
    about = {"test_images": len(images.test[1]), "synthetic": images.is_synthetic}
    tables.write_json(output / "report.json", report | about)
    print(f"  test accuracy {100 * report['test_accuracy']:.2f} %", flush=True)
    row = {"model": model, **report, **source}
    return [{name: row.get(name, "") for name in COLUMNS}]


def _train_network(run, images, steps):
    """Trains a network; returns its model for inference and its part of the row."""
    # All training images, with those of validation: the paper has no such split.
    x, y = map(np.concatenate, zip(images.train, images.validation, strict=True))
    name, interval = run.arguments["model"], min(LONG, steps)
    baseline = BASELINES[name]
    network = baseline.build(images, x.mean(0, dtype="float64"))
    curve = _open_curve(run, images, network, interval)
    batch_size = min(baseline.batch_size, len(x))
    run = dataclasses.replace(run, batch_size=batch_size)
    batches = stream(x, y, batch_size, run.seed)
    test = tuple(part[: baseline.curve_images] for part in images.test)
    backup = checkpoints.Backup(run.output / checkpoints.STATE)
    callbacks = [keras.callbacks.TerminateOnNaN(), curve, backup]
    try:
        take_epochs(network, run, batches, interval, test, callbacks)
    except OSError as error:
        fail(f"{run.output} cannot be used: {error!r}")
    if not np.isfinite(curve.rows[-1]["loss"]):
        shutil.rmtree(run.output)
        fail(f"{name}, seed {run.seed}: training diverged", code=1)
    seconds = np.median([row["seconds"] for row in curve.rows if row["seconds"] != ""])
    trainable = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    if network.get_layer(index=-1).name == "logits":
        network = networks.with_probabilities(network)
    probabilities = network.predict(images.test[0], batch_size=100, verbose=0)
    return network, {
        "test_accuracy": float(np.mean(probabilities.argmax(-1) == images.test[1])),
        "peak_test_accuracy": max(float(row["test_accuracy"] or 0) for row in curve.rows),
        "parameters": trainable,
        "seconds_per_epoch": seconds * len(x) / batch_size,
    }


def _open_curve(run, images, network, interval):
    """Opens the folder of a run, and returns its curve; ends the program at a damaged one."""
    try:
        done = interval * run_folder.open_folder(run, images)
        curve = Curve(run.output / "curve.csv", done, SHORT)
        if done:
            checkpoints.check_state(run.output / checkpoints.STATE, network)
        if done and curve.rows[-1]["step"] != done:
            raise ValueError("curve.csv is shorter than the backup")
    except (OSError, IndexError, ValueError, KeyError, TypeError) as error:
        fail(f"{run.output} cannot be resumed, it is damaged: {error!r}. Remove it.")
    return curve


def _train_regression(run, images, steps):
    """Fits capsule regression by EM; returns the model and its part of the row."""
    history = run.output / "history.csv"
    run_folder.open_folder(run, images, regression.epochs_done)
    schedule = regression.open_schedule(run.output)
    encoder = regression.make_encoder(images)
    model = regression.make_model(images, encoder, "multiclass", CAPSULE_DIM)
    callbacks = [timer(), keras.callbacks.CSVLogger(history, append=True)]
    regression.iterate(dataclasses.replace(run, epochs=steps), images, model, schedule, callbacks)
    test = model.evaluate(*images.test, batch_size=1000, verbose=0, return_dict=True)
    return model, {
        "test_accuracy": test["accuracy"],
        "validation_accuracy": 1 - schedule.best,
        "parameters": math.prod(model.competition.kernel.shape),
        "seconds_per_epoch": float(np.median(run_folder.read_history(history)["seconds"])),
    }
