"""Replicas on two devices, and two workers on this machine, give the result of one process."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import em_on_replicas
import exporting
from harness import distribution, run_folder
from pictures_of.batches import Batches

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"
# Sums of float32 in another order: a few roundings of 1.2e-7 a step, which later steps carry on.
ROUNDING = {"rtol": 1e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def alone():
    return em_on_replicas.fit_all()


def check_equal(results, alone):
    for name, (history, kernel) in results.items():
        expected, expected_kernel = alone[name]
        np.testing.assert_allclose(kernel, expected_kernel, **ROUNDING, err_msg=name)
        assert history.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_allclose(history[key], values, **ROUNDING, err_msg=f"{name} {key}")


def test_em_on_two_devices_equals_em_on_one(alone, two_devices):
    with two_devices.scope():
        results = em_on_replicas.fit_all()
    check_equal(results, alone)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """Two workers that run the same command, each with the output in a file."""

    def __init__(self, folder, *command):
        self.folder, self.command, self.processes = folder, [*map(str, command)], {}
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]

    def start(self, index):
        task = {"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task), "TMPDIR": str(self.folder)}
        with open(self.folder / f"{index}.log", "a") as log:
            self.processes[index] = subprocess.Popen(
                [sys.executable, *self.command], stdout=log, stderr=log, env=environment
            )

    def log(self, index):
        return (self.folder / f"{index}.log").read_text()

    def wait(self):
        for index, process in self.processes.items():
            assert process.wait(timeout=300) == 0, self.log(index)

    def __enter__(self):
        self.start(0)
        self.start(1)
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.mark.long
def test_em_of_two_workers_equals_em_of_one(alone, tmp_path):
    with Cluster(tmp_path, em_on_replicas.__file__, tmp_path) as cluster:
        cluster.wait()
    for index in (0, 1):
        results = json.loads((tmp_path / f"{index}.json").read_text())
        check_equal(results, alone)


@pytest.mark.long
def test_a_killed_worker_is_started_again_and_training_goes_on(tmp_path):
    """The survivor starts anew by itself; the end is that of one process without a kill."""
    run = ("--limit", 120, "--batch-size", 16, "--epochs", 6, "--routing", "l1")
    run = (*run, "--synthetic", "--resume", "--output")
    output = tmp_path / "shared"
    command = (RECIPES / "digits.py", *run, output, "--distribute", "multi-worker")
    with Cluster(tmp_path, *command) as cluster:
        progress, deadline = output / "backup/state.h5", time.monotonic() + 200
        while not progress.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.processes[1].kill()
        cluster.processes[1].wait()
        cluster.start(1)
        single = exporting.recipe_here("digits", *run, tmp_path / "single")
        cluster.wait()
    assert single.returncode == 0, single.stderr
    # Only the chief speaks. What else a worker wrote is gone, but for what the killed one left.
    assert cluster.log(0).count("starting anew from the checkpoint") == 1
    assert "test accuracy" in cluster.log(0) and "test accuracy" not in cluster.log(1)
    assert len(list(tmp_path.glob("worker-*"))) <= 1
    assert json.loads((output / "run.json").read_text())["replicas"] == 2
    # Steps of Adam divide by gradients that may be small: more than rounding remains, and an image
    # between two classes may fall to either.
    close, image = {"rtol": 1e-4, "atol": 1e-4}, 1 / 96
    histories = [
        run_folder.read_history(folder / "history.csv") for folder in (tmp_path / "single", output)
    ]
    for history in histories:
        assert len(history.pop("seconds")) == 6
    for key, values in histories[0].items():
        more = {"atol": 1.01 * image} if key == "accuracy" else {}
        np.testing.assert_allclose(histories[1][key], values, **close | more, err_msg=key)
    models = [
        keras.saving.load_model(folder / "model.keras") for folder in (tmp_path / "single", output)
    ]
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        # A step that is lost or taken twice moves most of them, and by more.
        assert np.abs(b - a).mean() < 2e-5
    reports = [json.loads((f / "report.json").read_text()) for f in (tmp_path / "single", output)]
    assert reports[0]["test_accuracy"] == reports[1]["test_accuracy"]


def test_a_worker_makes_its_own_part_of_a_batch_alone():
    made = []

    def make(indices, draws):
        made.append(indices)
        return np.stack([indices, draws], axis=1).astype("float32"), {"label": indices}

    batches = Batches(50, 12, seed=3, make=make, draw=lambda rng, size: (rng.random(size),))
    whole = [batches(number) for number in range(5, 8)]
    made.clear()
    for worker in (0, 1):  # with two replicas each
        context = tf.distribute.InputContext(2, worker, 4)
        parts = distribution.own_parts(batches, 5, None, context).take(6).as_numpy_iterator()
        for number, (x, labels) in enumerate(parts):
            batch, replica = divmod(number, 2)
            rows = slice(6 * worker + 3 * replica, 6 * worker + 3 * replica + 3)
            np.testing.assert_array_equal(x, whole[batch][0][rows])
            np.testing.assert_array_equal(labels["label"], whole[batch][1]["label"][rows])
    assert {len(indices) for indices in made} == {6}


def test_a_recipe_on_two_devices(tmp_path):
    run = ("--limit", 60, "--epochs", 3, "--output")
    results = [
        exporting.recipe_here("capsule_regression", *run, tmp_path / name, "--distribute", name)
        for name in ("none", "mirrored")
    ]
    assert [result.returncode for result in results] == [0, 0], results
    assert not tf.distribute.has_strategy()
    one, two = (run_folder.read_history(tmp_path / n / "history.csv") for n in ("none", "mirrored"))
    for key, values in one.items():
        np.testing.assert_allclose(two[key], values, **ROUNDING, err_msg=key)
    assert (tmp_path / "mirrored/report.json").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "needs TF_CONFIG in the environment"),
        ("{", "TF_CONFIG cannot be used: JSONDecodeError"),
        ("[]", "TF_CONFIG cannot be used: TypeError"),
        ('{"cluster": {"worker": ["a:1"]}}', "KeyError('task')"),
        ({"ps": ["a:1"]}, "its jobs must be chief and worker, received ['ps']"),
        ({"worker": ["a:1", "b"]}, "must be a list of host:port, received ['a:1', 'b']"),
        ({"worker": ["a:1", "a:1"]}, "an address is there twice"),
        ({"chief": ["a:1", "b:1"]}, "there must be one chief at most"),
        ({"worker": []}, "there is no worker 0"),
    ],
)
def test_a_bad_cluster(monkeypatch, tmp_path, config, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        if isinstance(config, dict):
            task = {"type": next(iter(config)), "index": 0}
            config = json.dumps({"cluster": config, "task": task})
        monkeypatch.setenv("TF_CONFIG", config)
    options = ("--distribute", "multi-worker", "--output", tmp_path / "ckpt")
    result = exporting.recipe_here("digits", *options)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert message in result.stderr and not (tmp_path / "ckpt").exists()


def test_batches_must_be_shared_equally(tmp_path):
    options = ("--distribute", "mirrored", "--batch-size", 15, "--output", tmp_path / "ckpt")
    result = exporting.recipe_here("digits", *options)
    assert result.returncode == 2
    assert result.stderr == (
        "error: --batch-size must be a multiple of the 2 replicas. Received: 15.\n"
    )
    assert not (tmp_path / "ckpt").exists() and not tf.distribute.has_strategy()
