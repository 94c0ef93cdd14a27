"""Files that a run writes after each epoch: the best model, and a state to go on from.

Each is one file that is replaced whole, so that a process which ends at any moment, or a disk that
is full, leaves the one before.
"""

import math
import pathlib
import zlib

import h5py
import keras
import numpy as np

from export.command import first_line
from harness.schedules import without_warm_up
from kcaps.backend.keras_private import keep_skipped_attributes

STATE = "backup/state.h5"  # in a checkpoint folder


def write_model(model: keras.Model, path: pathlib.Path) -> None:
    """Saves a model aside and then in place."""
    aside = path.with_name(f"part-{path.name}")
    keep_skipped_attributes()
    try:
        with without_warm_up(model):
            model.save(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class KeptModel(keras.callbacks.Callback):
    """Keeps the model of the epoch with the lowest validation loss, or that of the last epoch.

    Args:
        path: The file.
        best: Lowest validation loss before. Defaults to infinity, above any.
        averages: The callback that gives the model its averaged weights for the validation, which
            are then kept, too. Defaults to None: weights are not averaged.
        keeps_last: Whether each epoch replaces the model, whatever its loss. Defaults to False.
    """

    def __init__(self, path, best=math.inf, averages=None, keeps_last=False):
        super().__init__()
        self.path, self.best, self.averages, self.keeps_last = path, best, averages, keeps_last

    def on_epoch_end(self, epoch, logs=None):
        if self.keeps_last or logs["val_loss"] < self.best:
            self.best = logs["val_loss"]
            if self.averages:
                self.averages.on_test_begin()
            try:
                write_model(self.model, self.path)
            finally:
                if self.averages:
                    self.averages.on_test_end()


class Backup(keras.callbacks.Callback):
    """Keeps all that training goes on from, and begins from it where the file exists.

    That is all variables of the model and of its optimizers: weights, moving averages, counts of
    random draws, moments. An epoch after which a loss is not finite is not kept. `fit` must be
    given `initial_epoch=epochs_in(path)`.

    Args:
        path: The file.
    """

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_begin(self, logs=None):
        model = self.model
        self.path.parent.mkdir(exist_ok=True)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        if epochs_in(self.path):
            for variable, value in zip(_variables(model), _values(self.path), strict=True):
                variable.assign(value)

    def on_epoch_end(self, epoch, logs=None):
        # The last step of an epoch shows in the validation only.
        if np.isfinite([logs["loss"], logs.get("val_loss", 0.0)]).all():
            values = map(keras.ops.convert_to_numpy, _variables(self.model))
            write_state(self.path, epoch + 1, dict(enumerate(values)))


def check_state(path: pathlib.Path, model: keras.Model) -> None:
    """Raises a `ValueError` if a state cannot be that of this model; changes nothing."""
    for variable, value in zip(model.variables, _values(path), strict=False):
        if tuple(variable.shape) != value.shape:
            raise ValueError(
                f"{path.name} is of another model: {variable.path} has the shape "
                f"{tuple(variable.shape)}, received {value.shape}"
            )


def _values(path):
    _, values = read_state(path)
    return [values[str(number)] for number in range(len(values))]


def _variables(model):
    optimizers = (model.optimizer, getattr(model, "routing_optimizer", None))
    return [*model.variables, *(v for each in optimizers if each for v in each.variables)]


def write_state(path: pathlib.Path, epoch: int, values: dict[str, np.ndarray]) -> None:
    """Writes arrays by name, and the number of epochs after which they are the state."""
    aside = path.with_suffix(".part")
    try:
        with h5py.File(aside, "w") as file:
            for name, value in values.items():
                file[str(name)] = value
            file.attrs["epoch"] = epoch
            file.attrs["checksum"] = _checksum(epoch, file)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_state(path: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
    """Returns the number of epochs and the arrays that `write_state` wrote.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            epoch, checksum = int(file.attrs["epoch"]), file.attrs.get("checksum")
            if epoch < 0 or checksum not in (None, _checksum(epoch, file)):
                raise ValueError("its checksum is wrong")
            return epoch, {name: file[name][()] for name in file}
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(f"{path.name} is damaged: {first_line(error)}") from error


def _checksum(epoch, file):
    result = zlib.crc32(str(epoch).encode())
    for name in file:
        result = zlib.crc32(np.ascontiguousarray(file[name][()]), zlib.crc32(name.encode(), result))
    return result


def epochs_in(path: pathlib.Path) -> int:
    """Returns the epochs that a state is of; none where there is no file."""
    return read_state(path)[0] if path.exists() else 0
