"""Images rebuilt from the capsules of their classes, by decoders that saw such ones or did not."""

import dataclasses

import keras
import numpy as np

from harness import checkpoints
from kcaps.layers import CapsuleMask
from kcaps.models.architectures import decoder
from pictures_of import data, overlap_plots, overlaps
from reproduction import methods, tasks

DECODERS = ("own", "of_dynamic", "trained_after")


def with_decoder(cell):
    """The cell whose decoder rebuilds images from this one's capsules: that of dynamic routing."""
    return dataclasses.replace(cell, method="dynamic")


def measure(cell, args):
    """Mean squared errors of test images that `rebuild` gives, of pixels in [0, 1], by decoder.

    For a network without a decoder, one is trained first, on the capsules of its training images.
    """
    if cell.method.endswith(methods.NO_DECODER):
        _train_decoder(cell, args)
    images, _, rebuilt = rebuild(cell, args)
    errors = {name: np.mean(((x - images) / 255) ** 2) for name, x in rebuilt.items()}
    return {name: float(errors[name]) if name in errors else "" for name in DECODERS}


def rebuild(cell, args):
    """Test images rebuilt from their longest capsules in a finished cell.

    Decoders are the network's `"own"`, or, where it has none, the one `"trained_after"` it and that
    `"of_dynamic"`, trained with dynamic routing from the same seed, which never saw these capsules.
    The last is the paper's choice.

    Returns:
        The test images, whether each is classified right, and a dict of rebuilt images by decoder.
    """
    model, task = _load(cell, args), tasks.load(cell.task, args)
    images, labels = task.test
    decoders = {"own": model.decoder}
    if model.decoder is None:
        decoders = {
            "trained_after": keras.saving.load_model(_path(cell, args, "decoder")),
            "of_dynamic": _load(with_decoder(cell), args).decoder,
        }
    network = keras.Model(model.input, [model.class_poses, model.output])
    poses, lengths = network.predict(images, batch_size=_batch_size(cell, args), verbose=0)
    masked = keras.ops.convert_to_numpy(CapsuleMask()(poses))
    rebuilt = {name: each.predict(masked, verbose=0) for name, each in decoders.items()}
    return images, lengths.argmax(-1) == labels, rebuilt


def draw_parts(cells, args):
    """Leaves `reconstructions.png` in finished cells of overlapping digits that have none yet."""
    paths = {cell: cell.folder(args.output) / "reconstructions.png" for cell in cells}
    paths = {cell: path for cell, path in paths.items() if not path.exists()}
    if paths:
        images = data.load("mnist", args.data_dir, args.limit, args.synthetic)
        _, test = overlaps.held_out(images)
    for cell, path in paths.items():
        overlap_plots.draw(_load(cell, args), images, test, path)


def _train_decoder(cell, args):
    """Trains a decoder for the class capsules of a network, whose weights stay as they are."""
    model, task = _load(cell, args), tasks.load(cell.task, args)
    network = keras.Model(model.input, model.class_poses)
    size, (images, labels) = _batch_size(cell, args), task.images.train
    keras.utils.set_random_seed(cell.seed)
    units = methods.CAPSNETS[args.budget]["decoder_units"]
    trained = decoder(*network.output_shape[1:], task.input_shape, units)
    trained.compile("adam", keras.losses.MeanSquaredError())
    poses = network.predict(images, batch_size=size, verbose=0)
    masked = keras.ops.convert_to_numpy(CapsuleMask()(poses, labels=labels))
    epochs = args.epochs or methods.training_of(cell.method, cell.task, args.budget).epochs
    trained.fit(masked, images, epochs=epochs, batch_size=size, verbose=2)
    checkpoints.write_model(trained, _path(cell, args, "decoder"))


def _batch_size(cell, args):
    return methods.training_of(cell.method, cell.task, args.budget).batch_size


def _path(cell, args, name="model"):
    return cell.folder(args.output) / f"{name}.keras"


def _load(cell, args):
    return keras.saving.load_model(_path(cell, args))
