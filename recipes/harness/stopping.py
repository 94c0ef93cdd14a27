"""Early stopping that goes on counting where a resumed run left off."""

import keras
import numpy as np


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Ends training after epochs in which the validation loss has not fallen below its lowest.

    Args:
        patience: Number of such epochs in a row.
        losses: Validation losses of the epochs before, where a run goes on.
    """

    def __init__(self, patience: int, losses: list[float]):
        super().__init__("val_loss", patience=patience, mode="min")
        self._losses = losses

    @property
    def is_over(self) -> bool:
        """Whether training has already ended."""
        return bool(self._losses) and self._count() >= self.patience

    def _count(self):
        """Returns how many epochs have come after the best one."""
        return len(self._losses) - 1 - int(np.argmin(self._losses))

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self._losses:
            self.best, self.wait = min(self._losses), self._count()
