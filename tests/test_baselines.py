"""The networks without capsules, and the study that compares them with capsules."""

import csv
import json
import runpy
import sys

import keras
import numpy as np
import pytest
from keras import ops

from export import checkpoint
from export.onnx import export_onnx
from exporting import onnx_outputs
from harness import checkpoints, measurements
from networks import baselines as networks
from pictures_of import data
from programs import RECIPES, refused

DIGITS = ("--data", "digits", "--limit", 300)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def study(monkeypatch):
    """Function that runs the recipe in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["baselines.py", *map(str, arguments)])
        runpy.run_path(str(RECIPES / "baselines.py"), run_name="__main__")

    return run


def trainable(network):
    return sum(np.prod(variable.shape) for variable in network.trainable_variables)


def test_published_numbers_of_parameters():
    network = networks.vgg((32, 32, 3), 10)
    assert trainable(network) == 9_231_114
    assert network.count_params() == 9_231_114 + 5_504  # moving averages
    without = networks.vgg((32, 32, 3), 10, batch_normalization=False)
    assert trainable(without) == without.count_params() == 9_225_610
    mean = np.zeros((32, 32, 3))  # no parameter
    assert networks.mlp((32, 32, 3), 10, [100], mean=mean).count_params() == 308_310
    assert network.output_names == without.output_names == ["logits"]


def test_perceptron_by_hand(rng):
    mean = rng.uniform(0, 255, (4, 5, 2))
    initializer = keras.initializers.RandomNormal(stddev=1e-2)
    network = networks.mlp((4, 5, 2), 3, [7, 7, 7], kernel_initializer=initializer, mean=mean)
    images = rng.integers(256, size=(6, 4, 5, 2)).astype("uint8")
    x = (images - mean).reshape(6, -1)
    kernels = [weight for weight in network.get_weights() if weight.ndim == 2]
    assert not np.any(kernels[1] == kernels[2])  # one initialiser, other values for each layer
    for kernel in kernels[:-1]:
        x = np.maximum(x @ kernel, 0)
    found = network.predict(images, verbose=0)
    np.testing.assert_allclose(found, x @ kernels[-1], rtol=1e-4, atol=1e-6)
    probabilities = networks.with_probabilities(network).predict(images, verbose=0)
    np.testing.assert_allclose(probabilities, ops.softmax(found), rtol=1e-5)


def test_weight_decay_is_that_of_the_gradient(gradient, rng):
    network = networks.mlp((2, 2, 1), 3, [4], weight_decay=0.1)
    for weight, variable in zip(network.get_weights(), network.trainable_variables, strict=True):
        weight = rng.normal(size=weight.shape).astype("float32")
        layer = next(x for x in network.layers if any(v is variable for v in x.weights))
        penalty = layer.kernel_regularizer if weight.ndim == 2 else layer.bias_regularizer
        np.testing.assert_allclose(gradient(penalty, weight), 0.1 * weight, rtol=1e-5)


@pytest.mark.parametrize("size", [8, 5])
def test_pooling_has_one_pixel_of_padding_on_each_side(rng, size):
    network = networks.vgg((size, size, 1), 2)
    pooling = next(x for x in network.layers if isinstance(x, keras.layers.MaxPooling2D))
    padding = next(x for x in network.layers if isinstance(x, keras.layers.ZeroPadding2D))
    image = rng.uniform(size=(1, size, size, 1)).astype("float32")
    found = ops.convert_to_numpy(pooling(padding(image)))[0, :, :, 0]
    assert found.shape == ((size + 1) // 2,) * 2
    for row, column in np.ndindex(found.shape):
        top, left = max(2 * row - 1, 0), max(2 * column - 1, 0)
        window = image[0, top : 2 * row + 2, left : 2 * column + 2]
        assert found[row, column] == window.max()


def test_study(study, tmp_path, capsys, monkeypatch):
    models = ("mlp", "tuned_mlp", "capsule_regression")
    arguments = (*DIGITS, "--seeds", 2, "--output", tmp_path, "--models")
    measured = ("--measurements", tmp_path / "measured.csv")
    study(*arguments, *models, "--steps", 12, *measured)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("best on digits: ") and lines[-4].startswith("| mlp | ")
    cells = read(tmp_path / "cells.csv")
    assert [(row["model"], row["seed"]) for row in cells] == [
        *((model, seed) for model in models[:2] for seed in "01"),
        ("capsule_regression", "0"),  # does not depend on the seed
    ]
    assert cells[2]["test_accuracy"] != cells[3]["test_accuracy"]
    table = {row["model"]: row for row in read(tmp_path / "table.csv")}
    accuracies = [100 * float(row["test_accuracy"]) for row in cells[:2]]
    assert float(table["mlp"]["mean"]) == pytest.approx(np.mean(accuracies))
    assert float(table["mlp"]["deviation"]) == pytest.approx(np.std(accuracies, ddof=1))
    assert table["capsule_regression"]["deviation"] == "" == table["mlp"]["paper"]
    curve = read(tmp_path / "tuned_mlp/curve.csv")
    assert [row["step"] for row in curve] == ["10", "12"]
    assert curve[1]["test_accuracy"] == cells[3]["peak_test_accuracy"]  # one test on the way
    assert float(cells[3]["peak_test_accuracy"]) == pytest.approx(float(cells[3]["test_accuracy"]))
    assert table["mlp"]["peak"] and not table["capsule_regression"]["peak"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*models, "cells.csv", "baselines.json", "baselines.png"} | {
        *("table.csv", "table.md", "measured.csv")
    }
    found = measurements.read(tmp_path / "measured.csv")
    assert not any(map(measurements.faults, found))
    assert [(row["method"], row["seeds"], row["setting"]) for row in found[::3]] == [
        *((model, "2", "12 steps, at most 300 images") for model in models[:2]),
        ("capsule_regression", "1", "12 steps, at most 300 images"),
    ]
    assert float(found[0]["spread"]) == pytest.approx(float(table["mlp"]["deviation"]), rel=1e-3)
    assert found[0]["command"].startswith("python recipes/baselines.py --data digits")

    # finished cells are not run again, and others may join them
    monkeypatch.setattr(keras.Model, "fit", None)
    study(*arguments, *models, "--steps", 12)
    assert read(tmp_path / "cells.csv") == cells
    for more, message in [
        (("mlp", "--steps", 11), "has mlp after 12 steps, not 11"),
        (("mlp", "--steps", 12, "--synthetic"), "study with other arguments"),
        (("mlp", "--steps", 101), "--steps must be a multiple of 100"),
        (("mlp", "best"), "invalid choice: 'best' (choose from"),
        (("mlp", "--seeds", 0), "--seeds: must be positive"),
        (("mlp", "capsnet"), "capsnet cannot be trained on digits: `input_shape` must be"),
        (("mlp", "--output", tmp_path / "mlp"), "holds no baselines"),
        (("mlp", "--output", tmp_path / "cells.csv"), "cannot be used"),
    ]:
        assert message in refused(capsys, lambda more=more: study(*arguments, *more))
    (tmp_path / "cells.csv").write_text("model,seed\nmlp,0\n")
    assert "is damaged" in refused(capsys, lambda: study(*arguments, "mlp"))


@pytest.mark.long
def test_capsule_networks_and_exports(study, tmp_path):
    arguments = ("--data", "mnist", "--synthetic", "--limit", 60, "--steps", 2)
    study(*arguments, "--models", "efficient_capsnet", "cnn", "--output", tmp_path)
    parameters = {row["model"]: int(row["parameters"]) for row in read(tmp_path / "table.csv")}
    assert parameters["efficient_capsnet"] == 161_824
    images, labels = data.load("mnist", limit=60, synthetic=True).test
    for name, output in [("efficient_capsnet", "class_lengths"), ("cnn", "probabilities")]:
        loaded = checkpoint.load(tmp_path / name)
        path = tmp_path / f"{name}.onnx"
        assert export_onnx(loaded.model, path, checkpoint=loaded).largest_difference <= 1e-5
        found = onnx_outputs(path, images.astype("float32"))[output]
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert np.mean(found.argmax(-1) == labels) == pytest.approx(report["test_accuracy"])
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


class Stop(Exception):
    """Interrupts a run, as Ctrl-C does."""


OF_THE_RUN = ("seconds_per_epoch", "command")  # what a cell in another folder has otherwise


@pytest.mark.long
def test_an_interrupted_cell_goes_on(study, tmp_path, monkeypatch, capsys):
    arguments = ("--data", "digits", "--limit", 100, "--models", "tuned_mlp", "--steps", 200)
    arguments = (*arguments, "--output")
    study(*arguments, tmp_path / "whole")
    save = checkpoints.Backup.on_epoch_end
    calls = []

    def save_and_stop(self, epoch, logs=None):
        save(self, epoch, logs)
        calls.append(epoch)
        if len(calls) <= 2:  # in the middle, and before the cell is in cells.csv
            raise Stop

    monkeypatch.setattr(checkpoints.Backup, "on_epoch_end", save_and_stop)
    for _ in range(2):
        with pytest.raises(Stop):
            study(*arguments, tmp_path / "parts")
    for name in ("curve.csv", "backup/state.h5"):
        path = tmp_path / "parts/tuned_mlp" / name
        before = path.read_bytes()
        path.write_text("[]")
        message = refused(capsys, lambda: study(*arguments, tmp_path / "parts"))
        assert "cannot be resumed, it is damaged" in message and "Remove it" in message
        path.write_bytes(before)
    study(*arguments, tmp_path / "parts")
    assert calls == [0, 1]
    whole, parts = (
        [row | dict.fromkeys(OF_THE_RUN, "") for row in read(tmp_path / name / "cells.csv")]
        for name in ("whole", "parts")
    )
    assert whole == parts and len(whole) == 1
    whole, parts = (
        [row | {"seconds": ""} for row in read(tmp_path / name / "tuned_mlp/curve.csv")]
        for name in ("whole", "parts")
    )
    assert whole == parts and len(whole) == 20
