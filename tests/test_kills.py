"""A run that is killed at random moments, again and again, ends as one that is left alone."""

import multiprocessing
import random
import signal

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


@pytest.mark.long
def test_kills(tmp_path):
    # Processes that begin after the imports, which are most of what a start costs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_run"])
    whole = start(context, tmp_path / "whole")
    whole.join(300)
    assert whole.exitcode == 0

    rng, kills, parts = random.Random(0), 0, tmp_path / "parts"
    longest = 4.0  # seconds; a start takes most of them
    while True:
        process = start(context, parts)
        if kills < KILLS:
            process.join(rng.uniform(0.0, longest))
            if process.exitcode is None:
                process.kill()
                process.join()
                assert process.exitcode == -signal.SIGKILL
                kills += 1
                continue
            # It came to its end: begin another one.
            check(tmp_path / "whole", parts)
            parts = tmp_path / f"parts{kills}"
        else:
            process.join(300)
            assert process.exitcode == 0
            check(tmp_path / "whole", parts)
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
