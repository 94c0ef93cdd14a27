"""The recipe that reproduces tables: its tasks, its cells, its measures."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import programs
from export import checkpoint
from harness import checkpoints, measurements
from kcaps.routing import ROUTINGS
from pictures_of import data, overlaps, robustness
from reproduction import attacks, deep_methods, measures, methods, tables, tasks
from reproduction.coefficients import VARIANTS
from reproduction.deep_methods import DESIGNS
from reproduction.settings import Settings

BACKEND = keras.backend.backend()


@pytest.fixture
def small(monkeypatch):
    """Networks of a few units."""
    sizes = {"filters": 4, "num_primary_capsules": 2, "decoder_units": (4,)}
    monkeypatch.setitem(methods.CAPSNETS, "cpu", sizes)
    monkeypatch.setitem(methods.CNNS, "cpu", {"filters": (2, 2, 2), "units": (4, 4)})


def reproduce(folder, *arguments):
    arguments = (*arguments, "--output", folder, "--synthetic", "--limit", 80)
    return programs.recipe_here("reproduce", *arguments)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def settings_of(table, folder, **options):
    return Settings(
        recipe="reproduce", table=table, output=folder, synthetic=True, limit=80, **options
    )


def test_every_cell_of_every_table_can_be_built(small, tmp_path):
    """Networks that take the inputs of their task, and have the routing of their method."""
    cells = [cell for table in tables.TABLES.values() for cell in table.cells(1)]
    shapes = dict.fromkeys(("cifar10", "varied_cifar10"), (32, 32, 3))
    shapes |= {"multi_mnist": (36, 36, 1), "placed_mnist": (40, 40, 1)}
    asked = settings_of("table2", tmp_path)
    known = {name: tasks.load(name, asked) for name in {cell.task for cell in cells}}
    # Networks of one method on images of one shape are the same: one cell of them is enough.
    for cell in {(cell.method, known[cell.task].input_shape): cell for cell in cells}.values():
        task = known[cell.task]
        assert task.input_shape == shapes.get(cell.task, (28, 28, 1))
        plan, metrics = cell.plan("cpu"), [task.make_metric()]
        network = methods.compiled(cell.method, cell.task, "cpu", task, 100, metrics)
        assert network.input_shape[1:] == task.input_shape and network.output_shape == (None, 10)
        if cell.method.startswith("deep_"):
            head = network.layers[-1].name
            assert head == ("logits" if cell.method.endswith("dense") else "class_lengths")
            continue
        assert float(network.optimizer.learning_rate) == pytest.approx(plan.rate)
        routing = cell.method.removesuffix("_fc")
        if routing in VARIANTS:
            assert network.class_layer.routing.penalty == VARIANTS[routing].penalty
            assert len(network.routing_variables) == 1
            continue
        if routing not in ROUTINGS:
            assert routing == network.name.removeprefix("sabour_")
            continue
        assert type(network.class_layer.routing) is type(ROUTINGS[routing]())
        assert (network.decoder is None) == cell.method.endswith("_fc")
        assert len(network.routing_variables) == (routing in ("l1", "l2"))
    for table in tables.TABLES.values():
        assert set(table.published) <= {(c.task, c.method) for c in table.cells(1)}


def test_coefficients_by_rate_and_penalty(small, tmp_path):
    """Each has its γ and λ; the table tells how far coefficients went, by what is saved."""
    sphere, printed = "l1_sphere_0.1_0.01_fc", "l2_0.0005_5_fc"
    for method, rate, weight in ((sphere, 0.1, 0.01), (printed, 5e-4, 5.0)):
        assert methods.training_of(method, "fashion_mnist", "cpu").routing_rate == rate
        network = methods.build(method, "fashion_mnist", "cpu", (28, 28, 1), 10)
        assert network.class_layer.routing.penalty_weight == weight
    chosen = ("--methods", "uniform_fc", printed, sphere, "--epochs", 1, "--seeds", 1)
    measured = ("--measurements", tmp_path / "measured.csv")
    result = reproduce(tmp_path, "coefficients", *chosen, *measured)
    assert result.returncode == 0, result.stderr
    table = {row["method"]: row for row in rows(tmp_path / "coefficients.csv")}
    assert table["uniform_fc"]["change"] == table["uniform_fc"]["zeros"] == ""
    for method, start in ((printed, 0.1), (sphere, 72**-0.5)):
        model = checkpoint.load(tmp_path / "fashion_mnist" / f"{method}-0").model
        found = ops.convert_to_numpy(model.class_layer.routing.coefficients)
        change = np.linalg.norm(found - start) / np.linalg.norm(np.full(found.shape, start))
        assert float(table[method]["change"]) == pytest.approx(change, rel=1e-5) and change > 0
        assert float(table[method]["negative"]) == pytest.approx(100 * np.mean(found < 0))
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, rtol=1e-5)
    found = measurements.read(tmp_path / "measured.csv")
    assert {row["quantity"] for row in found} >= {"change", "zeros", "negative"}


def test_designs_of_the_deep_network():
    """Each changes what its name says, and nothing else."""
    known = {name: deep_methods.plan_of(f"deep_{name}", "cpu").values for name in DESIGNS}
    standard = deep_methods.plan_of("deep_uniform", "cpu").values
    assert (standard.epochs, standard.widths) == (6, (64, 256, 256))
    four = known["margin_4_times"]
    assert four.loss == "margin" and four.learning_rate == 4 * standard.learning_rate
    assert four.learning_rate * four.weight_decay == pytest.approx(
        standard.learning_rate * standard.weight_decay
    )
    assert known["averaged"] == dataclasses.replace(standard, average_weights=0.99)
    assert known["positions"] == standard

    def network(name):
        return deep_methods.build(f"deep_{name}", "cpu", (32, 32, 3), 10)

    inputs = {"16_types": (17, 8), "16_components": (17, 16), "64_types": (65, 8)}
    inputs |= {"unbiased": (32, 8), "positions": (289, 8), "positions_unbiased": (288, 8)}
    for name, shape in inputs.items():
        assert network(name).class_inputs.shape[1:] == shape
    assert network("8_of_a_class").get_layer("digit_caps").output.shape == (None, 10, 8)
    kinds = [type(layer).__name__ for layer in network("two_layers").layers]
    assert kinds.count("ConvCaps2D") == 1 and "QuickGELU" in kinds
    assert "QuickGELU" not in [type(layer).__name__ for layer in network("relu").layers]


def test_the_papers_training():
    """Under the budget for GPUs: epochs, batch size, rate and its decay."""
    for cell, expected in {
        ("l2", "fashion_mnist"): (50, 128, 1e-3, 0.96, 1000),
        ("l2_fc", "mnist"): (10, 32, 1e-3, 0.5, 1000),
        ("dynamic_fc", "cifar10"): (50, 32, 3e-4, 0.96, 1000),
        ("l1", "multi_mnist"): (475, 128, 1e-3, 0.96, 20_000),
        ("efficient_capsnet", "moved_fashion_mnist"): (150, 16, 5e-4, 0.97, 3375),
    }.items():
        plan = methods.training_of(*cell, "gpu")
        assert dataclasses.astuple(plan)[:5] == expected
        assert (plan.routing_rate > 0) == (cell[0][:2] in ("l1", "l2"))


def test_reference_networks():
    """The sizes of the papers, at the budget for GPUs."""
    network = methods.build("l2", "mnist", "gpu", (28, 28, 1), 10)
    assert network.count_params() == 8_215_568 + 11_520  # with the decoder
    network = methods.build("l1_fc", "cifar10", "gpu", (32, 32, 3), 10, {"penalty_weight": 0.5})
    routing = network.class_layer.routing
    assert (routing.penalty, routing.penalty_weight) == ("l1", 0.5)
    assert network.decoder is None and network.class_layer.input.shape[1:] == (64 * 8 * 8, 8)


def test_schedules(small):
    halved = methods.training_of("l1_fc", "mnist", "gpu").schedule(1e-3, 5000)
    np.testing.assert_allclose([halved(step) for step in (0, 1000, 2000)], [1e-3, 5e-4, 2.5e-4])
    network = methods.build("l1", "mnist", "cpu", (28, 28, 1), 10)
    methods.training_of("l1", "mnist", "cpu").compile(network, 50, update="joint")
    assert network.update == "joint"
    for optimizer, rate in [
        (network.optimizer, methods.RATES["l1"]),
        (network.routing_optimizer, methods.ROUTING_RATES["l1"]),
    ]:
        found = [optimizer._learning_rate(step) for step in (0, 25, 50)]
        np.testing.assert_allclose(found, [rate, rate / 2, 0], rtol=1e-6, atol=1e-12)


def test_clothes_are_mirrored_and_shifted(rng):
    image = rng.integers(1, 255, size=(6, 5, 1)).astype("float32")
    batch, change = np.repeat(image[None], 200, axis=0), tasks.MIRRORED_AND_SHIFTED
    found = change.apply(batch, *change.draw(np.random.default_rng(1), 200))
    padded = [np.pad(x, [(2, 2), (2, 2), (0, 0)]) for x in (image, image[:, ::-1])]
    possible = [
        x[row : row + 6, column : column + 5]
        for x in padded
        for row in range(5)
        for column in range(5)
    ]
    matches = [[np.array_equal(x, y) for y in possible] for x in found]
    assert np.all(np.sum(matches, 1) == 1)  # each is one of the 50
    assert np.sum(matches, 0).astype(bool).sum() > 40  # 49 expected
    again = change.apply(batch, *change.draw(np.random.default_rng(1), 200))
    np.testing.assert_array_equal(found, again)
    change = tasks.SHIFTED
    found = change.apply(batch, *change.draw(np.random.default_rng(1), 200))
    matches = np.sum([[np.array_equal(x, y) for y in possible] for x in found], 0)
    assert matches[:25].all() and not matches[25:].any()  # digits are not mirrored


def test_table(small, tmp_path, monkeypatch):
    arguments = ("table2", "--tasks", "mnist", "--methods", "l2", "l2_fc", "--epochs", 1)
    measured = ("--measurements", tmp_path / "measured.csv")
    result = reproduce(tmp_path, *arguments, "--seeds", 2, *measured)
    assert result.returncode == 0, result.stderr
    cells = rows(tmp_path / "cells.csv")
    assert [(row["method"], row["seed"]) for row in cells] == [
        (method, seed) for method in ("l2", "l2_fc") for seed in "01"
    ]
    for row in cells:
        command = row["command"].removeprefix(f"KERAS_BACKEND={BACKEND} ")
        assert command.startswith("python recipes/reproduce.py table2 ")
        assert (command == row["command"]) == (BACKEND == "tensorflow")
        assert row["commit"] and row["machine"] and len(row["date"]) == 10
        report = json.loads(
            (tmp_path / "mnist" / f"{row['method']}-{row['seed']}" / "report.json").read_text()
        )
        assert float(row["test_error"]) == pytest.approx(100 * (1 - report["test_accuracy"]))
    table = rows(tmp_path / "table2.csv")
    errors = [float(row["test_error"]) for row in cells[:2]]
    assert float(table[0]["test_error"]) == pytest.approx(np.mean(errors))
    assert float(table[0]["test_error_deviation"]) == pytest.approx(np.std(errors, ddof=1))
    assert table[0]["published"] == table[0]["best_known"] == ""  # which synthetic images have not
    assert f"{np.mean(errors):.2f} ± " in (tmp_path / "table2.md").read_text()
    assert (tmp_path / "table2.png").exists()
    found = measurements.read(tmp_path / "measured.csv")
    assert not any(map(measurements.faults, found))
    assert {row["setting"] for row in found} == {
        "cpu, 1 epochs, at most 80 images, synthetic images"
    }
    assert [(row["item"], row["data"], row["seeds"]) for row in found] == 8 * [
        ("table2", "mnist", "2")
    ]
    assert [row["quantity"] for row in found[:4]] == [
        *("test error", "validation error", "parameters", "minutes")
    ]
    assert float(found[0]["value"]) == pytest.approx(np.mean(errors), rel=1e-3)
    assert float(found[0]["spread"]) == pytest.approx(np.std(errors, ddof=1), rel=1e-3)
    assert found[0]["command"] == cells[0]["command"] and found[0]["paper_value"] == ""

    # An engineer can take any cell from here.
    loaded = checkpoint.load(tmp_path / "mnist/l2-0")
    if BACKEND == "tensorflow":
        from export.onnx import export_onnx

        report = export_onnx(loaded.model, tmp_path / "model.onnx", checkpoint=loaded)
        assert report.largest_difference <= 1e-5

    # Finished cells are not run again, and other tables have them too.
    monkeypatch.setattr(keras.Model, "fit", None)
    assert reproduce(tmp_path, *arguments, "--seeds", 2).returncode == 0
    assert rows(tmp_path / "cells.csv") == cells
    result = reproduce(
        tmp_path, "figure3", "--methods", "l2", *arguments[1:3], "--epochs", 1, "--seeds", 1
    )
    assert result.returncode == 0 and (tmp_path / "figure3.png").exists()
    assert [row["test_error"] for row in rows(tmp_path / "figure3.csv")] == [cells[0]["test_error"]]

    for more, message in [
        (("table3",), "invalid choice: 'table3' (choose from"),
        (("table2", "--methods", "l3"), "--methods of table2 must be of ['dynamic', 'l2',"),
        (("figure2", "--tasks", "mnist"), "--tasks of figure2 must be of ['fashion_mnist'], rec"),
        (("table2", "--budget", "gpu"), "is of a study with other arguments"),
        (("table2", "--epochs", 2), "is of a study with other arguments"),
    ]:
        result = reproduce(tmp_path, *more)
        assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
        assert message in result.stderr


@pytest.mark.long
def test_a_cell_that_diverges_stops_no_other(small, tmp_path, monkeypatch):
    monkeypatch.setitem(methods.RATES, "dynamic", 1e30)
    arguments = ("table2", "--tasks", "mnist", "--methods", "dynamic", "l2", "--epochs", 1)
    for _ in range(2):  # again, where the folder of the first try is there
        result = reproduce(tmp_path, *arguments, "--seeds", 1)
        assert result.returncode == 1
        assert "training diverged: the loss is not finite" in result.stderr
        last = result.stderr.splitlines()[-1]
        assert last == "error: no table2 without mnist, dynamic, seed 0: training diverged"
        assert [row["method"] for row in rows(tmp_path / "cells.csv")] == ["l2"]
        assert not (tmp_path / "table2.md").exists()


def test_provenance_is_of_the_start(small, tmp_path, monkeypatch):
    """A commit made while a cell trains has not trained it."""
    fit = keras.Model.fit

    def fit_and_commit(*arguments, **options):
        history = fit(*arguments, **options)
        monkeypatch.setattr("harness.provenance.commit", lambda: "later")
        return history

    monkeypatch.setattr("harness.provenance.commit", lambda: "before")
    monkeypatch.setattr(keras.Model, "fit", fit_and_commit)
    arguments = ("table2", "--tasks", "mnist", "--methods", "l2", "--epochs", 1, "--seeds", 1)
    assert reproduce(tmp_path, *arguments).returncode == 0
    assert rows(tmp_path / "cells.csv")[0]["commit"] == "before"
    # Another rate is another training, whatever has been done of the first.
    run = json.loads((tmp_path / "mnist/l2-0/run.json").read_text())["arguments"]
    assert run["training"]["rate"] == methods.RATES["l2"] and run["backend"] == BACKEND
    assert run["update"] == "alternating"
    result = reproduce(tmp_path, *arguments, "--update", "joint")
    assert result.returncode == 2 and "is of a study with other arguments" in result.stderr


@pytest.mark.long
@pytest.mark.tensorflow
def test_on_jax(tmp_path):
    """The table with the most kinds of measures, and figure 4, where pictures come as arrays."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(programs.ROOT)}
    affine = ("affine", "--methods", "cnn", "l2", "--seeds", "1")
    for arguments in (affine, ("figure4", "--methods", "l2_fc")):
        command = [sys.executable, programs.ROOT / "recipes/reproduce.py", *arguments]
        command += ["--output", tmp_path, "--synthetic", "--limit", "80", "--epochs", "1"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
    table = rows(tmp_path / "affine.csv")
    assert [row["method"] for row in table] == ["cnn", "l2"]
    for row in table:
        assert row["command"].startswith("KERAS_BACKEND=jax python recipes/reproduce.py affine")
        assert float(row["bim"]) >= float(row["test_error"])
    assert float(rows(tmp_path / "figure4.csv")[0]["seconds_per_100_steps"]) > 0


@pytest.mark.long
def test_tables_without_routing_coefficients_share_any_folder(small, tmp_path):
    """Their cells are the same under either update, and go on with that of the folder."""
    arguments = ("table2", "--tasks", "mnist", "--epochs", 1, "--seeds", 1, "--methods")
    assert reproduce(tmp_path, *arguments, "l2", "--update", "joint").returncode == 0
    result = reproduce(tmp_path, *arguments, "dynamic")
    assert result.returncode == 0, result.stderr
    assert "joint updates" not in result.stdout
    run = json.loads((tmp_path / "mnist/dynamic-0/run.json").read_text())
    assert run["arguments"]["update"] == "joint"
    result = reproduce(tmp_path, *arguments, "dynamic", "l1")
    assert result.returncode == 2 and "is of a study with other arguments" in result.stderr
    (tmp_path / "reproduction.json").write_text("{")
    result = reproduce(tmp_path, *arguments, "dynamic")
    assert result.returncode == 2 and "cannot be used" in result.stderr


@pytest.mark.parametrize("is_there", [False, True])
def test_a_failure_before_any_cell_leaves_no_folder(tmp_path, is_there):
    """Such as of data that are not there, after which other arguments are given."""
    folder = tmp_path / "a" / "b"
    if is_there:
        folder.mkdir(parents=True)
    (tmp_path / "file").write_text("")
    options = ("--data-dir", tmp_path / "file", "--output", folder)
    on_tensorflow = [("loss_study", "--study", "mnist")] if BACKEND == "tensorflow" else []
    for program in [("reproduce", "table2"), *on_tensorflow]:
        result = programs.recipe_here(*program, *options)
        assert result.returncode == 2 and "must be a folder" in result.stderr
        assert folder.exists() == folder.parent.exists() == is_there
        assert not is_there or not list(folder.iterdir())


class Stop(Exception):
    """Interrupts a run, as Ctrl-C does."""


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Exception ignored in")  # of the file that stays open
def test_an_interrupted_cell_goes_on(small, tmp_path, monkeypatch):
    arguments = ("multi_mnist", "--methods", "l1", "--seeds", 1, "--epochs", 2)
    assert reproduce(tmp_path / "whole", *arguments).returncode == 0
    save = checkpoints.Backup.on_epoch_end
    calls = []

    def save_and_stop(self, epoch, logs=None):
        save(self, epoch, logs)
        calls.append(epoch)
        if epoch == 0:
            raise Stop

    monkeypatch.setattr(checkpoints.Backup, "on_epoch_end", save_and_stop)
    with pytest.raises(Stop):
        reproduce(tmp_path / "parts", *arguments)
    assert not (tmp_path / "parts/cells.csv").exists()
    assert reproduce(tmp_path / "parts", *arguments).returncode == 0
    assert (tmp_path / "parts/multi_mnist/l1-0/reconstructions.png").exists()
    assert calls == [0, 1]
    whole, parts = (
        checkpoint.load(tmp_path / name / "multi_mnist/l1-0").model.get_weights()
        for name in ("whole", "parts")
    )
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.long
def test_rebuilt_images(small, tmp_path, monkeypatch):
    """The decoder of a network with one, and two for a network without."""
    result = reproduce(tmp_path, "figure2", "--seeds", 1, "--epochs", 1)
    assert result.returncode == 0, result.stderr
    found = {row["method"]: row for row in rows(tmp_path / "figure2.csv")}
    folders = {name: tmp_path / f"fashion_mnist/{name}-0" for name in found}
    networks = {name: checkpoint.load(folder).model for name, folder in folders.items()}
    decoders = {
        "own": networks["dynamic"].decoder,
        "of_dynamic": networks["dynamic"].decoder,
        "trained_after": keras.saving.load_model(folders["l2_fc"] / "decoder.keras"),
    }
    x = data.load("fashion_mnist", limit=80, synthetic=True).test[0]
    for method, names in {"dynamic": ["own"], "l2_fc": ["of_dynamic", "trained_after"]}.items():
        network = networks[method]
        poses = keras.Model(network.input, network.class_layer.output).predict(x, verbose=0)
        longest = np.linalg.norm(poses, axis=-1).argmax(-1)
        poses[np.arange(10) != longest[:, None]] = 0
        for name, decoder in decoders.items():
            if name in names:
                error = np.mean((decoder.predict(poses, verbose=0) / 255 - x / 255) ** 2)
                assert float(found[method][name]) == pytest.approx(error, rel=1e-4)
            else:
                assert found[method][name] == ""

    # The picture can be made again, and of L2 routing alone; that needs dynamic routing, too.
    alone = ("figure2", "--methods", "l2_fc", "--seeds", 1, "--epochs", 1)
    (tmp_path / "figure2.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", None)
        result = reproduce(tmp_path, *alone)
    assert result.returncode == 0 and (tmp_path / "figure2.png").exists(), result.stderr
    assert reproduce(tmp_path / "alone", *alone).returncode == 0
    (row,) = rows(tmp_path / "alone/figure2.csv")
    assert row["method"] == "l2_fc" and float(row["of_dynamic"]) > 0
    assert {row["method"] for row in rows(tmp_path / "alone/cells.csv")} == {"dynamic", "l2_fc"}


@pytest.mark.long
def test_measures(small, tmp_path):
    result = reproduce(tmp_path, "affine", "--methods", "cnn", "l2", "--seeds", 1, "--epochs", 1)
    assert result.returncode == 0, result.stderr
    table = rows(tmp_path / "affine.csv")
    assert [row["method"] for row in table] == ["cnn", "l2"]
    task = tasks.load("placed_mnist", settings_of("affine", tmp_path))
    x, labels = task.test
    digits, seed = task.images.test[0], overlaps.HELD_OUT_SEED
    for row in table:
        model = keras.saving.load_model(tmp_path / f"placed_mnist/{row['method']}-0/model.keras")
        scores = model
        if row["method"] == "cnn":
            scores = keras.Model(model.input, model.get_layer("logits").output)
        for name, changed in {
            "test_error": x,
            "affine": robustness.affine(digits, seed),
            "noise": robustness.noisy(x, 0.2, seed),
            "fgsm": attacks.white_box(scores, x, labels, 0.1, 1, attacks.lead),
            "bim": attacks.white_box(scores, x, labels, 0.1, 10, attacks.lead),
        }.items():
            wrong = model.predict(changed, verbose=0).argmax(-1) != labels
            assert float(row[name]) == pytest.approx(100 * np.mean(wrong), abs=1e-3), name
        assert float(row["bim"]) >= float(row["test_error"])  # an attack does not help


def test_times_of_steps(small, tmp_path, monkeypatch):
    """By a clock that a step moves on by a second for each million of parameters."""
    clock = [0.0]

    def step(model, x, y):
        clock[0] += model.count_params() / 1e6

    monkeypatch.setattr(keras.Model, "train_on_batch", step)
    monkeypatch.setattr(measures.time, "perf_counter", lambda: clock[0])
    names = ("dynamic", "dynamic_fc", "l2_fc")
    result = reproduce(
        tmp_path / "joint", "figure4", "--methods", "l2_fc", "--epochs", 1, "--update", "joint"
    )
    assert result.returncode == 0 and "1 epochs, joint updates, at most" in result.stdout
    result = reproduce(tmp_path / "all", "figure4", "--methods", *names, "--epochs", 1)
    assert result.returncode == 0, result.stderr
    table = rows(tmp_path / "all/figure4.csv")
    assert [row["to"] for row in table] == ["dynamic", "dynamic_fc", "dynamic_fc"]
    sizes = [methods.build(x, "mnist", "cpu", (28, 28, 1), 10).count_params() for x in names]
    assert len(set(sizes)) == 3
    for row, size, other in zip(table, sizes, (sizes[0], sizes[1], sizes[1]), strict=True):
        assert float(row["seconds_per_100_steps"]) == pytest.approx(100 * size / 1e6)
        assert float(row["ratio"]) == pytest.approx(size / other)


@pytest.mark.parametrize("goal, reached", [(0.0, True), (1.1, False)])
def test_time_to_goal(small, tmp_path, monkeypatch, goal, reached):
    monkeypatch.setitem(measures.GOALS, "time_to_99", goal)
    arguments = ("time_to_99", "--methods", "l2", "--seeds", 1, "--epochs", 1)
    result = reproduce(tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    (row,) = rows(tmp_path / "time_to_99.csv")
    assert bool(row["seconds"]) == reached and row["steps"] == "1"
