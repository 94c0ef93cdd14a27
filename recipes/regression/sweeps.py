"""A sweep over the architectures of capsule regression and the dimensions of its capsules."""

import math

import keras

from export.command import fail
from harness import plots, study, tables
from kcaps.regression import ThresholdSchedule
from kcaps.regression.architectures import ARCHITECTURES
from pictures_of.data import Images
from regression import pictures, training
from regression.settings import RegressionSettings

_TYPES = {"architecture": str, "capsule_dim": int, "epochs": int, "parameters": int}


def sweep(settings: RegressionSettings, images: Images, encoder: keras.Model) -> dict:
    """Fits a model of each architecture and dimension; those that are finished are kept.

    Args:
        settings: Settings with the dimensions.
        images: Images in three splits.
        encoder: Encoder of raw images.

    Returns:
        The row of the model with the lowest validation error, which is in the folder.
    """
    run, path = settings.run, settings.output / "sweep.csv"
    rows = tables.read_cells(path, _TYPES)
    if any("architecture" not in row or "validation_error" not in row for row in rows):
        fail(f"{path} is damaged: remove it, or start anew with --overwrite")

    def fit(architecture, capsule_dim):
        model = training.make_model(
            images, encoder, architecture, capsule_dim, settings.momentum, settings.ridge
        )
        row = training.fit(run, images, model, ThresholdSchedule(verbose=True))
        errors = [other["validation_error"] for other in tables.read_cells(path, _TYPES)]
        if row["validation_error"] <= min(errors, default=math.inf):
            training.finish(run.output, images, model, row)
        print(f"  test error {100 * row['test_error']:.2f} %, {row['seconds']} s", flush=True)
        return [row]

    def announce(number, cell):
        print(f"{cell['architecture']}, capsules of {cell['capsule_dim']} components", flush=True)

    cells = [
        {"architecture": architecture, "capsule_dim": dim}
        for dim in settings.dims
        for architecture in ARCHITECTURES
    ]
    rows = study.complete(path, cells, fit, _TYPES, announce)
    plots.save(
        pictures.error_by_dimension(rows), images, settings.output / "error_by_dimension.png"
    )
    return min(rows, key=lambda row: row["validation_error"])
