"""Where images of a name come from: files in Keras' format, Keras' own folder, and others."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import programs
from export import images as of_exports
from harness import run_folder
from harness.run_folder import Run
from pictures_of import data, sources
from programs import OFFLINE, refused

BACKEND = keras.backend.backend()
PREPARED = pathlib.Path.home() / "tensorflow_datasets"


def splits(rng, name, sizes=(60, 20), with_channels=True, column=False):
    """Returns the four arrays of a file of Keras' format."""
    shape, found = data.SHAPES[name], {}
    for split, size in zip(("train", "test"), sizes, strict=True):
        x = rng.integers(256, size=(size, *shape)).astype("uint8")
        y = (np.arange(size) % 10).astype("uint8")
        found[f"x_{split}"] = x if with_channels else x.squeeze(-1)
        found[f"y_{split}"] = y[:, None] if column else y
    return found


def without_tensorflow(monkeypatch, *missing):
    """Has `importlib.util.find_spec` find none of some modules."""
    found = importlib.util.find_spec
    missing = missing or ("tensorflow", "tensorflow_datasets")
    monkeypatch.setattr(
        sources.importlib.util, "find_spec", lambda name: None if name in missing else found(name)
    )


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mnist", {"with_channels": False}),
        ("mnist", {"with_channels": True, "column": True}),
        ("fashion_mnist", {"with_channels": False, "column": True}),
        ("cifar10", {"column": True}),
        ("cifar10", {"column": False}),
    ],
)
def test_files_of_keras_format(tmp_path, rng, name, form):
    arrays = splits(rng, name, **form)
    np.savez(tmp_path / f"{name}.npz", **arrays)
    found = data.load(name, str(tmp_path))
    assert found.shape == data.SHAPES[name] and found.title == name and not found.is_synthetic
    assert found.source == {"loader": "npz", "file": str((tmp_path / f"{name}.npz").resolve())}
    assert len(found.class_names) == 10 and found.class_names == sources.CLASS_NAMES[name]
    whole = np.concatenate([found.train[0], found.validation[0]])
    assert len(found.train[0]) == 54
    for images, expected in ((whole, arrays["x_train"]), (found.test[0], arrays["x_test"])):
        assert images.dtype == "uint8"
        np.testing.assert_array_equal(images, expected.reshape(-1, *data.SHAPES[name]))
    labels = np.concatenate([found.train[1], found.validation[1]])
    np.testing.assert_array_equal(labels, np.arange(60) % 10)
    np.testing.assert_array_equal(found.test[1], np.arange(20) % 10)
    few = data.load(name, str(tmp_path), limit=10)
    np.testing.assert_array_equal(few.test[0], found.test[0][:10])
    np.testing.assert_array_equal(few.train[0], whole[:9])


def test_names_of_classes_are_those_of_tensorflow_datasets():
    """Which the command of an export shows, wherever the images came from."""
    assert sources.CLASS_NAMES["mnist"] == [str(digit) for digit in range(10)]
    assert sources.CLASS_NAMES["fashion_mnist"][::3] == [
        *("T-shirt/top", "Dress", "Shirt", "Ankle boot")
    ]
    assert sources.CLASS_NAMES["cifar10"][::3] == ["airplane", "cat", "frog", "truck"]


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def no_archive(path):
    path.write_bytes(b"no archive")


def one_array(path):
    with open(path, "wb") as file:
        np.save(file, np.arange(3))


def without_labels(path):
    with np.load(path) as file:
        kept = {name: file[name] for name in file if name != "y_test"}
    np.savez(path, **kept)


# NumPy leaves a damaged archive open until its exception is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [cut, no_archive, one_array, without_labels])
def test_a_damaged_file_is_one_line(tmp_path, rng, capsys, damage):
    path = tmp_path / "mnist.npz"
    np.savez(path, **splits(rng, "mnist"))
    damage(path)
    line = refused(capsys, lambda: data.load("mnist", str(tmp_path)))
    assert line.startswith(f"error: {path} is not a file of images in Keras' format: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": np.zeros((20, 8, 8), "uint8")}, r"of shape \(28, 28, 1\).*\(20, 8, 8, 1\)"),
        ({"x_train": np.zeros((60, 28, 28))}, "images of bytes.*Received: float64"),
        ({"y_train": np.full(60, 10)}, "labels from 0 to 9. Received: 60 others, such as 10"),
        ({"y_test": np.arange(19) % 10}, r"a label of each.*labels of \(19,\)"),
        ({"x_test": np.zeros((0, 28, 28), "uint8"), "y_test": np.zeros(0, int)}, "not a file of"),
    ],
)
def test_a_file_of_something_else_is_one_line(tmp_path, rng, capsys, change, message):
    np.savez(tmp_path / "mnist.npz", **(splits(rng, "mnist") | change))
    assert re.search(message, refused(capsys, lambda: data.load("mnist", str(tmp_path))))


def test_a_folder_without_the_file(monkeypatch, tmp_path, rng, capsys):
    """Is that of tensorflow-datasets where it can be read, and of no use otherwise."""
    np.savez(tmp_path / "mnist.npz", **splits(rng, "mnist"))
    asked = []
    monkeypatch.setattr(
        sources, "_in_tensorflow", lambda *arguments: asked.append(arguments) or "found"
    )
    spec = importlib.util.find_spec("keras")
    with monkeypatch.context() as patch:
        patch.setattr(sources.importlib.util, "find_spec", lambda name: spec)
        assert sources.read("cifar10", str(tmp_path)) == "found"
        assert sources.read("mnist", None) == "found"
        assert sources.read("mnist", str(tmp_path))[3]["loader"] == "npz"
    assert asked == [("cifar10", str(tmp_path)), ("mnist", None)]
    for missing in (("tensorflow",), ("tensorflow_datasets",), ()):
        with monkeypatch.context() as patch:
            without_tensorflow(patch, *missing)
            line = refused(capsys, lambda: sources.read("cifar10", str(tmp_path)))
            assert line.startswith(f"error: --data-dir {tmp_path} holds no cifar10.npz, and what")
    assert len(asked) == 2


def test_keras_downloads_where_there_is_no_tensorflow(monkeypatch, tmp_path, rng):
    arrays = splits(rng, "fashion_mnist", with_channels=False)
    monkeypatch.setattr(
        keras.datasets.fashion_mnist,
        "load_data",
        lambda: tuple((arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test")),
    )
    without_tensorflow(monkeypatch)
    found = data.load("fashion_mnist", limit=20)
    np.testing.assert_array_equal(found.test[0], arrays["x_test"][..., None])
    assert found.source == {"loader": "keras.datasets"} and found.test[1].dtype == "int64"
    assert found.class_names[-1] == "Ankle boot"


@pytest.mark.parametrize("name", list(sources.CLASS_NAMES))
def test_a_download_without_network_is_one_line(monkeypatch, tmp_path, capsys, name):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    for variable, value in OFFLINE.items():
        monkeypatch.setenv(variable, value)
    without_tensorflow(monkeypatch)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        data.load(name)
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: data set {name!r} could not be downloaded (")
    assert line.count("\n") == 1 and f"folder that holds {name}.npz" in line


@pytest.mark.parametrize("synthetic", [("digits", 1797), ("mnist", 2000), ("cifar10", 2000)])
def test_generated_images_do_not_depend_on_the_limit(synthetic):
    """Programs that read the images of a run again may read more of them, or fewer."""
    name, _ = synthetic
    whole, few = (data.load(name, limit=limit, synthetic=True) for limit in (None, 30))
    for split in ("test", "train"):
        for one, two in zip(getattr(whole, split), getattr(few, split), strict=True):
            np.testing.assert_array_equal(one[: len(two)], two)
    assert len(whole.test[0]) == 500 and len(few.test[0]) == 30 and len(few.train[0]) == 27


def test_a_run_names_its_file_and_goes_on_with_it(tmp_path, rng, capsys):
    """Exporters read the same test images by it. The folder may be another when it goes on."""
    folder, other = tmp_path / "data", tmp_path / "moved"
    folder.mkdir()
    arrays = splits(rng, "mnist", with_channels=False)
    np.savez(folder / "mnist.npz", **arrays)
    images = data.load("mnist", str(folder), limit=20)
    run = Run(recipe="own", output=tmp_path / "ckpt", epochs=1, seed=0, arguments={"seed": 0})
    assert run_folder.open_folder(run, images) == 0
    content = json.loads((tmp_path / "ckpt/run.json").read_text())
    assert content["data"] == {
        **{"name": "mnist", "title": "mnist", "loader": "npz"},
        "file": str((folder / "mnist.npz").resolve()),
    }
    assert content["backend"] == BACKEND and content["precision"] == "float32"
    found = of_exports.of_run(content)
    np.testing.assert_array_equal(found.test, arrays["x_test"][..., None])
    np.testing.assert_array_equal(found.labels, arrays["y_test"])
    np.testing.assert_array_equal(found.test[:20], images.test[0])
    folder.rename(other)
    assert of_exports.of_run(content) is None
    moved = data.load("mnist", str(other), limit=20)
    run_folder.open_folder(run, moved)
    content = json.loads((tmp_path / "ckpt/run.json").read_text())
    assert of_exports.of_run(content) is not None


READ_BY_A_CHILD = """
import sys
from pictures_of import data
if __name__ == "__main__":
    images = data.load("mnist", limit=40)
    assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
    print(images.source["loader"], *images.test[1], len(images.train[0]))
"""


@pytest.mark.long
@pytest.mark.skipif(
    not (PREPARED / "mnist").exists() or not importlib.util.find_spec("tensorflow_datasets"),
    reason="tensorflow-datasets has prepared no MNIST here",
)
def test_a_process_of_its_own_reads_what_tensorflow_datasets_has(tmp_path):
    """On JAX, the program has no TensorFlow beside it, and the images in their published order."""
    (tmp_path / "program.py").write_text(READ_BY_A_CHILD)
    places = os.pathsep.join([str(programs.RECIPES), str(programs.ROOT)])
    environment = {**os.environ, **OFFLINE, "KERAS_BACKEND": "jax", "PYTHONPATH": places}
    command = [sys.executable, str(tmp_path / "program.py")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    loader, *labels, count = result.stdout.split()
    assert loader == "tensorflow-datasets" and count == "36"
    # The first labels of t10k-labels-idx1-ubyte.
    assert labels[:15] == "7 2 1 0 4 1 4 9 5 9 0 6 9 0 1".split() and len(labels) == 40


def test_digits_are_those_of_scikit_learn_and_of_its_split():
    """They are read, and split, without it."""
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.model_selection import train_test_split

    expected, labels = datasets.load_digits(return_X_y=True)
    expected = np.round(expected * 255 / 16).astype("uint8").reshape(-1, 8, 8, 1)
    indices = np.arange(len(labels))
    parts = train_test_split(indices, test_size=0.2, random_state=0, stratify=labels)
    *splits, names, source = sources.digits()
    for (images, found), part in zip(splits, parts, strict=True):
        assert images.dtype == expected.dtype and found.dtype == labels.dtype
        np.testing.assert_array_equal(images, expected[part])
        np.testing.assert_array_equal(found, labels[part])
    assert names == list("0123456789")
    assert source == {
        "loader": "scikit-learn",
        "scale": 255 / 16,
        "test_indices": parts[1].tolist(),
    }


def test_digits_without_scikit_learn(monkeypatch):
    without_tensorflow(monkeypatch, "sklearn")
    with pytest.raises(ModuleNotFoundError) as caught:
        sources.digits()
    assert caught.value.name == "sklearn"
