"""Steps of fitting capsule regression that recipes share."""

import time
import zipfile

import keras
import numpy as np

from export.command import fail
from harness import checkpoints, run_folder
from kcaps.regression import CapsuleRegression, SubspaceProjection, ThresholdSchedule


def make_encoder(images, components=None):
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
    except KeyboardInterrupt:
        if schedule.backup:  # a sweep keeps its best finished model
            if schedule.best_kernel is not None:
                model.competition.kernel.assign(schedule.best_kernel)
            checkpoints.write_model(model, args.output / "model.keras")
        fail(f"interrupted after {schedule.epoch} iterations; {args.again} goes on", code=130)
    finally:
        for callback in callbacks:  # closes the history where training did not come to its end
            callback.on_train_end()
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


def finish(args, images, model, row, report=None):
    """Fills the checkpoint folder with a model, its results and the further numbers `report`."""
    checkpoints.write_model(model, args.output / "model.keras")
    run_folder.write_json(
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
            **(report or {}),
        },
    )


def open_schedule(output):
    """The schedule of a run, which goes on from its backup if there is one."""
    path, history = output / "backup" / "schedule.npz", output / "history.csv"
    try:
        schedule = ThresholdSchedule(verbose=True, backup=path)
        if schedule.epoch and len(run_folder.read_history(history)["val_error"]) < schedule.epoch:
            raise ValueError("history.csv is shorter than the backup")
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        fail(f"--output {output} cannot be resumed, its run is damaged: {error!r}")
    return schedule
