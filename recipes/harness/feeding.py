"""Batches as Keras takes them, made while the model trains on those before."""

import concurrent.futures
import threading
from collections.abc import Callable

import keras

from pictures_of.batches import Batches

_AHEAD = 3  # batches that are made, or being made, before they are asked for


class Feed(keras.utils.PyDataset):
    """Batches by their number, or those of an epoch after the other.

    Args:
        batches: The batches.
        steps: Steps of an epoch; `starting` tells which one it is. Defaults to None: batches are
            without end.
        check: Function of the number of a batch, the batch, and the part of it that is made; it
            raises an error where training should end. Defaults to None: there is no check.
        part: The part of each batch that is made. Defaults to all of it.
    """

    def __init__(
        self,
        batches: Batches,
        steps: int | None = None,
        check: Callable | None = None,
        part: slice = slice(None),
    ):
        super().__init__()
        self.steps, self._first = steps, 0
        self._batches, self._check, self._part = batches, check, part
        self._pool = concurrent.futures.ThreadPoolExecutor(2, "batches")
        self._made, self._lock = {}, threading.Lock()  # TensorFlow asks from threads of its own.

    def starting(self) -> keras.callbacks.Callback:
        """Returns the callback that moves on to the batches of the epoch that begins."""

        def begin(epoch, logs):
            self._first = epoch * self.steps

        return keras.callbacks.LambdaCallback(on_epoch_begin=begin)

    @property
    def num_batches(self):
        return self.steps  # None is without end to Keras

    def __getitem__(self, index):
        number = self._first + index
        with self._lock:
            for ahead in range(number, number + 1 + _AHEAD):
                if ahead not in self._made:
                    self._made[ahead] = self._pool.submit(self._make, ahead)
            made = self._made.pop(number)
        return made.result()

    def _make(self, number):
        batch = self._batches(number, self._part)
        if self._check:
            self._check(number, batch, self._part)
        return batch
