"""Every example in the documentation runs as written, and shows what it says."""

import doctest
import functools
import importlib
import pathlib
import pkgutil
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image

import export
import kcaps
import kcaps.diagnostics
import kcaps.layers
import kcaps.losses
import kcaps.models
import kcaps.regression
import kcaps.regression.classifier
import kcaps.routing
from export import checkpoint
from export import litert as _litert
from export import onnx as _onnx
from export import saved_model as _saved_model
from export import verify as _verify

README = pathlib.Path(__file__).parents[1] / "README.md"


def namespace():
    """Returns what a reader of an example has imported, and a model that some of them use."""
    image = keras.Input((8, 8, 1))
    poses = kcaps.layers.DigitCaps(3, 4)(kcaps.layers.PrimaryCaps(2, 4, 3)(image))
    names = {"keras": keras, "kcaps": kcaps, "np": np, "ops": ops}
    for module in (
        *(kcaps.activations, kcaps.diagnostics, kcaps.initializers, kcaps.layers, kcaps.losses),
        *(
            kcaps.models,
            kcaps.regression,
            kcaps.regression.classifier,
            kcaps.routing,
            _litert,
            _onnx,
            _saved_model,
            _verify,
        ),
    ):
        names |= {name: getattr(module, name) for name in dir(module) if name[0] != "_"}
    return names | {
        "model": kcaps.models.CapsNet(image, kcaps.layers.CapsuleLength()(poses)),
        "images": np.zeros((4, 8, 8, 1)),
        "labels": np.arange(4) % 3,
    }


def docstrings():
    for package in (kcaps, export):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__):
                if test.examples:
                    yield pytest.param(module, test, id=test.name)


@pytest.mark.parametrize(("module", "test"), list(docstrings()))
def test_docstring_examples(module, test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public = {name: getattr(module, name) for name in dir(module) if name[0] != "_"}
    test.globs = public | namespace()
    assert any(example.want for example in test.examples), "the example shows no result"
    runner, told = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), []
    assert runner.run(test, out=told.append, clear_globs=False).failed == 0, "".join(told)


def test_every_public_class_has_an_example():
    documented = {param.id.rsplit(".", 1)[-1] for param in docstrings()}
    modules = (kcaps.diagnostics, kcaps.initializers, kcaps.layers, kcaps.losses)
    modules += (kcaps.metrics, kcaps.models)
    for module in (*modules, kcaps.routing):
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__.startswith("kcaps"):
                assert name in documented or "```python" in value.__doc__, name


def code_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_readme_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = code_blocks(README.read_text())
    assert len([line for line in example.splitlines() if line]) <= 15
    exec(example, {})
    assert (tmp_path / "digits.onnx").exists()


def test_example_of_a_users_routing():
    (example,) = code_blocks(re.sub(r"(?m)^    ", "", kcaps.routing.Routing.__doc__))
    names = namespace()
    exec(example, names)
    assert names["layer"](np.ones((2, 6, 3))).shape == (2, 10, 16)


def test_the_guide_to_routing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in code_blocks((README.parent / "docs" / "routing.md").read_text()):
        exec(example, names)
    assert (names["by_name"].shape, names["by_object"].shape) == ((8, 10, 16), (8, 10, 16))
    images = names["images"]
    outputs = [names[name].predict(images, verbose=0) for name in ("model", "loaded")]
    np.testing.assert_array_equal(*outputs)
    assert names["loaded"].get_layer("digit_caps").routing.temperature == 0.5
    assert names["trace"]["entropy"].shape == (1,) and names["longer"]["entropy"].shape == (50,)


def test_the_guide_to_capsule_regression(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in code_blocks((README.parent / "docs" / "regression.md").read_text()):
        exec(example, names)
    assert names["classifier"].score(names["test"], names["y_test"]) > 0.95
    assert max(names["history"].history["val_accuracy"]) > 0.9
    loaded = keras.saving.load_model("digits.keras")
    received = loaded.predict(names["images"], verbose=0)
    np.testing.assert_array_equal(received, names["probabilities"])


def test_the_guide_to_networks():
    """Its examples run, and the sizes that it tells are those of its networks."""
    text = (README.parent / "docs" / "networks.md").read_text()
    names = {}
    for example in code_blocks(text):
        exec(example, names)
    model = names["model"]
    assert f"{model.count_params():,} parameters" in text
    assert f"{model.class_layer.count_params():,} of them in the capsules" in text
    assert names["on_backbone"].class_inputs.shape == (None, 3 * 3 * 32, 8)
    assert names["two_tasks"].output_names == ["digit", "slant"]
    sizes = ((28, 28, 1), 10), ((32, 32, 3), 10), ((96, 96, 3), 5)
    for title, build in {
        "`capsnet` with its decoder": kcaps.models.capsnet,
        "`capsnet(…, decoder_units=None)`": functools.partial(
            kcaps.models.capsnet, decoder_units=None
        ),
        "`efficient_capsnet`": kcaps.models.efficient_capsnet,
        "`deep_capsnet`": kcaps.models.deep_capsnet,
    }.items():
        counts = " | ".join(f"{build(*size).count_params():,}" for size in sizes)
        assert f"| {title} | {counts} |" in text


def test_the_guide_to_losses():
    text = (README.parent / "docs" / "losses.md").read_text()
    (example,) = code_blocks(text)
    names = {}
    exec(example, names)
    assert names["each"].shape == (64,)
    rows = re.findall(r'^\| `"(\w+)"` \| `(\w+)` \|', text, re.MULTILINE)
    losses = kcaps.losses.CLASSIFICATION_LOSSES
    assert rows == [(name, loss.__name__) for name, loss in losses.items()]


def test_the_guide_to_deployment(digits_checkpoint, tmp_path, monkeypatch, capsys):
    """Its examples serve a checkpoint's files, and a user's own model."""
    monkeypatch.chdir(tmp_path)
    loaded = checkpoint.load(digits_checkpoint)
    _onnx.export_onnx(loaded.model, "ckpt/model.onnx", checkpoint=loaded)
    _saved_model.export_saved_model(loaded.model, "ckpt/saved_model")
    _litert.export_litert(loaded.model, "ckpt/model.tflite", checkpoint=loaded)
    guide = (README.parent / "docs" / "deployment.md").read_text()
    serve_onnx, serve_saved_model, serve_litert, functions, others = code_blocks(guide)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another package for LiteRT's interpreter
        for example in (serve_onnx, serve_saved_model, serve_litert):
            assert len([line for line in example.splitlines() if line]) < 10
            exec(example, {})
    classes, *numbers = capsys.readouterr().out.splitlines()
    assert classes.count("'") == 6 and [len(line.split()) for line in numbers] == [3, 3]
    names = {"model": namespace()["model"]}
    exec(functions, names)
    assert (tmp_path / "model.onnx").exists() and (tmp_path / "saved_model").is_dir()
    x, y = np.ones((4, 8, 8, 1), "float32"), np.arange(4) % 3
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.arange(80, dtype="uint8").reshape(8, 10)).save(tmp_path / "pictures/a.png")
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    exec(others, names | {"x_test": x, "y_test": y, "dataset": dataset})
    assert (tmp_path / "model.tflite").exists()


def test_the_guide_to_prediction(digits_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    loaded = checkpoint.load(digits_checkpoint)
    _onnx.export_onnx(loaded.model, "ckpt/model.onnx", checkpoint=loaded)
    Image.fromarray(np.arange(80, dtype="uint8").reshape(8, 10)).save("a.png")
    (example,) = code_blocks((README.parent / "docs" / "predict.md").read_text())
    exec(example, {})
    assert capsys.readouterr().out.split()[0] in [str(digit) for digit in range(10)]
