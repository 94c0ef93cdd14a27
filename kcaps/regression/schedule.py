"""The rounds in which the threshold of capsule regression falls."""

import keras
import numpy as np

from kcaps.validation import non_negative, positive_int


class ThresholdSchedule(keras.callbacks.Callback):
    """Trains `CapsuleRegression` in rounds of falling threshold, each from the best model so far.

    A round ends when the validation error has not improved for its number of epochs. The next one
    starts from the best weights found so far, without momentum. After the last round training
    stops; the model is left with the best weights.

    Args:
        thresholds: Threshold ν of each round. Defaults to those of the paper.
        patience: Epochs without improvement that end each round. Defaults to those of the paper.
        monitor: What to minimise. Defaults to `"val_error"`.
        verbose: Whether to print a line for each round. Defaults to False.

    Attributes:
        best: Lowest value of `monitor`.
        best_epoch: Epoch that reached it, counted from 1; 0 for the start.
        rounds: Number of epochs in each finished round.

    Raises:
        ValueError: for lists of different lengths or values out of range, and in training if
            `monitor` is not among the logs.

    Example:

    >>> model.compile(momentum=0.9)
    >>> history = model.fit(
    ...     images, labels, validation_split=0.2, epochs=5, callbacks=[ThresholdSchedule()])

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), section 3.1.
    """

    def __init__(
        self,
        thresholds=(0.8, 0.6, 0.4, 0.2, 0.0),
        patience=(128, 64, 32, 16, 8),
        monitor="val_error",
        verbose=False,
    ):
        super().__init__()
        if len(thresholds) != len(patience) or not len(thresholds):
            raise ValueError(
                "`thresholds` and `patience` must have one value for each round. "
                f"Received: {len(thresholds)} and {len(patience)} values."
            )
        self.thresholds = [non_negative("thresholds", value) for value in thresholds]
        self.patience = [positive_int("patience", value) for value in patience]
        self.monitor, self.verbose = monitor, verbose

    def on_train_begin(self, logs=None):
        self.best, self.best_epoch, self.best_weights = np.inf, 0, None
        self.rounds = []
        self._begin_round()

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            raise ValueError(
                f"`ThresholdSchedule` needs {self.monitor!r} in the logs. Give `validation_data`, "
                f"or another `monitor`. Received: {sorted(logs or {})}."
            )
        self.length += 1
        if logs[self.monitor] < self.best:
            self.best, self.best_epoch, self.wait = logs[self.monitor], epoch + 1, 0
            self.best_weights = self.model.competition.get_weights()
            return
        self.wait += 1
        if self.wait < self.patience[len(self.rounds)]:
            return
        if self.verbose:
            print(
                f"round {len(self.rounds) + 1}: threshold {self.model.threshold:g}, "
                f"{self.length} epochs, best {self.monitor} {self.best:.4f}"
            )
        self.rounds.append(self.length)
        if len(self.rounds) == len(self.thresholds):
            self.model.stop_training = True
        else:
            self._restore()
            self._begin_round()

    def on_train_end(self, logs=None):
        self._restore()

    def _begin_round(self):
        self.wait = self.length = 0
        self.model.threshold = self.thresholds[len(self.rounds)]
        self.model.restart()

    def _restore(self):
        if self.best_weights is not None:
            self.model.competition.set_weights(self.best_weights)
