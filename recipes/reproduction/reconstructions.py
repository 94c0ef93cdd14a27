"""Images rebuilt from the capsules of their classes, by decoders that saw such ones or did not."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from harness import checkpoints
from harness.settings import StudySettings
from kcaps.layers import CapsuleMask
from kcaps.models.architectures import decoder
from pictures_of import overlap_plots, overlaps
from reproduction import methods, tasks
from reproduction.cells import Cell

DECODERS = ("own", "of_dynamic", "trained_after")


def with_decoder(cell: Cell) -> Cell:
    """Returns the cell of dynamic routing whose decoder rebuilds images from this one, too."""
    return dataclasses.replace(cell, method="dynamic")


def measure(cell: Cell, settings: StudySettings) -> dict:
    """Returns mean squared errors of what `rebuild` gives, of pixels in [0, 1], by `DECODERS`.

    For a network without a decoder, one is trained first, on the capsules of its training images.
    """
    if cell.method.endswith(methods.NO_DECODER):
        _train_decoder(cell, settings)
    images, _, rebuilt = rebuild(cell, settings)
    errors = {name: np.mean(((x - images) / 255) ** 2) for name, x in rebuilt.items()}
    return {name: float(errors[name]) if name in errors else "" for name in DECODERS}


def rebuild(cell: Cell, settings: StudySettings) -> tuple[np.ndarray, np.ndarray, dict]:
    """Returns test images rebuilt from their longest capsules in a finished cell.

    Decoders are the network's `"own"`, or, where it has none, the one `"trained_after"` it and that
    `"of_dynamic"`, trained with dynamic routing from the same seed, which never saw these capsules.
    The last is the paper's choice.

    Returns:
        The test images, whether each is classified right, and rebuilt images by decoder.
    """
    model, (images, labels) = _load(cell, settings), tasks.load(cell.task, settings).test
    decoders = {"own": model.decoder}
    if model.decoder is None:
        decoders = {
            "trained_after": _load(cell, settings, "decoder"),
            "of_dynamic": _load(with_decoder(cell), settings).decoder,
        }
    network = keras.Model(model.input, [model.class_poses, model.output])
    size = cell.plan(settings.budget).batch_size
    poses, lengths = network.predict(images, batch_size=size, verbose=0)
    masked = keras.ops.convert_to_numpy(CapsuleMask()(poses))
    rebuilt = {name: each.predict(masked, verbose=0) for name, each in decoders.items()}
    return images, lengths.argmax(-1) == labels, rebuilt


def draw_parts(cells: Sequence[Cell], settings: StudySettings) -> None:
    """Draws `reconstructions.png` in finished cells of overlapping digits that have none yet."""
    paths = {cell: cell.folder(settings.output) / "reconstructions.png" for cell in cells}
    paths = {cell: path for cell, path in paths.items() if not path.exists()}
    if paths:
        images = settings.load_images("mnist")
        _, test = overlaps.held_out(images)
    for cell, path in paths.items():
        overlap_plots.draw(_load(cell, settings), images, test, path)


def _train_decoder(cell, settings):
    """Trains a decoder for the class capsules of a network, whose weights stay as they are."""
    model, task = _load(cell, settings), tasks.load(cell.task, settings)
    plan = cell.plan(settings.budget)
    network = keras.Model(model.input, model.class_poses)
    images, labels = task.images.train
    keras.utils.set_random_seed(cell.seed)
    units = methods.CAPSNETS[settings.budget]["decoder_units"]
    trained = decoder(*network.output_shape[1:], task.input_shape, units)
    trained.compile("adam", keras.losses.MeanSquaredError())
    poses = network.predict(images, batch_size=plan.batch_size, verbose=0)
    masked = keras.ops.convert_to_numpy(CapsuleMask()(poses, labels=labels))
    epochs = settings.epochs or plan.epochs
    trained.fit(masked, images, epochs=epochs, batch_size=plan.batch_size, verbose=2)
    checkpoints.write_model(trained, cell.folder(settings.output) / "decoder.keras")


def _load(cell, settings, name="model"):
    return keras.saving.load_model(cell.folder(settings.output) / f"{name}.keras")
