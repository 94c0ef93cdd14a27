"""Fits capsule regression by EM, as published: subspace, rounds of thresholds, momentum."""

import csv
import os
import time
import zipfile

import data
import training

import keras
import numpy as np

import regression_pictures as pictures
from export.command import fail, non_negative, positive
from kcaps.regression import CapsuleRegression, SubspaceProjection, ThresholdSchedule
from kcaps.regression.architectures import ARCHITECTURES

DATA = ("digits", "mnist", "fashion_mnist")


def add_arguments(parser):
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--capsule-dim", type=positive(int), default=2)
    parser.add_argument("--architecture", choices=list(ARCHITECTURES), default="multiclass")
    parser.add_argument(
        "--components",
        type=positive(int),
        help="singular directions that images are projected on (default: a quarter of the pixels, "
        "at least 32)",
    )
    parser.add_argument(
        "--ridge", type=non_negative, default=0.0, help="precision of a prior on the weights"
    )
    parser.add_argument("--momentum", type=non_negative, default=0.9)
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="all architectures with capsules of --dims components; the model with the lowest "
        "validation error is kept",
    )
    parser.add_argument("--dims", type=positive(int), nargs="+", default=[1, 2, 4, 8, 16])


def make_encoder(images, components):
    pixels = int(np.prod(images.shape))
    projection = SubspaceProjection(min(components or images.num_components, pixels))
    encoder = keras.Sequential([keras.layers.Rescaling(1 / 255), projection], name="encoder")
    # As published: the directions are those of all training images, with those of validation.
    projection.adapt(np.concatenate([images.train[0], images.validation[0]]) / np.float32(255))
    return encoder


def make_model(args, images, encoder, architecture, capsule_dim):
    """A model with its first weights; ends the program where the data cannot be fitted."""
    model = CapsuleRegression(images.num_classes, capsule_dim, architecture, encoder=encoder)
    try:
        model.compile(metrics=["accuracy"], momentum=args.momentum, ridge=args.ridge)
        model.adapt(*images.train)
    except ValueError as error:  # such as too few images, without one of some class
        fail(error)
    return model


def fit(args, images, model, schedule, callbacks=()):
    """Trains a model; returns its row of the results."""
    started = time.perf_counter()
    try:
        model.fit(
            *images.train,
            initial_epoch=schedule.epoch,
            epochs=schedule.epoch if schedule.finished else args.epochs,
            validation_data=images.validation,
            verbose=0,
            callbacks=[*callbacks, schedule],  # no backup of an epoch that is not in the history
        )
    except ValueError as error:  # of steps that overflow
        fail(error, code=1)
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
        "parameters": int(np.prod(model.competition.kernel.shape)),
        "seconds": round(seconds, 1),
    }


def finish(args, images, model, row):
    """Fills the checkpoint folder with a model and its results."""
    model.save(args.output / "model.keras")
    training.write_json(
        args.output / "report.json",
        {
            "test_accuracy": 1 - row["test_error"],
            "test_images": len(images.test[1]),
            "validation_accuracy": 1 - row["validation_error"],
            "training_accuracy": 1 - row["training_error"],
            "epochs": row["epochs"],
            "parameters": row["parameters"],
            "training_seconds": row["seconds"],
            "synthetic": images.source["loader"] == "synthetic",
        },
    )


def sweep(args, images, encoder):
    """All architectures and dimensions; cells that a resumed sweep has finished are kept."""
    path = args.output / "sweep.csv"
    rows = []
    if path.exists():
        with open(path, newline="") as file:
            rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
        if any("architecture" not in row or "validation_error" not in row for row in rows):
            fail(f"{path} is damaged: remove it, or start anew with --overwrite")
    for dim in args.dims:
        for architecture in ARCHITECTURES:
            if any((r["architecture"], r["capsule_dim"]) == (architecture, dim) for r in rows):
                continue
            print(f"{architecture}, capsules of {dim} components", flush=True)
            schedule = ThresholdSchedule(verbose=True)
            model = make_model(args, images, encoder, architecture, dim)
            row = fit(args, images, model, schedule)
            rows.append(row)
            if row["validation_error"] == min(r["validation_error"] for r in rows):
                finish(args, images, model, row)
            training.write_csv(path, rows)
            print(f"  test error {100 * row['test_error']:.2f} %, {row['seconds']} s", flush=True)
    pictures.draw_sweep(rows, images, args.output)
    return min(rows, key=lambda r: r["validation_error"])


def _number(text):
    try:
        return float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        return text


def open_schedule(output):
    """The schedule of a run, which goes on from its backup if there is one."""
    path, history = output / "backup" / "schedule.npz", output / "history.csv"
    try:
        schedule = ThresholdSchedule(verbose=True, backup=path)
        if schedule.epoch and len(training.read_history(history)["val_error"]) < schedule.epoch:
            raise ValueError("history.csv is shorter than the backup")
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        fail(f"--output {output} cannot be resumed, its run is damaged: {error!r}")
    return schedule


args = training.begin_any(__doc__, epochs=20_000, add_arguments=add_arguments)
if args.resume:
    open_schedule(args.output)  # refuses what is damaged before anything is done
images = data.load(args.data, args.data_dir, args.limit, args.synthetic, as_published=True)
encoder = make_encoder(images, args.components)
model = make_model(args, images, encoder, args.architecture, args.capsule_dim)
training.open_folder(args, images, lambda output: open_schedule(output).epoch)
(args.output / "backup").mkdir(exist_ok=True)
print(f"{args.recipe}: {images.title}, {len(images.train[0])} training images", flush=True)
if args.sweep:
    row = sweep(args, images, encoder)
else:
    logger = keras.callbacks.CSVLogger(args.output / "history.csv", append=args.resume)
    schedule = open_schedule(args.output)
    row = fit(args, images, model, schedule, [logger])
    finish(args, images, model, row)
    pictures.draw(model, images, training.read_history(args.output / "history.csv"), args.output)
accuracy = 100 * (1 - row["test_error"])
print(
    f"test accuracy {accuracy:.2f} % on {images.title} ({row['architecture']}, capsules of "
    f"{row['capsule_dim']}); checkpoint in {args.output}{os.sep}"
)
