"""LiteRT files compute what Keras does, in LiteRT's own interpreter."""

import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import export.litert
from export import checkpoint, summary
from export.images import Images
from export.litert import export_litert
from exporting import contents, ended, small
from kcaps.models import deep_capsnet
from kcaps.routing import ROUTINGS
from programs import ROOT

STEPS = ["fold", "trace", "convert", "open", "compare"]


def outputs_of(path, images):
    """What TensorFlow's interpreter gives, used as its documentation tells, for whole batches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(str(path))
    return interpreter.get_signature_runner("serving_default")(image=images)


@pytest.mark.parametrize(
    "routing",
    [pytest.param(x, marks=() if x in ("dynamic", "l2") else pytest.mark.long) for x in ROUTINGS],
)
def test_a_file_computes_what_keras_does(tmp_path, rng, routing):
    model = small(routing)
    report = export_litert(model, tmp_path / "model.tflite", with_decoder=True)
    assert [step["step"] for step in report.steps] == [
        "fold",
        "trace",
        "convert",
        "open",
        "compare",
    ]
    assert {row.output for row in report.rows} == {
        *("class_lengths", "poses", "reconstruction", "class")
    }
    limit = 1e-4 if routing == "em" else 1e-5
    assert report.largest_difference <= limit
    assert report.largest_relative_difference <= 1e-3
    for batch in (13, 1):  # not only the sizes of the exporter's own check
        x = rng.uniform(0, 255, size=(batch, 17, 18, 1)).astype("float32")
        outputs = outputs_of(tmp_path / "model.tflite", x)
        np.testing.assert_allclose(
            outputs["class_lengths"], model.predict(x, verbose=0), atol=limit
        )
        assert outputs["poses"].shape == (batch, 3, 16)


def plain():
    """A network of Keras alone."""
    image = keras.Input((11, 13, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(x))
    return keras.Model(image, keras.layers.Dense(3, "softmax", name="class_lengths")(x))


def deep():
    return deep_capsnet((32, 32, 3), 3, widths=(8, 8, 8))


@pytest.mark.parametrize("make", [plain, pytest.param(deep, marks=pytest.mark.long)])
def test_networks_of_colours(tmp_path, rng, make):
    model, path = make(), tmp_path / "m.tflite"
    x = rng.integers(256, size=(9, *model.input_shape[1:])).astype("float32")
    y = np.arange(9) % 3
    report = export_litert(model, path, labels=["a", "b", "c"], test_images=(x, y))
    expected = model.predict(x, verbose=0)
    assert report.comparison.accuracy_after == np.mean(expected.argmax(-1) == y)
    np.testing.assert_allclose(outputs_of(path, x)["class_lengths"], expected, atol=1e-5)


def test_a_checkpoint(checkpoint_copy, monkeypatch, capfd):
    """The program, whose libraries say nothing on stderr, and its report."""
    monkeypatch.setattr("sys.argv", ["program", "--model", str(checkpoint_copy)])
    capfd.readouterr()
    export.litert.main()
    told = capfd.readouterr()
    assert not told.err and "360 test images of digits" in told.out
    # The steps with that of loading, two outputs at three batch sizes, classes, the last line.
    assert told.out.count("✓") == 6 + 7 + 1 and "✗" not in told.out
    report = json.loads((checkpoint_copy / "model.tflite.json").read_text())
    recorded = json.loads((checkpoint_copy / "report.json").read_text())["test_accuracy"]
    assert report["accuracy"]["after"] == pytest.approx(recorded)
    assert report["format"] == "litert" and report["labels"] == [str(x) for x in range(10)]
    assert report["input_shape"] == [8, 8, 1] and report["input_range"] == [0, 255]
    assert report["largest_difference"] <= 1e-5 and report["largest_relative_difference"] <= 1e-3
    path = checkpoint_copy / "model.tflite"
    assert report["bytes"] == path.stat().st_size
    assert report["checkpoint_sha256"] == checkpoint.load(checkpoint_copy).sha256
    assert str(path) in summary.summarize(checkpoint_copy)
    before = contents(checkpoint_copy)
    arguments = ("--model", checkpoint_copy)
    assert "--overwrite" in ended(monkeypatch, capfd, export.litert.main, 2, *arguments)
    assert contents(checkpoint_copy) == before


def change_a_byte_of_a_weight(convert):
    def changed(folder):
        content = bytearray(convert(folder))
        # The largest run of weights of the file lies in its middle.
        for place in range(len(content) // 2, len(content) // 2 + 400, 4):
            content[place + 3] = 0x3F
        return bytes(content)

    return changed


def test_a_wrong_file_is_never_written(checkpoint_copy, monkeypatch, capsys):
    before = contents(checkpoint_copy)
    convert = export.litert._convert
    monkeypatch.setattr(export.litert, "_convert", change_a_byte_of_a_weight(convert))
    line = ended(monkeypatch, capsys, export.litert.main, 1, "--model", checkpoint_copy)
    assert "differs from Keras by" in line or "get another class" in line
    assert contents(checkpoint_copy) == before
    monkeypatch.setattr(export.litert, "_convert", lambda folder: b"no file of LiteRT")
    line = ended(monkeypatch, capsys, export.litert.main, 1, "--model", checkpoint_copy)
    assert "LiteRT cannot load the file" in line
    assert contents(checkpoint_copy) == before


def test_what_litert_has_no_operator_for(tmp_path):
    class Foreign(keras.layers.Layer):
        def call(self, inputs):
            return tf.linalg.expm(inputs[..., 0])

        def compute_output_shape(self, shape):
            return shape[:3]

    image = keras.Input((4, 4, 1))
    model = keras.Model(image, Foreign()(image))
    given = Images(np.linspace(0, 1, 48).reshape(3, 4, 4, 1))
    with pytest.raises(ValueError, match="`model` cannot be converted to LiteRT: ") as error:
        export_litert(model, tmp_path / "m.tflite", test_images=given)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is a folder. Give the path of a file"):
        export_litert(small("l2"), tmp_path / "folder")


def test_half_precision_is_exported_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small("l2")
    report = export_litert(model, tmp_path / "m.tflite")
    assert report.comparison.half.dtype == "bfloat16" and report.largest_difference <= 1e-5


SERVED = """
import sys, warnings
warnings.simplefilter("ignore")
sys.modules |= dict.fromkeys(["keras", "kcaps", "export"])
import numpy as np, tensorflow as tf
signature = tf.lite.Interpreter("m.tflite").get_signature_runner()
np.save("found.npy", signature(image=np.load("images.npy"))["class_lengths"])
"""


@pytest.mark.long
def test_a_file_is_served_without_what_made_it(tmp_path, rng):
    model = small("dynamic")
    export_litert(model, tmp_path / "m.tflite")
    x = rng.uniform(0, 255, size=(5, 17, 18, 1)).astype("float32")
    np.save(tmp_path / "images.npy", x)
    result = subprocess.run([sys.executable, "-c", SERVED], cwd=tmp_path, capture_output=True)
    assert result.returncode == 0, result.stderr
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-5)
    assert str(ROOT) not in (tmp_path / "m.tflite").read_bytes().decode("latin-1")
