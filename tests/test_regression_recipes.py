"""The recipes of capsule regression, and the export of what they leave."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from export import checkpoint
from export.onnx import export_onnx
from export.saved_model import export_saved_model
from exporting import onnx_outputs
from pictures_of import data
from pictures_of.distortions import distorted
from programs import RECIPES, rows, take
from programs import recipe_here as recipe
from regression import training

pytestmark = pytest.mark.tensorflow
QUICK = ("--data", "digits", "--limit", 400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of all-versus-all capsule regression. Read it only."""
    folder = tmp_path_factory.mktemp("regression") / "ckpt"
    arguments = ("--architecture", "all_vs_all", "--capsule-dim", 2, "--epochs", 12)
    result = recipe("capsule_regression", *QUICK, *arguments, "--output", folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("test accuracy")
    return folder


def test_checkpoint_folder(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("model.keras", "run.json", "history.csv", "report.json", "backup"),
        *("curves.png", "confusion.png"),
    }
    report = json.loads((folder / "report.json").read_text())
    assert report["test_accuracy"] > 0.85 and report["epochs"] == 12
    assert report["parameters"] == 45 * 2 * 32 * 2
    assert len(rows(folder / "history.csv")) == 12
    run = json.loads((folder / "run.json").read_text())
    assert run["arguments"]["architecture"] == "all_vs_all" and len(run["labels"]) == 10


def test_export_of_the_whole_model(folder, tmp_path):
    loaded = checkpoint.load(folder)
    report = export_onnx(loaded.model, tmp_path / "model.onnx", checkpoint=loaded)
    assert report.largest_difference <= 1e-5
    expected = json.loads((folder / "report.json").read_text())["test_accuracy"]
    assert report.comparison.accuracy_after == pytest.approx(expected, abs=1e-6)
    images = np.random.default_rng(0).integers(256, size=(3, 8, 8, 1)).astype("float32")
    (name, probabilities), *others = onnx_outputs(tmp_path / "model.onnx", images).items()
    assert name == "probabilities" and not others
    np.testing.assert_allclose(probabilities, loaded.model.predict(images, verbose=0), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    report = export_saved_model(loaded.model, tmp_path / "saved_model", checkpoint=loaded)
    assert report.largest_difference <= 1e-6


@pytest.mark.parametrize("architecture", ["multiclass", "one_vs_all"])
def test_export_of_other_architectures(tmp_path, architecture):
    from kcaps.regression import CapsuleRegression

    x = np.random.default_rng(0).normal(size=(90, 5)).astype("float32")
    model = CapsuleRegression(3, (1, 3, 2), architecture)
    model.compile(run_eagerly=True)
    model.fit(x, np.arange(90) % 3, epochs=2, verbose=0)
    assert export_onnx(model, tmp_path / "m.onnx").largest_difference <= 1e-5
    whole = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5), model])
    assert export_onnx(whole, tmp_path / "whole.onnx").largest_difference <= 1e-5


def test_export_with_a_convolutional_encoder(tmp_path):
    from kcaps.regression import CapsuleRegression

    layers = keras.layers
    encoder = keras.Sequential(
        [
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
        ]
    )
    images = np.random.default_rng(0).integers(256, size=(90, 12, 13, 1)).astype("float32")
    model = CapsuleRegression(3, 2, encoder=encoder)
    model.compile(run_eagerly=True)
    model.fit(images, np.arange(90) % 3, epochs=2, verbose=0)
    export_onnx(model, tmp_path / "m.onnx")
    outputs = onnx_outputs(tmp_path / "m.onnx", images[:13])
    expected = model.predict(images[:13], verbose=0)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)


def test_a_model_without_a_shape_has_no_graph():
    from kcaps.regression import CapsuleRegression

    with pytest.raises(ValueError, match="no graph yet.* Call `adapt`, `fit` or `build` first"):
        export_onnx(CapsuleRegression(3, 2), "nowhere.onnx")


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    arguments = (*QUICK, "--capsule-dim", 2, "--output")
    for epochs, name in [(9, "whole"), (4, "parts"), (9, "parts")]:
        resume = ["--resume"] * (name == "parts")
        result = recipe(
            "capsule_regression", *arguments, tmp_path / name, "--epochs", epochs, *resume
        )
        assert result.returncode == 0, result.stderr
    whole, parts = (rows(tmp_path / name / "history.csv") for name in ("whole", "parts"))
    assert len(parts) == 9
    assert whole == parts
    states = [np.load(tmp_path / name / "backup/schedule.npz") for name in ("whole", "parts")]
    for name in states[0].files:
        np.testing.assert_array_equal(states[0][name], states[1][name])
    for name in ("latent.png", "prototypes.png"):
        assert (tmp_path / "parts" / name).exists()
    (tmp_path / "parts/history.csv").unlink()
    (tmp_path / "whole/backup/schedule.npz").write_text("no archive")
    for name in ("parts", "whole"):
        result = recipe("capsule_regression", *arguments, tmp_path / name, "--resume")
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert "its run is damaged" in result.stderr
    assert not (tmp_path / "parts/history.csv").exists()


@pytest.mark.parametrize("name", ["capsule_regression", "distorted_mnist"])
def test_ctrl_c_leaves_a_model_and_says_how_to_go_on(monkeypatch, tmp_path, name):
    begin = keras.callbacks.CallbackList.on_epoch_begin

    def interrupted(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt
        begin(self, epoch, logs)

    monkeypatch.setattr(keras.callbacks.CallbackList, "on_epoch_begin", interrupted)
    arguments = ("--synthetic", "--limit", 600, "--capsule-dim", 2, "--output", tmp_path)
    arguments += ("--components", 30, "--chunk", 400) if name == "distorted_mnist" else ()
    result = recipe(name, *arguments)
    assert result.returncode == 130 and result.stderr.count("\n") == 1
    assert "interrupted" in result.stderr and "--resume goes on" in result.stderr
    assert keras.saving.load_model(tmp_path / "model.keras").outputs[0].shape == (None, 10)


@pytest.mark.long
def test_sweep(tmp_path):
    arguments = ("--sweep", "--dims", 1, "--epochs", 2, "--output", tmp_path)
    result = recipe("capsule_regression", *QUICK, *arguments)
    assert result.returncode == 0, result.stderr
    cells = rows(tmp_path / "sweep.csv")
    assert [row["architecture"] for row in cells] == ["multiclass", "one_vs_all", "all_vs_all"]
    assert (tmp_path / "error_by_dimension.png").exists()
    report = json.loads((tmp_path / "report.json").read_text())
    best = min(float(row["validation_error"]) for row in cells)
    assert report["validation_accuracy"] == pytest.approx(1 - best)
    (tmp_path / "sweep.csv").write_text(
        (tmp_path / "sweep.csv").read_text().replace("one_vs_all", "lost")
    )
    result = recipe("capsule_regression", *QUICK, *arguments, "--resume")
    assert result.returncode == 0 and result.stdout.count("capsules of 1 components") == 1


def test_too_few_images_and_bad_arguments(tmp_path):
    for arguments, message in [
        (("--limit", 8), "none of class"),
        (("--momentum", "-1"), "argument --momentum: must be >= 0"),
        (("--momentum", "1"), "`momentum` must be below 1"),
        (("--data", "cifar10"), "invalid choice: 'cifar10'"),
        (("--components", "65"), "--components must be at most 64, received 65"),
    ]:
        result = recipe("capsule_regression", "--output", tmp_path / "ckpt", *arguments)
        assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
        assert message in result.stderr


def test_the_published_order():
    """Places of the first published MNIST images, whose labels there are 5, 0, 4, 1 and 9."""
    import tensorflow as tf

    from pictures_of import sources

    places = tf.range(60_000)
    images, labels = sources._in_published_order("train", {"image": places, "label": -places})
    assert images[:5].tolist() == [34_387, 44_061, 55_295, 41_320, 25_019]
    np.testing.assert_array_equal(np.sort(images), np.arange(60_000))
    np.testing.assert_array_equal(labels, -images)
    numbered = {"image": places[:3], "label": places[:3], "id": tf.constant(["b", "c", "a"])}
    images, labels = sources._in_published_order("train", numbered)
    assert images.tolist() == labels.tolist() == [2, 0, 1]


def test_distorted_digits():
    images = np.zeros((30, 28, 28, 1), "uint8")
    images[:, 8:20, 8:20] = 255
    labels = np.arange(30) % 10
    stream = distorted(images, labels, seed=5, batch_size=20)
    batches = take(stream, 9)
    for (x, y), (again, same) in zip(batches, take(stream, 9), strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, same)
        assert x.shape == (20, 28, 28, 1) and x.dtype == np.float32
        assert x.min() >= 0 and x.max() <= 255
        # the square stays about as large and where it was
        mass = x.sum((1, 2, 3)) / 255
        assert np.all((mass > 60) & (mass < 300))
    all_x = np.concatenate([x for x, _ in batches])
    assert len(np.unique(all_x.reshape(180, -1), axis=0)) == 180  # no two alike
    passes = np.concatenate([y for _, y in batches]).reshape(6, 30)
    for labels_of_pass in passes:  # each pass has every image once
        np.testing.assert_array_equal(np.bincount(labels_of_pass), np.full(10, 3))
    other, _ = distorted(images, labels, 6, 20)(0)
    assert np.any(other != batches[0][0])
    assert np.abs(batches[0][0] - images[0]).mean() > 15
    for strength, least, most in [(0.0, 0, 0), (0.1, 1, 4)]:
        x, y = distorted(images, labels, 5, 20, strength=strength)(0)
        assert least <= np.abs(x - images[0]).mean() <= most and (y == batches[0][1]).all()


def test_distorted_images_join_the_training_images(tmp_path):
    images = data.load("mnist", limit=150, synthetic=True)
    found = training.with_distorted(images, 250, seed=3)
    x, y = images.train
    assert len(found.train[0]) == len(found.train[1]) == len(x) + 250
    np.testing.assert_array_equal(found.train[0][: len(x)], x)
    assert found.test is images.test and found.train[0].dtype == np.uint8
    more, classes = found.train[0][len(x) :], found.train[1][len(x) :]
    # Each pass has every image once.
    np.testing.assert_array_equal(np.sort(classes[: len(x)]), np.sort(y))
    stream = take(distorted(x, y, 3, len(x)), 2)
    np.testing.assert_array_equal(classes, np.concatenate([y for _, y in stream])[:250])
    np.testing.assert_allclose(more, np.concatenate([x for x, _ in stream])[:250], atol=0.51)

    few = ("--data", "mnist", "--synthetic", "--limit", 400, "--components", 20)
    arguments = (*few, "--epochs", 2, "--distorted", 50, "--output")
    first = recipe("capsule_regression", *arguments, tmp_path / "a")
    assert first.returncode == 0, first.stderr
    assert " training images" in first.stdout
    other = recipe("capsule_regression", *arguments, tmp_path / "b", "--seed", 1)
    assert other.returncode == 0, other.stderr
    losses = [(tmp_path / name / "history.csv").read_text() for name in "ab"]
    assert losses[0] != losses[1]
    for more in (("--seed", 1), ("--distorted", 50)):
        result = recipe("capsule_regression", *QUICK, *more)
        assert result.returncode == 2 and f"{more[0]} must be left out" in result.stderr


@pytest.mark.long
def test_training_on_distorted_digits(tmp_path):
    arguments = (
        *("--synthetic", "--limit", 600, "--capsule-dim", 2, "--components", 30),
        *("--chunk", 400, "--examples", 1200, "--epochs", 2, "--output", tmp_path),
    )
    result = recipe("distorted_mnist", *arguments)
    assert result.returncode == 0, result.stderr
    history = rows(tmp_path / "history.csv")
    assert [row["examples"] for row in history] == ["400", "800", "1200"]
    assert (tmp_path / "distorted.png").exists()
    assert checkpoint.load(tmp_path).model.outputs[0].shape == (None, 10)
    # a finished run that is resumed has nothing to train
    result = recipe("distorted_mnist", *arguments, "--resume")
    assert result.returncode == 0 and rows(tmp_path / "history.csv") == history


@pytest.mark.long
def test_a_killed_run_on_distorted_digits_goes_on(tmp_path):
    arguments = (
        *("--synthetic", "--limit", 600, "--capsule-dim", 2, "--components", 30),
        *("--chunk", 400, "--examples", 2000, "--epochs", 2, "--output"),
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert recipe("distorted_mnist", *arguments, whole).returncode == 0
    command = [sys.executable, str(RECIPES / "distorted_mnist.py"), *map(str, arguments), parts]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for line in process.stdout:
        if b" examples: " in line:
            break  # at some moment of the second chunk
    process.kill()
    process.communicate()
    for name in ("history.part", "run.part", "part-model.keras", "backup/state.part"):
        (parts / name).write_bytes(b"half a fi")
    result = recipe("distorted_mnist", *arguments, parts, "--resume")
    assert result.returncode == 0, result.stderr
    assert 1 <= result.stdout.count(" examples: ") <= 4
    columns = ("examples", "loss", "val_loss", "val_error", "test_error")
    first, second = (
        [[float(row[name]) for name in columns] for row in rows(folder / "history.csv")]
        for folder in (whole, parts)
    )
    assert first == second
    assert checkpoint.load(parts).model is not None


def test_study_of_updates(tmp_path):
    arguments = (*QUICK, "--study", "updates", "--epochs", 3, "--output", tmp_path)
    result = recipe("regression_studies", *arguments)
    assert result.returncode == 0, result.stderr
    cells = rows(tmp_path / "updates.csv")
    assert len(cells) == 4 * 4 and (tmp_path / "updates.png").exists()
    plain = [float(row["loss"]) for row in cells if row["variant"] == "EM"]
    assert np.diff(plain).max() < 0
    result = recipe("regression_studies", *arguments, "--capsule-dim", 3)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
