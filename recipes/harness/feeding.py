"""Batches as Keras takes them, made while the model trains on those before."""

import concurrent.futures
from collections.abc import Callable

import keras

from pictures_of.batches import Batches

_AHEAD = 3  # batches that are made, or being made, before they are asked for


class Feed(keras.utils.PyDataset):
    """The batches of a run from a first one on, without end.

    Args:
        batches: The batches.
        first: Number of the first one.
        check: Function of the number of a batch, the batch, and the part of it that is made; it
            raises an error where training should end. Defaults to None: there is no check.
        part: The part of each batch that is made. Defaults to all of it.
    """

    def __init__(
        self,
        batches: Batches,
        first: int = 0,
        check: Callable | None = None,
        part: slice = slice(None),
    ):
        super().__init__()
        self._batches, self._first, self._check, self._part = batches, first, check, part
        self._pool = concurrent.futures.ThreadPoolExecutor(2, "batches")
        self._made = {}

    @property
    def num_batches(self):
        return None  # in Keras' language: without end

    def __getitem__(self, index):
        for number in range(index, index + 1 + _AHEAD):
            if number not in self._made:
                self._made[number] = self._pool.submit(self._make, number)
        return self._made.pop(index).result()

    def _make(self, index):
        number = self._first + index
        batch = self._batches(number, self._part)
        if self._check:
            self._check(number, batch, self._part)
        return batch
