"""One line for each epoch of a training, with the time that the rest will take."""

import time

import keras


class Progress(keras.callbacks.Callback):
    """Prints a line after each epoch: loss, the first other measure of validation, time to go.

    The time is that of the epochs of this process, without the first one as soon as there are
    others: functions are compiled in it.

    Args:
        epochs: Epochs at the end of which training is finished.
    """

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs
        self._times = []

    def on_train_begin(self, logs=None):
        self._times = [time.perf_counter()]

    def on_epoch_end(self, epoch, logs=None):
        self._times.append(time.perf_counter())
        measures = [name for name in logs if name.startswith("val_") and name != "val_loss"]
        shown = ["loss", *(measures[:1] or ["val_loss"] * ("val_loss" in logs))]
        line = f"epoch {epoch + 1} of {self.epochs}: "
        line += ", ".join(f"{name} {logs[name]:.4g}" for name in shown)
        left = self.epochs - epoch - 1
        line += f"; {duration(left * self._seconds())} to go" if left else ""
        print(line, flush=True)

    def _seconds(self):
        """Returns the mean seconds of an epoch so far."""
        times = self._times[1:] if len(self._times) > 2 else self._times
        return (times[-1] - times[0]) / (len(times) - 1)


def duration(seconds: float) -> str:
    """Returns a time in words: seconds, minutes from 100 s on, hours from 100 minutes on."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
