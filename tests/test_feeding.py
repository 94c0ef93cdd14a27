"""Batches that are made ahead of training."""

import concurrent.futures
import threading
import time

import keras
import numpy as np
import pytest

from harness.feeding import Feed
from pictures_of.batches import Batches


class Recorder:
    """Batches of numbers that tell what was made; some of them fail."""

    def __init__(self, failing=(), seconds=0.0):
        self.made, self.failing, self.seconds = [], failing, seconds

    def __call__(self, number, part=slice(None)):
        self.made.append(number)
        time.sleep(self.seconds)
        if number in self.failing:
            raise ValueError(f"batch {number} is bad")
        return (np.full(4, number)[part],)


def until(holds):
    """Waits for what threads do."""
    for _ in range(500):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it did not come to hold in 5 seconds")


def test_it_looks_ahead_by_three_batches():
    batches = Recorder()
    feed = Feed(batches)
    assert not batches.made  # Nothing is made before the first is asked for.
    assert feed[0][0].tolist() == [0] * 4
    until(lambda: sorted(batches.made) == [0, 1, 2, 3])
    assert feed[1][0].tolist() == [1] * 4
    until(lambda: sorted(batches.made) == [0, 1, 2, 3, 4])
    time.sleep(0.05)
    assert len(batches.made) == 5  # Each is made once, and no more of them.


def test_batches_are_made_while_the_caller_works():
    batches = Recorder(seconds=0.05)
    feed = Feed(batches)
    feed[0]
    until(lambda: len(batches.made) == 4)
    time.sleep(0.1)
    started = time.perf_counter()
    for number in range(1, 4):
        feed[number]
    assert time.perf_counter() - started < 0.1  # and not three times 0.05 seconds


def test_epochs_begin_where_they_are_told_to():
    feed = Feed(Recorder(), steps=5)
    assert feed.num_batches == 5
    callback = feed.starting()
    found = []
    for epoch in (0, 1, 7):  # The last one is of a resumed run.
        callback.on_epoch_begin(epoch, {})
        found += [int(feed[index][0][0]) for index in range(5)]
    assert found == [*range(10), *range(35, 40)]
    assert Feed(Recorder()).num_batches is None


def test_the_same_batch_can_be_asked_for_again():
    batches = Recorder()
    feed = Feed(batches)
    assert [int(feed[number][0][0]) for number in (0, 1, 0, 0, 1)] == [0, 1, 0, 0, 1]


def test_threads_may_ask_at_once():
    batches = Recorder(seconds=0.001)
    feed, barrier = Feed(batches), threading.Barrier(8)

    def ask(number):
        barrier.wait(10)
        return int(feed[number // 2][0][0])  # each batch twice

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for start in range(0, 48, 8):
            numbers = range(start, start + 8)
            assert list(pool.map(ask, numbers)) == [number // 2 for number in numbers]


def test_an_error_surfaces_where_its_batch_is_asked_for():
    batches = Recorder(failing=[2])
    feed = Feed(batches)
    assert feed[0][0][0] == 0
    until(lambda: 2 in batches.made)
    time.sleep(0.02)
    assert feed[1][0][0] == 1  # though the one after it has failed by now
    with pytest.raises(ValueError, match="batch 2 is bad"):
        feed[2]
    assert feed[3][0][0] == 3


def test_a_batch_is_checked_once_with_its_part():
    checked = []
    feed = Feed(
        Recorder(), check=lambda number, *rest: checked.append((number, *rest)), part=slice(1, 3)
    )
    for number in range(10, 14):
        assert feed[number][0].tolist() == [number] * 2
    until(lambda: len(checked) == 7)
    assert sorted(number for number, *_ in checked) == list(range(10, 17))
    for number, (rows,), part in checked:
        assert part == slice(1, 3) and rows.tolist() == [number] * 2


def test_a_check_that_fails_ends_training_at_its_batch():
    def check(number, batch, part):
        if number == 1:
            raise ValueError("not finite")

    feed = Feed(Recorder(), check=check)
    feed[0]
    with pytest.raises(ValueError, match="not finite"):
        feed[1]


def test_keras_trains_on_its_batches_in_order(rng):
    """Of epochs from a later one on: gradient descent ends where that of a loop does."""
    x, y = rng.uniform(1, 2, (6, 1)).astype("float32"), rng.normal(size=(6, 1)).astype("float32")
    batches = Batches(6, 2, 0, lambda indices: (x[indices], y[indices]))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.float32([[0.5]])])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    feed = Feed(batches, steps=3)
    options = {"shuffle": False, "verbose": 0, "callbacks": [feed.starting()]}
    model.fit(feed, initial_epoch=1, epochs=3, **options)

    def descend(numbers):
        weight = 0.5
        for number in numbers:
            inputs, targets = batches(number)
            weight -= 0.1 * 2 * np.mean((weight * inputs - targets) * inputs)
        return weight

    assert model.get_weights()[0] == pytest.approx(descend(range(3, 9)), rel=1e-5)
    assert descend(range(3, 9)) != pytest.approx(descend([4, 3, *range(5, 9)]), rel=1e-3)
