"""Callbacks that decide when EM ends, and the lines and bars that training shows."""

import contextlib
import math
import os
import pathlib
import time

import keras
import numpy as np

from kcaps.validation import boolean, is_sequence, non_negative, positive_int

SECONDS = 10  # So many pass between two backups.


class ThresholdSchedule(keras.callbacks.Callback):
    """Trains `CapsuleRegression` in rounds of falling threshold, each from the best model so far.

    A round ends when the validation error has not improved for its number of epochs. The next one
    starts from the best weights found so far, without momentum. After the last round training
    stops; the model is left with the best weights.

    Args:
        thresholds: Threshold ν of each round. Defaults to those of the paper.
        patience: Epochs without improvement that end each round. Defaults to those of the paper.
        monitor: Name of the log to minimise. Defaults to `"val_error"`.
        verbose: Whether to print a line for each round. Defaults to False.
        backup: Path of an `.npz` file that keeps the state every few seconds, or None. Where the
            file exists, training goes on from it: call `fit` with `initial_epoch=schedule.epoch`.

    Attributes:
        epoch: Number of epochs done.
        finished: Whether the last round has ended.
        best: Lowest value of `monitor`.
        best_epoch: Epoch that reached it, counted from 1; 0 for the start.
        rounds: Number of epochs in each finished round.

    Raises:
        ValueError: for lists of different lengths or values out of range, and in training if
            `monitor` is not among the logs.

    Example:

    >>> regression = CapsuleRegression(3, capsule_dim=2)
    >>> regression.compile(momentum=0.9)
    >>> x = np.random.default_rng(0).normal(size=(60, 5))
    >>> history = regression.fit(
    ...     x, np.arange(60) % 3, validation_split=0.2, epochs=5, verbose=0,
    ...     callbacks=[ThresholdSchedule()])
    >>> sorted(history.history)
    ['error', 'loss', 'val_error', 'val_loss']

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), section 3.1.
    """

    def __init__(
        self,
        thresholds=(0.8, 0.6, 0.4, 0.2, 0.0),
        patience=(128, 64, 32, 16, 8),
        monitor: str = "val_error",
        verbose: bool = False,
        backup: str | os.PathLike | None = None,
    ):
        super().__init__()
        for name, values in (("thresholds", thresholds), ("patience", patience)):
            if not is_sequence(values):
                raise ValueError(f"`{name}` must be a list. Received: {name}={values!r}.")
        if not isinstance(monitor, str):
            raise ValueError(f"`monitor` must be the name of a log. Received: {monitor!r}.")
        if len(thresholds) != len(patience) or not len(thresholds):
            raise ValueError(
                "`thresholds` and `patience` must have one value for each round. "
                f"Received: {len(thresholds)} and {len(patience)} values."
            )
        self.thresholds = [non_negative("thresholds", value) for value in thresholds]
        self.patience = [positive_int("patience", value) for value in patience]
        self.monitor, self.verbose = monitor, boolean("verbose", verbose)
        if not isinstance(backup, str | os.PathLike | None):
            raise ValueError(f"`backup` must be the path of a file. Received: backup={backup!r}.")
        self.backup = None if backup is None else pathlib.Path(backup)
        self._reset()
        is_resumed = self.backup is not None and self.backup.exists()
        self._saved = self._read() if is_resumed else None

    def _reset(self):
        self.best, self.best_epoch, self.best_kernel = np.inf, 0, None
        self.rounds, self.wait, self.length, self.epoch = [], 0, 0, 0

    @property
    def finished(self) -> bool:
        """Whether the last round has ended."""
        return len(self.rounds) == len(self.thresholds)

    def on_train_begin(self, logs=None):
        self._last_save = time.monotonic()
        if self._saved is None:
            self._reset()
            self._begin_round()
            return
        self.model.threshold = self.thresholds[min(len(self.rounds), len(self.thresholds) - 1)]
        self.model.kernel = self._saved["kernel"]
        self.model.restart(self._saved["velocity"])
        self._saved = None

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            raise ValueError(
                f"`ThresholdSchedule` needs {self.monitor!r} in the logs. Give `validation_data`, "
                f"or another `monitor`. Received: {sorted(logs or {})}."
            )
        if self.finished:  # The backup was of a training that had ended.
            self.model.stop_training = True
            return
        self.length += 1
        self.epoch = epoch + 1
        if logs[self.monitor] < self.best:
            self.best, self.best_epoch, self.wait = float(logs[self.monitor]), epoch + 1, 0
            self.best_kernel = self.model.kernel
        else:
            self.wait += 1
            if self.wait >= self.patience[len(self.rounds)]:
                self._end_round()
        if self.backup and time.monotonic() > self._last_save + SECONDS:
            self._write()

    def on_train_end(self, logs=None):
        if self.backup and self.epoch:
            self._write()
        self._restore()

    def _begin_round(self):
        self.wait = self.length = 0
        self.model.threshold = self.thresholds[len(self.rounds)]
        self.model.restart()

    def _end_round(self):
        if self.verbose:
            print(
                f"round {len(self.rounds) + 1}: threshold {self.model.threshold:g}, "
                f"{self.length} epochs, best {self.monitor} {self.best:.4f}"
            )
        self.rounds.append(self.length)
        if self.finished:
            self.model.stop_training = True
        else:
            self._restore()
            self._begin_round()

    def _restore(self):
        if self.best_kernel is not None:
            self.model.kernel = self.best_kernel

    def _write(self):
        """Writes aside and replaces, so that a reader never sees half a file."""
        self._last_save = time.monotonic()
        aside = self.backup.with_suffix(".part")
        aside.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            np.savez(
                file,
                kernel=self.model.kernel,
                velocity=self.model.velocity,
                **({} if self.best_kernel is None else {"best_kernel": self.best_kernel}),
                best=self.best,
                rounds=np.array(self.rounds, int),
                counts=[self.best_epoch, self.wait, self.length, self.epoch],
            )
        aside.replace(self.backup)

    def _read(self):
        """Takes up the counts of the backup, and returns all that it holds."""
        try:
            with np.load(self.backup, allow_pickle=False) as file:
                saved = dict(file)
            self.best, self.best_kernel = float(saved["best"]), saved.get("best_kernel")
            self.rounds = saved["rounds"].tolist()
            counts = self.best_epoch, self.wait, self.length, self.epoch = saved["counts"].tolist()
            if len(self.rounds) > len(self.thresholds) or min(*counts, *self.rounds) < 0:
                raise ValueError("its rounds are not those of this schedule")
            if not all(np.isfinite(saved[name]).all() for name in ("kernel", "velocity")):
                raise ValueError("its weights are not finite")
        except Exception as error:  # Damaged files fail in many ways.
            raise ValueError(f"`backup` {self.backup} cannot be read: {error}") from error
        return saved


class Convergence(keras.callbacks.Callback):
    """Stops EM when some iterations have improved neither the likelihood nor the error.

    Without a threshold the penalised likelihood rises to a limit, and with it ends the improvement.
    With one, steps aim at the error, the likelihood may fall while the error still does, and the
    weights never come to rest: then it is the lowest error that ends. Both values have a bound, so
    that training always comes to an end.

    Args:
        tol: Improvement of the mean penalised log-likelihood that counts, by example and problem.
        n_iter_no_change: Iterations without an improvement that end training.
        penalty: Half the precision of the prior of the weights, divided by the sum of the weights
            of all examples.
        num_problems: Number of problems that each example takes part in, over which `loss` is a
            sum.

    Attributes:
        finished: Whether training came to its end.
    """

    def __init__(self, tol: float, n_iter_no_change: int, penalty: float, num_problems: int):
        super().__init__()
        self.tol, self.n_iter_no_change = tol, n_iter_no_change
        self.penalty, self.num_problems = penalty, num_problems

    def on_train_begin(self, logs=None):
        self.loss = self.error = np.inf
        self.wait, self.finished = 0, False

    def on_epoch_begin(self, epoch, logs=None):
        kernel = self.model.kernel.astype("float64")  # The log `loss` will be of these weights.
        self.prior = self.penalty * np.sum(np.square(kernel))

    def on_epoch_end(self, epoch, logs=None):
        loss, error = (logs["loss"] + self.prior) / self.num_problems, logs["error"]
        improves = loss < self.loss - self.tol or error < self.error
        self.loss, self.error = min(self.loss, loss), min(self.error, error)
        self.wait = 0 if improves else self.wait + 1
        if self.wait >= self.n_iter_no_change:
            self.finished = self.model.stop_training = True


class Lines(keras.callbacks.Callback):
    """Prints a line for each iteration."""

    def on_epoch_end(self, epoch, logs=None):
        values = ", ".join(f"{name} {value:.5f}" for name, value in logs.items())
        print(f"iteration {epoch + 1}: {values}", flush=True)


class Progress:
    """Shows the work before the first epoch of `fit`: lines and a bar, lines alone, or nothing.

    Args:
        verbose: As of `keras.Model.fit`: 0 for nothing, 2 for lines only, `"auto"` and other
            values for lines and a bar.
    """

    def __init__(self, verbose):
        self.verbose = 1 if verbose == "auto" else int(verbose or 0)

    def line(self, text: str | None) -> None:
        """Prints a line; None is no line."""
        if self.verbose and text:
            print(text, flush=True)

    @contextlib.contextmanager
    def bar(self, text: str, batches: int | None = None):
        """Prints a line and shows a bar, and yields a function to call with each batch, or None."""
        self.line(text)
        if self.verbose != 1:
            yield None
            return
        bar, seen = keras.utils.Progbar(batches, unit_name="batch"), []

        def observe(batch):
            seen.append(len(batch))
            bar.update(len(seen))

        yield observe
        if len(seen) != batches:  # This ends the line.
            bar.update(len(seen), finalize=True)


def number_of_batches(data, batch_size: int, steps: int | None = None) -> int | None:
    """Returns how many batches data come in, at most `steps`, or None where it is not known."""
    if hasattr(data, "shape"):
        return math.ceil(len(data) / batch_size)
    with contextlib.suppress(TypeError):  # Iterators have no length.
        return len(data) if steps is None else min(len(data), steps)
    return steps
