"""Recipes where little is installed: Keras, one backend, and what draws and reads images."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from harness import checkpoints, run_folder
from programs import BLOCKER, OFFLINE, RECIPES

BACKEND = keras.backend.backend()
# Packages that another installation of kcaps has.
OTHERS = (
    *("tensorflow", "tensorflow_datasets", "tensorboard", "pandas", "psutil", "grpc"),
    *("onnx", "onnxruntime", "onnxslim", "tf2onnx", "keras_tuner", "hypothesis"),
)

backends = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                BACKEND not in ("tensorflow", name) or not importlib.util.find_spec(name),
                reason=f"{name} is not installed, or tested by the tests on {name}",
            ),
        )
        for name in ("jax", "torch")
    ],
)


def run(folder, backend, recipe, *arguments):
    """A recipe where nothing can be imported of other packages, nor downloaded, to its end."""
    (folder / "sitecustomize.py").write_text(BLOCKER)
    environment = {**os.environ, **OFFLINE, "KERAS_BACKEND": backend, "PYTHONPATH": str(folder)}
    environment |= {"BLOCKED": ",".join(OTHERS), "KERAS_HOME": str(folder / "keras")}
    command = [sys.executable, RECIPES / f"{recipe}.py", *arguments, "--output", folder / "ckpt"]
    options = {"capture_output": True, "text": True, "cwd": folder, "env": environment}
    result = subprocess.run([*map(str, command)], **options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("test accuracy ")
    return result


def check(folder, recipe, backend, **data):
    """Checks that a checkpoint folder has all that a recipe leaves, and says what made it."""
    checkpoint = folder / "ckpt"
    assert {path.name for path in checkpoint.iterdir()} == {
        *("model.keras", "run.json", "history.csv", "report.json", "backup"),
        *("curves.png", "confusion.png", "reconstructions.png", "dimensions.png"),
        *("capsules.png", "couplings.png"),
    }
    content = json.loads((checkpoint / "run.json").read_text())
    assert content["recipe"] == recipe and content["backend"] == backend
    assert content["precision"] == "float32" and content["arguments"]["precision"] == "float32"
    assert content["versions"][backend] == importlib.metadata.version(backend)
    assert content["versions"]["keras"] == keras.__version__
    assert data.items() <= content["data"].items()
    assert checkpoints.epochs_in(checkpoint / checkpoints.STATE) == 1
    history = run_folder.read_history(checkpoint / "history.csv")
    report = json.loads((checkpoint / "report.json").read_text())
    assert report["validation_loss"] == history["val_loss"][0] and report["epochs"] == 1
    return report


@pytest.mark.long
@backends
def test_digits(tmp_path, backend):
    result = run(tmp_path, backend, "digits", "--epochs", 1)
    report = check(tmp_path, "digits", backend, name="digits", loader="scikit-learn")
    assert "test accuracy" in result.stdout and report["test_images"] == 360
    assert report["test_accuracy"] > 0.5  # 40 steps are enough for that


@pytest.mark.long
@backends
def test_mnist_from_a_file(tmp_path, backend, rng):
    """The reference network for a step, and one more after it was resumed."""
    arrays = {}
    for split, size in (("train", 66), ("test", 20)):
        arrays[f"x_{split}"] = rng.integers(256, size=(size, 28, 28)).astype("uint8")
        arrays[f"y_{split}"] = np.arange(size).astype("uint8") % 10
    path = tmp_path / "data/mnist.npz"
    path.parent.mkdir()
    np.savez(path, **arrays)
    arguments = ("--data-dir", path.parent, "--limit", 60, "--batch-size", 54)
    arguments = (*arguments, "--network", "reference")
    run(tmp_path, backend, "mnist", *arguments, "--epochs", 1)
    report = check(tmp_path, "mnist", backend, name="mnist", loader="npz", file=str(path))
    assert report["test_images"] == 20 and not report["synthetic"]
    run(tmp_path, backend, "mnist", *arguments, "--epochs", 2, "--resume")
    assert checkpoints.epochs_in(tmp_path / "ckpt" / checkpoints.STATE) == 2
