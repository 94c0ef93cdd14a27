"""Learning curves by step, as files."""

import pathlib
import time

import keras
import numpy as np

from harness import tables
from harness.tables import number_or_nothing

_TEST = dict.fromkeys(("test_loss", "test_accuracy", "seconds"), number_or_nothing)


def read(path: pathlib.Path) -> list[dict]:
    """Returns the rows of a curve; none without a file."""
    return tables.read_csv(path, {"step": int, **_TEST}) if path.exists() else []


class Curve(keras.callbacks.Callback):
    """Writes training values averaged over a few steps, and test values at the ends of epochs.

    Args:
        path: The file. Its rows after `first_step` are dropped: those steps are taken again.
        first_step: Number of steps done before.
        interval: Steps that are averaged over.
    """

    def __init__(self, path: pathlib.Path, first_step: int, interval: int):
        super().__init__()
        self.path, self.step, self.interval = path, first_step, interval
        self.rows = [row for row in read(path) if row["step"] <= first_step] if first_step else []

    def on_epoch_begin(self, epoch, logs=None):
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        if self.step % self.interval == 0:
            self.model.reset_metrics()
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter() - self.started)
        self.step += 1
        if self.step % self.interval == 0:
            self._add(logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.step % self.interval:  # of a run of few steps
            self._add(logs)
        self.rows[-1] |= {
            "test_loss": logs.get("val_cross_entropy", logs["val_loss"]),
            "test_accuracy": logs["val_accuracy"],
            "seconds": float(np.median(self.times)),  # of a step
        }
        tables.write_csv(self.path, self.rows)

    def _add(self, logs):
        loss = logs.get("cross_entropy", logs["loss"])
        row = {"step": self.step, "loss": loss, "accuracy": logs["accuracy"]}
        self.rows.append(row | dict.fromkeys(_TEST, ""))
