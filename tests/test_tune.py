"""Searches for hyper-parameters: spaces, going on, several processes, refusals, the export."""

import csv
import dataclasses
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time

import keras
import keras_tuner
import numpy as np
import pytest

from export import checkpoint
from kcaps.routing import ROUTINGS
from networks.small_capsnet import small_capsnet
from pictures_of import data
from programs import OFFLINE, RECIPES, refused
from reproduction import methods
from search import trials
from search.oracles import ORACLES
from search.results import ranked, write
from search.settings import HYPERMODELS, Settings
from search.trials import TrialSearch

pytestmark = [
    pytest.mark.tensorflow,
    # in keras-tuner's locks
    pytest.mark.filterwarnings("ignore:(currentThread|getName):DeprecationWarning"),
]
TINY = ("--model", "mlp", "--synthetic", "--limit", 100, "--epochs", 1)
LIMIT = 300  # seconds for which a test waits before it fails


def settings_of(model, **options):
    return Settings(recipe="tune", model=model, **{"epochs": 1, "batch_size": 20, **options})


def make(name, limit=60, **options):
    images = data.load("digits", limit=limit, synthetic=True)
    return HYPERMODELS[name](images, settings_of(name, **options))


def space_of(hypermodel, *values):
    """Hyper-parameters after building with the given values."""
    hp = keras_tuner.HyperParameters()
    for value in ({}, *values):
        hp.values.update(value)
        model = hypermodel.build(hp)
        assert model.built and model.compiled
    return hp


def test_the_space_of_perceptrons_is_that_of_the_table():
    hypermodel = make("mlp")
    hp = space_of(hypermodel)
    assert {entry.name: entry.values for entry in hp.space} == {
        "units": [400, 600, 1000],
        "weight_decay": [0.1, 0.01, 0.001],
        "dropout": [0.1, 0.2, 0.5],
        "learning_rate": [1e-3, 5e-4, 1e-4],
    }
    best = {"units": 600, "weight_decay": 0.1, "dropout": 0.1, "learning_rate": 1e-4}
    assert hp.values == best
    model = hypermodel.build(hp)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == [600, 400, 10]
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)


def test_the_space_of_capsule_networks_begins_at_the_digits_recipe():
    hypermodel = make("capsnet", epochs=3, batch_size=16)
    hp = space_of(hypermodel)
    assert hp.values == {
        **{"routing": "dynamic", "iterations": 3, "capsule_dim": 16},
        **{"optimizer": "adam", "learning_rate": 2e-3},
    }
    model, by_hand = hypermodel.build(hp), small_capsnet((8, 8, 1), 10)
    assert model.count_params() == by_hand.count_params()
    assert model.class_layer.routing.get_config()["num_iterations"] == 3
    rate = model.optimizer.get_config()["learning_rate"]["config"]
    assert (rate["initial_learning_rate"], rate["decay_steps"]) == (2e-3, 3 * 54 // 16)
    results, history = hypermodel.fit(hp, model), model.history.history
    assert len(history["val_loss"]) == 3
    best = int(np.argmin(history["val_loss"]))
    assert results == {name: history[name][best] for name in ("val_accuracy", "val_loss")}

    hp.values.update(routing="l1", optimizer="sgd")
    hp.ensure_active_values()
    model = hypermodel.build(hp)
    assert model.class_layer.routing.penalty_weight == hp.values["penalty"] == 1e-3
    assert float(model.routing_optimizer.learning_rate) == pytest.approx(1e-5)
    assert {"routing_rate", "routing_steps", "sgd_learning_rate"} <= set(hp.values)
    for routing in ("l2", "em", "self_attention", "inverted_attention", "uniform"):
        hp.values["routing"] = routing
        hp.ensure_active_values()
        found = hypermodel.build(hp).class_layer.routing
        assert type(found) is type(ROUTINGS[routing]())
    # larger images have larger windows
    assert small_capsnet((28, 28, 1), 10).class_layer.input.shape == (None, 6 * 6 * 8, 8)


@pytest.mark.parametrize("routing", ["l1", "dynamic", "em", "uniform"])
def test_the_space_of_a_routing_begins_at_what_the_tables_have(routing):
    images = data.load("mnist", limit=100, synthetic=True)
    name = f"{routing}_routing"
    asked = settings_of(name, data="mnist", budget="cpu", batch_size=30, epochs=2)
    assert HYPERMODELS[name].defaults(asked) == (3, 64)
    hypermodel = HYPERMODELS[name](images, asked)
    hp = space_of(hypermodel)
    model = hypermodel.build(hp)
    by_hand = methods.build(f"{routing}_fc", "mnist", "cpu", (28, 28, 1), 10)
    assert model.count_params() == by_hand.count_params()
    plan = methods.training_of(routing, "mnist", "cpu")
    rate = model.optimizer.get_config()["learning_rate"]["config"]
    assert (rate["initial_learning_rate"], rate["decay_steps"]) == (plan.rate, 2 * 3)
    options = methods.OPTIONS.get(routing, {})
    rates = {"learning_rate", *(["routing_rate"] * (routing == "l1"))}
    assert set(hp.values) == {*options, *rates}
    assert options.items() <= model.class_layer.routing.get_config().items()
    hp.values |= {name: 0.5 for name in options}
    if routing == "l1":
        hp.values["routing_rate"] = 0.25
    model = hypermodel.build(hp)
    assert all(getattr(model.class_layer.routing, name) == 0.5 for name in options)
    if routing == "l1":
        assert float(model.routing_optimizer.learning_rate) == 0.25  # of its first step


def test_spaces_of_other_networks_and_of_the_papers_budget():
    images = data.load("mnist", limit=100, synthetic=True)
    for name in ("cnn", "efficient_capsnet"):
        hypermodel = HYPERMODELS[name](images, settings_of(name, data="mnist", budget="cpu"))
        assert set(space_of(hypermodel).values) == {"learning_rate"}
    asked = settings_of("l2_routing", data="fashion_mnist", budget="gpu")
    assert HYPERMODELS[asked.model].defaults(asked) == (50, 128)
    images = dataclasses.replace(images, name="fashion_mnist")
    network = HYPERMODELS[asked.model](images, asked).build(keras_tuner.HyperParameters())
    assert network.count_params() == 6_804_224 + 11_520  # of the reference network and couplings
    assert network.optimizer.get_config()["learning_rate"]["config"]["decay_rate"] == 0.96


class Parabola(keras_tuner.HyperModel):
    """A space without training: a score for each value, and failures."""

    built = ()

    def build(self, hp):
        kind = hp.Choice("kind", ["a", "b", "c"], default="b")
        with hp.conditional_scope("kind", ["a"]):
            if kind == "a":
                hp.Float("width", 0.1, 10.0, sampling="log", step=10)
        hp.Choice("size", [1, 2, 3], default=2)
        self.built = (*self.built, dict(hp.values))

    def fit(self, hp, model, seed=0):
        if hp.get("kind") == "c":
            raise keras_tuner.errors.FailedTrialError("diverged")
        if hp.get("size") == 3:
            raise ValueError("cannot be built")
        return {"val_accuracy": 0.5 + hp.get("size") / 10, "val_loss": 1 + seed}


def open_search(tuner, folder, max_trials=30, **options):
    trials.set_up()
    more = {"max_epochs": 9} if tuner == "hyperband" else {}
    oracle = ORACLES[tuner](max_trials, 0, **more)
    return TrialSearch(oracle, Parabola(), folder, **options)


class Killed(BaseException):
    """The end of a process, as far as files can tell."""


@pytest.mark.long
@pytest.mark.parametrize("tuner", list(ORACLES))
def test_a_search_goes_on_where_it_was_killed(tuner, tmp_path, monkeypatch, capsys):
    max_trials = 8 if tuner == "bayesian" else 30  # its optimiser takes seconds for each
    search = open_search(tuner, tmp_path / "search", max_trials)
    fit, calls = Parabola.fit, []

    def killed(self, hp, model, seed=0):
        calls.append(dict(hp.values))
        if len(calls) == 6:
            raise Killed
        return fit(self, hp, model, seed)

    monkeypatch.setattr(Parabola, "fit", killed)
    with pytest.raises(Killed):
        search.search()
    assert {k: v for k, v in calls[0].items() if not k.startswith("tuner/")} == {
        "kind": "b",
        "size": 2,
    }
    before = search.oracle
    assert len(before.end_order) == 5

    # killed between two files: a trial that has ended is not in the list of the search yet, and
    # another has begun
    listed = json.loads((tmp_path / "search/oracle.json").read_text())
    listed["end_order"].pop()
    (tmp_path / "search/oracle.json").write_text(json.dumps(listed))
    search = open_search(tuner, tmp_path / "search", max_trials)
    search.search()
    after = search.oracle
    assert set(after.end_order) == set(after.trials) and len(after.end_order) == len(after.trials)
    assert calls[6] == calls[5]  # the interrupted trial, again
    for trial_id in before.end_order:
        assert after.trials[trial_id].get_state() == before.trials[trial_id].get_state()
    values = [
        tuple(sorted(trial.hyperparameters.values.items())) for trial in after.trials.values()
    ]
    assert len(set(values)) == len(values)
    if tuner == "grid":
        assert len(values) == 3 * 3 + 2 * 3  # the whole grid, once
    failed = [trial for trial in after.trials.values() if trial.status == "FAILED"]
    assert failed and all(trial.score is None for trial in failed)
    best = ranked(after.trials.values())[0]
    assert best.hyperparameters.values["size"] == 2 and best.score == 0.7
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(": failed, diverged") for line in lines)
    assert len(lines) == len(after.trials)

    images = data.load("digits", limit=20, synthetic=True)
    table = write(after, images, tmp_path).splitlines()
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert len(rows) == len(values) == len(table) - 2
    assert (tmp_path / "parallel.png").exists()


@pytest.mark.long
def test_a_raised_number_of_trials_and_executions(tmp_path):
    open_search("random", tmp_path / "search", max_trials=2, executions=2).search()
    search = open_search("random", tmp_path / "search", max_trials=4, executions=2)
    search.search()
    assert len(search.oracle.trials) == 4
    assert search.oracle.trials["0"].metrics.get_last_value("val_loss") == 1.5  # seeds 0 and 1


def test_a_silent_worker_loses_its_trial(tmp_path):
    oracle = open_search("random", tmp_path / "search", max_trials=2).oracle
    first, second = oracle.create_trial("first"), oracle.create_trial("second")
    oracle.silence = 0.2
    time.sleep(0.3)
    oracle.get_trial(second.trial_id)  # a sign of life
    oracle.requeue_silent()
    assert list(oracle.ongoing_trials) == ["second"]
    for trial, worker in ((second, "second"), (first, "second"), (first, "first")):
        oracle.update_trial(trial.trial_id, {"val_accuracy": 0.5, "val_loss": 1, "seconds": 1})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)  # also of one that comes back after all
        if worker == "second" and trial is second:
            again = oracle.create_trial("second")
            assert again.trial_id == first.trial_id
            assert oracle.create_trial("third").status == "IDLE"  # it may be needed yet
    assert oracle.create_trial("third").status == "STOPPED" and oracle.is_over
    assert sorted(oracle.end_order) == ["0", "1"]


def start(*arguments, **environment):
    command = [sys.executable, "-u", str(RECIPES / "tune.py"), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **OFFLINE, **environment}, **pipes)


def finished(process):
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running: {out[-2000:]} {err[-2000:]}") from None
    assert process.returncode == 0, err
    assert not err, err
    return out


def wait_for(condition):
    until = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def tune_refused(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(RECIPES / "tune.py"), *map(str, arguments)])
    return refused(capsys, lambda: runpy.run_path(RECIPES / "tune.py", run_name="__main__"))


@pytest.mark.long
def test_from_a_killed_search_to_onnx(tmp_path, monkeypatch, capsys):
    output, folder = tmp_path / "ckpt", tmp_path / "ckpt-search"
    command = (*TINY, "--max-trials", 3, "--output", output)
    process = start(*command)
    for line in process.stdout:
        if line.startswith("trial 0:"):
            break
    wait_for((folder / "trial_1/trial.json").exists)  # the next has begun
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = (folder / "trial_0/trial.json").read_text()
    assert not output.exists()

    out = finished(start(*command, "--export"))
    assert "trial 0:" not in out and "trial 1:" in out and "trial 2:" in out
    assert (folder / "trial_0/trial.json").read_text() == first
    with open(folder / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["completed"] * 3
    assert {path.name for path in folder.iterdir()} >= {"trials.md", "parallel.png", "study.json"}

    run, report = (json.loads((output / f"{x}.json").read_text()) for x in ("run", "report"))
    best = rows[report["best_trial"]]
    assert {key: str(value) for key, value in run["arguments"]["hyperparameters"].items()} == {
        key: best[key] for key in ("units", "weight_decay", "dropout", "learning_rate")
    }
    # the same training again
    assert report["validation_accuracy"] == pytest.approx(float(best["val_accuracy"]))
    assert report["validation_loss"] > float(best["val_loss"])  # with the penalty of the weights
    assert report["best_trial_validation_accuracy"] >= report["default_validation_accuracy"]
    assert report["trials"] == 3 and report["failed_trials"] == 0
    assert checkpoint.load(output).model.output.shape == (None, 10)
    exported = json.loads((output / "model.onnx.json").read_text())
    assert exported["largest_difference"] <= 1e-5

    other = ("--output", tmp_path / "other", "--search", folder)
    error = tune_refused(monkeypatch, capsys, *TINY, *other, "--seed", 5)
    assert "is of another study: seed was 0, received 5" in error
    error = tune_refused(monkeypatch, capsys, *command)
    assert "already holds a run: go on with it (--resume), replace it (--overwrite)" in error
    (folder / "oracle.json").write_text((folder / "oracle.json").read_text()[:100])
    error = tune_refused(monkeypatch, capsys, *TINY, *other)
    assert "cannot begin or go on" in error
    assert not (tmp_path / "other").exists()


@pytest.mark.long
def test_a_chief_two_workers_and_a_death(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    output, folder = tmp_path / "ckpt", tmp_path / "ckpt-search"
    command = (*TINY, "--max-trials", 4, "--silence", 3, "--epochs", 30, "--output", output)
    chief, *workers = (
        start(*command, KERASTUNER_TUNER_ID=name, **place) for name in ("chief", "one", "two")
    )

    def has_begun():
        path = folder / "oracle.json"
        return path.exists() and "one" in json.loads(path.read_text())["ongoing_trials"]

    wait_for(has_begun)
    workers[0].send_signal(signal.SIGKILL)
    workers[0].communicate()
    out = finished(chief)
    assert finished(workers[1]).splitlines()[-1] == "worker: no more trials"
    assert out.count("one was not heard of for") == 1
    with open(folder / "trials.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["completed"] * 4
    assert checkpoint.load(output).run["recipe"] == "tune"


@pytest.mark.long
def test_capsule_regression_is_searched_and_trained_again(tmp_path):
    data_set = ("--model", "capsule_regression", "--synthetic", "--limit", 200, "--epochs", 6)
    finished(start(*data_set, "--max-trials", 2, "--tuner", "bayesian", "--output", tmp_path / "a"))
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert report["validation_accuracy"] == pytest.approx(report["best_trial_validation_accuracy"])
    assert report["trials"] == 2 and (tmp_path / "a/confusion.png").exists()
    assert checkpoint.load(tmp_path / "a").model.output.shape == (None, 10)


def test_refusals(monkeypatch, capsys, tmp_path):
    def error_of(*arguments):
        return tune_refused(monkeypatch, capsys, "--output", tmp_path / "ckpt", *arguments)

    for option, names in (("tuner", ORACLES), ("model", HYPERMODELS), ("data", data.SHAPES)):
        error = error_of(f"--{option}", "none")
        assert all(repr(name) in error for name in names)
    assert "--max-trials: must be positive" in error_of("--max-trials", 0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    assert "holds no search, but notes.txt" in error_of("--search", tmp_path / "full")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/study.json").write_text("{")
    assert "is damaged: study.json" in error_of("--search", tmp_path / "damaged")
    few = ("--model", "capsule_regression", "--synthetic", "--limit", 8)
    assert "none of class" in error_of(*few) and not (tmp_path / "ckpt-search").exists()
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    error = error_of()
    assert "needs KERASTUNER_ORACLE_PORT, KERASTUNER_TUNER_ID in the environment" in error
    assert not (tmp_path / "ckpt").exists()
