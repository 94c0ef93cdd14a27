"""A run that is killed at random moments, again and again, ends as one that is left alone."""

import multiprocessing
import random
import signal
import time

import h5py
import numpy as np
import pytest

import small_run
from harness import checkpoints, run_folder

KILLS = 20


def start(context, output):
    process = context.Process(target=small_run.run, args=(output,))
    process.start()
    return process


def state(output):
    with h5py.File(output / checkpoints.STATE, "r") as file:
        return {name: file[name][()] for name in file} | dict(file.attrs)


@pytest.fixture(scope="module")
def context():
    """Starts processes that begin after the imports, which are most of what a start costs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_run"])
    return context


@pytest.fixture(scope="module")
def whole(context, tmp_path_factory):
    """The folder of a run that is left alone, and the seconds that it took."""
    folder, started = tmp_path_factory.mktemp("runs") / "whole", time.perf_counter()
    process = start(context, folder)
    process.join(300)
    assert process.exitcode == 0
    return folder, time.perf_counter() - started


def kill(process):
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.compiled
def test_a_kill_between_epochs(context, whole, tmp_path):
    """And again, later, within an epoch or while files are written."""
    for epochs in (2, 7):
        process = start(context, tmp_path)
        while process.exitcode is None and run_folder.epochs_done(tmp_path) < epochs:
            time.sleep(0.001)
        kill(process)
        assert epochs <= run_folder.epochs_done(tmp_path) < small_run.EPOCHS
    process = start(context, tmp_path)
    process.join(300)
    assert process.exitcode == 0
    check(whole[0], tmp_path)


@pytest.mark.long
def test_kills(context, whole, tmp_path):
    rng, kills, parts = random.Random(0), 0, tmp_path / "parts"
    expected, seconds = whole
    while True:
        process = start(context, parts)
        if kills < KILLS:
            process.join(rng.uniform(0.0, seconds))
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                kills += 1
                continue
            # It came to its end, perhaps just before it was killed: begin another one.
            assert process.exitcode == 0
            check(expected, parts)
            parts = tmp_path / f"parts{kills}"
        else:
            process.join(300)
            assert process.exitcode == 0
            check(expected, parts)
            return


def check(whole, parts):
    """Weights, moments, routing variables and draws are equal bit for bit; the history is, too."""
    expected, found = state(whole), state(parts)
    assert expected.keys() == found.keys() and found["epoch"] == small_run.EPOCHS
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    histories = [run_folder.read_history(folder / "history.csv") for folder in (whole, parts)]
    for history in histories:
        history.pop("seconds")
    assert histories[0] == histories[1]
