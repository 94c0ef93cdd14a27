"""The exporters: equal values, checks that can fail, and one line for bad input."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

import export.onnx
import export.saved_model
from export import checkpoint, parity, summary
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import capsnet, efficient_capsnet
from kcaps.routing import ROUTINGS, DynamicRouting

DYNAMIC_OPERATORS = {"Shape", "Gather", "Loop", "If", "PartitionedCall"}
ROOT = pathlib.Path(__file__).parents[1]


def python(*arguments, cwd):
    """A Python program in a folder of its own, so that nothing is imported from the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of the digits recipe, trained for a moment on real images."""
    path = tmp_path_factory.mktemp("digits") / "ckpt"
    arguments = ("--limit", 300, "--epochs", 1, "--routing", "l1", "--output", path)
    result = python(ROOT / "recipes/digits.py", *arguments, cwd=path.parent)
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return pathlib.Path(shutil.copytree(folder, tmp_path / "ckpt"))


def small(routing, **options):
    return capsnet((17, 18, 1), 3, routing=routing, filters=4, num_primary_capsules=2, **options)


def onnx_outputs(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_onnx_file_computes_what_keras_does(tmp_path, rng, routing):
    model = small(routing)
    rows, images = export.onnx.export_onnx(model, tmp_path / "model.onnx")
    assert images == "64 random images"
    assert all(row.passed and row.difference <= 1e-5 for row in rows)
    assert {row.output for row in rows} == {"class_lengths", "poses", "class"}
    for batch in (1, 13):  # not only the sizes of the exporter's own check
        x = rng.uniform(0, 255, size=(batch, 17, 18, 1)).astype("float32")
        outputs = onnx_outputs(tmp_path / "model.onnx", x)
        poses = keras.Model(model.input, model.get_layer("digit_caps").output)
        np.testing.assert_allclose(outputs["class_lengths"], model.predict(x, verbose=0), atol=1e-5)
        np.testing.assert_allclose(outputs["poses"], poses.predict(x, verbose=0), atol=1e-5)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert not {node.op_type for node in graph.node} & DYNAMIC_OPERATORS
    assert {node.domain for node in graph.node} == {""}


def test_efficient_capsnet_and_adaptive_routing(tmp_path):
    routing = DynamicRouting(num_iterations=4, leaky=True, tolerance=0.01)
    models = efficient_capsnet((13, 14, 1), 3), small(routing, decoder_units=None)
    for model in models:
        rows, _ = export.onnx.export_onnx(model, tmp_path / "model.onnx")
        assert all(row.passed for row in rows)
        graph = onnx.load(tmp_path / "model.onnx").graph
        assert not {node.op_type for node in graph.node} & DYNAMIC_OPERATORS


def test_onnx_graph(tmp_path):
    export.onnx.export_onnx(small("dynamic"), tmp_path / "model.onnx", opset=15)
    graph = onnx.load(tmp_path / "model.onnx")
    assert graph.opset_import[0].version == 15
    assert [value.name for value in graph.graph.input] == ["image"]
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {
        "image": ["batch", 17, 18, 1],
        "class_lengths": ["batch", 3],
        "poses": ["batch", 3, 16],
    }


@pytest.mark.parametrize("routing", ROUTINGS)
def test_saved_model_computes_what_keras_does(tmp_path, rng, routing):
    model = small(routing)
    rows, _ = export.saved_model.export_saved_model(model, tmp_path / "saved_model")
    assert all(row.passed for row in rows)
    x = rng.uniform(0, 255, size=(5, 17, 18, 1)).astype("float32")
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    outputs = loaded.serve(x)
    np.testing.assert_allclose(outputs["class_lengths"], model.predict(x, verbose=0), atol=1e-6)


def test_a_keras_model_with_other_outputs_keeps_their_names(tmp_path, rng):
    image = keras.Input((4, 3), name="capsules")
    poses = DigitCaps(3, 4, name="first")(image)
    model = keras.Model(image, {"a": poses, "b": keras.layers.Flatten(name="flat")(poses)})
    export.onnx.export_onnx(model, tmp_path / "model.onnx")
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    expected = model.predict(x, verbose=0)
    outputs = onnx_outputs(tmp_path / "model.onnx", x)
    assert set(outputs) == {"a", "b"}
    for name, value in outputs.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_sequential_models_and_integer_images(tmp_path):
    layers = [PrimaryCaps(2, 4, 3), DigitCaps(3, 4), CapsuleLength()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    export.onnx.export_onnx(model, tmp_path / "model.onnx")
    assert set(onnx_outputs(tmp_path / "model.onnx", np.zeros((2, 8, 8, 1), "float32"))) == {
        "class_lengths",
        "poses",
    }
    image = keras.Input((8, 8, 1), dtype="uint8")
    lengths = model(keras.layers.Rescaling(1 / 255)(image))
    export.onnx.export_onnx(keras.Model(image, lengths), tmp_path / "bytes.onnx")
    onnx_outputs(tmp_path / "bytes.onnx", np.zeros((3, 8, 8, 1), "uint8"))


def test_commands_from_any_folder(copy, tmp_path):
    for module, name in (("export.onnx", "model.onnx"), ("export.saved_model", "saved_model")):
        result = python("-m", module, "--model", "ckpt/", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "compared with Keras on 360 test images of digits" in result.stdout
        assert result.stdout.count("✓") == 8 and "✗" not in result.stdout
        report = json.loads((copy / f"{name}.json").read_text())
        assert report["largest_difference"] <= 1e-5
    metadata = {e.key: e.value for e in onnx.load(copy / "model.onnx").metadata_props}
    assert metadata["recipe"] == "digits" and metadata["data"] == "digits"
    assert json.loads(metadata["labels"]) == [str(i) for i in range(10)]
    line = summary.summarize(copy)
    assert "test accuracy" in line and "largest difference" in line and "saved_model" in line


def test_saved_model_is_served_without_kcaps(copy, tmp_path):
    export.saved_model.export_saved_model(checkpoint.load(copy).model, tmp_path / "saved_model")
    code = """
import sys
sys.modules["kcaps"] = None  # any import of it fails
import tensorflow as tf
loaded = tf.saved_model.load("saved_model")
outputs = loaded.serve(tf.zeros((2, 8, 8, 1)))
print({name: value.shape.as_list() for name, value in sorted(outputs.items())})
"""
    result = python("-c", code, cwd=tmp_path)
    assert result.stdout.strip() == "{'class_lengths': [2, 10], 'poses': [2, 10, 16]}", (
        result.stderr
    )


def change_a_weight(graph):
    for tensor in graph.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.ndim > 1 and array.dtype == np.float32:
            array.flat[0] += 0.05
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            return graph


def break_an_operator(graph):
    graph.graph.node[0].op_type = "PartitionedCall"
    return graph


def rename_an_output(graph):
    output = graph.graph.output[0]
    for node in graph.graph.node:
        node.output[:] = ["renamed" if name == output.name else name for name in node.output]
    output.name = "renamed"
    return graph


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_weight, "differs from Keras by"),
        (break_an_operator, "ONNX Runtime cannot load the file"),
        (rename_an_output, "outputs differ"),
    ],
)
def test_a_wrong_onnx_file_is_never_written(monkeypatch, copy, capsys, damage, message):
    convert = export.onnx._convert
    monkeypatch.setattr(export.onnx, "_convert", lambda *args: damage(convert(*args)))
    before = sorted(copy.iterdir())
    line = ended(monkeypatch, capsys, export.onnx.main, 1, "--model", copy)
    assert message in line and "no file was written" in line
    assert sorted(copy.iterdir()) == before


def test_a_wrong_saved_model_is_never_written(monkeypatch, copy, capsys):
    monkeypatch.setattr(export.saved_model, "_serve", lambda path: lambda x: {"poses": x})
    before = sorted(copy.iterdir())
    line = ended(monkeypatch, capsys, export.saved_model.main, 1, "--model", copy)
    assert "outputs differ" in line and sorted(copy.iterdir()) == before


def test_not_a_number_fails_the_comparison():
    images = np.zeros((3, 2), "float32")
    good, bad = (lambda x: {"a": x}), (lambda x: {"a": np.full_like(x, np.nan)})
    assert all(row.passed for row in parity.compare(good, good, images, 1e-5))
    assert not any(row.passed for row in parity.compare(good, bad, images, 1e-5))
    with pytest.raises(parity.ParityError, match="does not run: division by zero"):
        parity.compare(good, lambda x: 1 / 0 if len(x) > 1 else {"a": x}, images, 1e-5)
    with pytest.raises(parity.ParityError, match="shape of a differs at batch 1"):
        parity.compare(good, lambda x: {"a": x[:, :1]}, images, 1e-5)


def ended(monkeypatch, capsys, main, code, *arguments):
    """Runs a program to its refusal; returns the one line that it printed."""
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == code, captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def remove_run(folder):
    (folder / "run.json").unlink()


def remove_model(folder):
    (folder / "model.keras").unlink()


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def truncate(folder):
    content = (folder / "model.keras").read_bytes()
    (folder / "model.keras").write_bytes(content[: len(content) // 2])


def spoil_run(folder):
    (folder / "run.json").write_text('{"kcaps": ')


def foreign_run(folder):
    (folder / "run.json").write_text('{"model": "other"}')


def spoil_data(folder):
    run = json.loads((folder / "run.json").read_text())
    del run["data"]["test_indices"]
    (folder / "run.json").write_text(json.dumps(run))


def with_lambda(folder):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: x)])
    model.save(folder / "model.keras")


def without_weights(folder):
    with zipfile.ZipFile(folder / "model.keras") as archive:
        config = archive.read("config.json")
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("config.json", config)


@pytest.mark.parametrize("main", [export.onnx.main, export.saved_model.main])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "does not exist"),
        (empty, "it has no run.json"),
        (remove_run, "it has no run.json"),
        (remove_model, "without model.keras"),
        (truncate, "is damaged"),
        (spoil_run, "run.json cannot be read"),
        (foreign_run, "was not written by a kcaps recipe"),
        (spoil_data, "does not say where its test images are"),
        (with_lambda, "cannot be loaded safely"),
        (without_weights, "cannot be loaded safely"),
    ],
)
def test_bad_checkpoints(monkeypatch, copy, capsys, main, damage, message):
    damage(copy)
    before = sorted(copy.iterdir()) if copy.exists() else None
    line = ended(monkeypatch, capsys, main, 2, "--model", copy)
    assert message in line
    assert (sorted(copy.iterdir()) if copy.exists() else None) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opset", "99"], "`opset` must be from 13 to 18"),
        (["--opset", "x"], "argument --opset: invalid int value"),
        (["--tolerance", "0"], "argument --tolerance: must be positive"),
        (["--output", "/dev/null/model.onnx"], "/dev/null/model.onnx cannot be written"),
        (["--precision", "int3"], "unrecognized arguments"),
    ],
)
def test_bad_arguments(monkeypatch, folder, capsys, arguments, message):
    line = ended(monkeypatch, capsys, export.onnx.main, 2, "--model", folder, *arguments)
    assert message in line


def test_summary_of_bad_folders(monkeypatch, copy, tmp_path, capsys):
    line = ended(monkeypatch, capsys, summary.main, 2, "--model", tmp_path / "nowhere")
    assert "it has no model.keras" in line
    (copy / "report.json").write_text("[]")
    assert "no summary" in ended(monkeypatch, capsys, summary.main, 2, "--model", copy)


def test_saved_model_does_not_replace_something_else(monkeypatch, copy, tmp_path, capsys):
    (tmp_path / "precious").mkdir()
    arguments = ("--model", copy, "--output", tmp_path / "precious")
    line = ended(monkeypatch, capsys, export.saved_model.main, 2, *arguments)
    assert "is not a SavedModel" in line and (tmp_path / "precious").is_dir()


def test_exporting_again_replaces_the_files(copy):
    for _ in range(2):
        model = checkpoint.load(copy).model
        export.onnx.export_onnx(model, copy / "model.onnx")
        export.saved_model.export_saved_model(model, copy / "saved_model")
    assert not [path for path in copy.iterdir() if path.name.startswith(".")]


def test_models_that_cannot_be_exported(tmp_path):
    for unknown in (keras.Input((None, 8, 1)), keras.Input((2,), dtype="string")):
        with pytest.raises(ValueError, match="input of numbers, and of known sizes"):
            model = keras.Model(unknown, keras.layers.Identity()(unknown))
            export.onnx.export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    image, other = keras.Input((3, 4)), keras.Input((3, 4))
    two = keras.Model([image, other], keras.layers.Add()([image, other]))
    with pytest.raises(ValueError, match="must have one input"):
        export.onnx.export_onnx(two, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="must be a functional"):
        export.onnx.export_onnx(keras.Sequential(), tmp_path / "model.onnx")


def test_wheel_carries_kcaps_and_export_only(tmp_path):
    arguments = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    result = python(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(next(tmp_path.glob("kcaps-*.whl"))) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kcaps", "export"}
