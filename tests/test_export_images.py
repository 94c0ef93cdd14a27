"""The test images of a checkpoint, by the loaders that `run.json` may name."""

import json
import pathlib

import keras
import numpy as np
import pytest

from export import checkpoint, images
from export.onnx import export_onnx
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps

SIZES = {"train": 600, "test": 40}


@pytest.fixture
def arrays(rng):
    """The four arrays of Keras' own format, 12 × 10 pixels in one channel."""
    splits = {}
    for split, size in SIZES.items():
        splits[f"x_{split}"] = rng.integers(256, size=(size, 12, 10)).astype("uint8")
        splits[f"y_{split}"] = rng.integers(3, size=size).astype("uint8")
    return splits


def source(path):
    return {"loader": "npz", "name": "own", "title": "own", "file": str(path)}


def saved(folder, arrays):
    path = images.keras_file(folder, "own")
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("with_channels", [False, True])
@pytest.mark.parametrize("column_of_labels", [False, True])
def test_files_of_keras_format(tmp_path, arrays, with_channels, column_of_labels):
    changed = {
        name: array[..., None]
        if (with_channels if name.startswith("x") else column_of_labels)
        else array
        for name, array in arrays.items()
    }
    path = saved(tmp_path, changed)
    assert path == tmp_path / "own.npz"
    found = images.of_run({"data": source(path)})
    np.testing.assert_array_equal(found.test, arrays["x_test"][..., None])
    np.testing.assert_array_equal(found.labels, arrays["y_test"])
    assert found.labels.dtype == "int64" and found.test.dtype == "uint8"
    np.testing.assert_array_equal(found.calibration, arrays["x_train"][:512, ..., None])
    assert str(found) == "40 test images of own" and not found.is_random
    few = images.of_run({"data": source(path)}, limit=7)
    np.testing.assert_array_equal(few.test, found.test[:7])
    np.testing.assert_array_equal(few.labels, found.labels[:7])
    assert len(few.calibration) == 512


def test_images_of_colours(tmp_path, rng):
    arrays = {f"x_{split}": rng.integers(256, size=(5, 4, 4, 3)) for split in SIZES}
    arrays |= {f"y_{split}": np.arange(5)[:, None] for split in SIZES}
    found = images.of_run({"data": source(saved(tmp_path, arrays))})
    np.testing.assert_array_equal(found.test, arrays["x_test"])
    np.testing.assert_array_equal(found.labels, np.arange(5))


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def without_labels(path):
    with np.load(path) as file:
        kept = {name: file[name] for name in file if name != "y_test"}
    np.savez(path, **kept)


def pickled(path):
    with np.load(path) as file:
        kept = dict(file)
    np.savez(path, **{**kept, "y_test": np.array([{}] * len(kept["y_test"]))})


def no_archive(path):
    path.write_bytes(b"no archive")


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, cut, without_labels, pickled, no_archive])
def test_files_that_cannot_be_read_are_not_at_hand(tmp_path, arrays, damage):
    path = saved(tmp_path, arrays)
    damage(path)
    assert images.of_run({"data": source(path)}) is None
    image = keras.Input((12, 10, 1))
    run = {"data": source(path)}
    found = images.choose(None, checkpoint.Checkpoint(tmp_path, None, run, ""), image)
    assert str(found) == "64 random images, pixels from 0 to 255; the model was trained on own"
    assert found.is_random and found.warning is None


def test_an_entry_without_a_name_that_keras_knows():
    with pytest.raises(ValueError, match="`run` does not say where its test images are"):
        images.of_run({"data": {"loader": "keras.datasets"}})
    for name in ("own", ["mnist"], None):
        with pytest.raises(ValueError, match="`run` does not say where its test images are"):
            images.of_run({"data": {"loader": "keras.datasets", "name": name}})


def test_what_keras_keeps(monkeypatch, tmp_path, arrays):
    """Nothing is downloaded: Keras is asked for what lies in its folder alone."""
    entry = {"data": {"loader": "keras.datasets", "name": "mnist", "title": "mnist"}}
    calls = []

    def load_data():
        calls.append("mnist")
        return tuple((arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in SIZES)

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert images.of_run(entry) is None and not calls
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/mnist.npz").touch()
    found = images.of_run(entry, limit=9)
    np.testing.assert_array_equal(found.test, arrays["x_test"][:9, ..., None])
    np.testing.assert_array_equal(found.labels, arrays["y_test"][:9])
    assert calls == ["mnist"] and str(found) == "9 test images of mnist"

    def fail():
        raise OSError("damaged")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    assert images.of_run(entry) is None


def test_a_checkpoint_is_exported_with_its_file(tmp_path, arrays):
    path = saved(tmp_path, arrays)
    image = keras.Input((12, 10, 1))
    poses = DigitCaps(3, 4, routing="l2")(PrimaryCaps(2, 4, 3, strides=2)(image))
    keras.Model(image, CapsuleLength()(poses)).save(tmp_path / "model.keras")
    run = checkpoint.run_content("own", source(path), ["a", "b", "c"])
    (tmp_path / "run.json").write_text(json.dumps(run))
    loaded = checkpoint.load(tmp_path)
    report = export_onnx(loaded.model, tmp_path / "model.onnx", checkpoint=loaded)
    lengths = loaded.model.predict_on_batch(arrays["x_test"][..., None].astype("float32"))
    assert report.images == "40 test images of own"
    expected = np.mean(lengths.argmax(-1) == arrays["y_test"])
    assert report.comparison.accuracy_before == report.comparison.accuracy_after == expected
