"""The exporters: equal values, small standard graphs, the same file every time."""

import json
import zipfile

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf

from export import checkpoint, parity, summary
from export.images import Images
from export.inference import inference_model
from export.onnx import export_onnx
from export.saved_model import export_saved_model
from exporting import FORBIDDEN, ROOT, onnx_outputs, python, small
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import capsnet, efficient_capsnet
from kcaps.routing import ROUTINGS, DynamicRouting, Routing

STEPS = ["fold", "trace", "convert", "simplify", "check", "open", "compare"]


def nodes(path):
    return onnx.load(path).graph.node


def assert_standard(path):
    assert not {node.op_type for node in nodes(path)} & FORBIDDEN
    assert {node.domain for node in nodes(path)} == {""}


@pytest.mark.parametrize(
    ("routing", "opset"), [(name, 13 + n % 6) for n, name in enumerate(ROUTINGS)]
)
def test_onnx_file_computes_what_keras_does(tmp_path, rng, routing, opset):
    model = small(routing)
    # Which way EM rounds depends on the network's seed: eight networks differed by up to 3.4e-05.
    allowed = parity.EM_TOLERANCE if routing == "em" else 1e-5
    report = export_onnx(model, tmp_path / "model.onnx", opset=opset)
    assert report.images == "64 random images, pixels from 0 to 255"
    assert [step["step"] for step in report.steps] == STEPS
    assert all(row.passed and row.difference <= allowed for row in report.rows)
    assert {row.output for row in report.rows} == {"class_lengths", "poses", "class"}
    for batch in (1, 13):  # not only the sizes of the exporter's own check
        x = rng.uniform(0, 255, size=(batch, 17, 18, 1)).astype("float32")
        outputs = onnx_outputs(tmp_path / "model.onnx", x)
        poses = keras.Model(model.input, model.get_layer("digit_caps").output)
        lengths = model.predict(x, verbose=0)
        np.testing.assert_allclose(outputs["class_lengths"], lengths, atol=allowed)
        np.testing.assert_allclose(outputs["poses"], poses.predict(x, verbose=0), atol=allowed)
    assert_standard(tmp_path / "model.onnx")


def test_efficient_capsnet_and_adaptive_routing(tmp_path):
    routing = DynamicRouting(num_iterations=4, leaky=True, tolerance=0.01)
    models = efficient_capsnet((13, 14, 1), 3), small(routing, decoder_units=None)
    for model in models:
        report = export_onnx(model, tmp_path / "model.onnx")
        assert all(row.passed for row in report.rows)
        assert_standard(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("routing", "most"), [("l1", 23), ("l2", 23), ("uniform", 23), ("dynamic", 70)]
)
def test_node_count_of_the_reference_model(tmp_path, routing, most):
    """Its filters and types of capsules are fewer here: the graph is the same."""
    model = capsnet((28, 28, 1), 10, routing, filters=16, num_primary_capsules=4)
    model.get_layer("conv").bias.assign(np.ones(16))  # a zero bias would leave the graph
    export_onnx(model, tmp_path / "model.onnx")
    assert len(nodes(tmp_path / "model.onnx")) <= most


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("routing", ["dynamic", "self_attention", "inverted_attention"])
def test_files_have_the_kernel_once(tmp_path, rng, routing, batch_size):
    """All products read one constant of it, and votes of one image read it once."""
    model = small(routing, decoder_units=None)
    report = export_onnx(model, tmp_path / "model.onnx", batch_size=batch_size)
    assert report.largest_difference <= 1e-5
    graph = onnx.load(tmp_path / "model.onnx").graph
    size = model.get_layer("digit_caps").kernel.shape
    (name,) = [x.name for x in graph.initializer if np.prod(x.dims) == np.prod(size)]
    products = [node for node in graph.node if name in node.input]
    assert {node.op_type for node in products} == {"MatMul"}
    assert (len(products) == 1) == (batch_size == 1)


def test_inputs_outputs_and_opset(tmp_path):
    def shapes():
        graph = onnx.load(tmp_path / "model.onnx").graph
        return {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }

    model = small("dynamic")
    export_onnx(model, tmp_path / "model.onnx", opset=15, with_decoder=True)
    assert [entry.version for entry in onnx.load(tmp_path / "model.onnx").opset_import] == [15]
    assert shapes() == {
        "image": ["batch", 17, 18, 1],
        "class_lengths": ["batch", 3],
        "poses": ["batch", 3, 16],
        "reconstruction": ["batch", 17, 18, 1],
    }
    assert_standard(tmp_path / "model.onnx")
    export_onnx(model, tmp_path / "model.onnx", batch_size=5)
    assert shapes() == {"image": [5, 17, 18, 1], "class_lengths": [5, 3], "poses": [5, 3, 16]}
    assert onnx_outputs(tmp_path / "model.onnx", np.zeros((5, 17, 18, 1), "float32"))


def test_reconstruction_is_the_decoders_image(tmp_path, rng):
    model = small("l2")
    x = rng.uniform(0, 255, size=(3, 17, 18, 1)).astype("float32")
    poses = keras.Model(model.input, model.get_layer("digit_caps").output).predict(x, verbose=0)
    longest = np.linalg.norm(poses, axis=-1).argmax(-1)
    masked = poses * (np.arange(3) == longest[:, None])[..., None]
    expected = model.decoder.predict(masked, verbose=0)
    export_onnx(model, tmp_path / "model.onnx", with_decoder=True)
    export_saved_model(model, tmp_path / "saved_model", with_decoder=True)
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    for outputs in (onnx_outputs(tmp_path / "model.onnx", x), loaded.serve(x)):
        np.testing.assert_allclose(outputs["reconstruction"], expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="needs a CapsNet that was built with a decoder"):
        export_onnx(small("l2", decoder_units=None), tmp_path / "other.onnx", with_decoder=True)


@pytest.mark.long
def test_the_same_model_gives_the_same_bytes(checkpoint_copy, tmp_path):
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for options in ({}, {"precision": "float16"}, {"precision": "int8", "batch_size": 9}):
        for path in (first, second):  # Keras' and TensorFlow's counters of names go on
            loaded = checkpoint.load(checkpoint_copy)
            limited = {"max_accuracy_drop": 100} if options else {}
            export_onnx(loaded.model, path, checkpoint=loaded, **options, **limited)
        assert first.read_bytes() == second.read_bytes()
    arguments = ("--model", checkpoint_copy, "--output", second, "--overwrite", "--limit", 10)
    result = python("-m", "export.onnx", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    export_onnx(loaded.model, first, checkpoint=loaded)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_saved_model_computes_what_keras_does(tmp_path, rng, routing):
    model = small(routing)
    report = export_saved_model(model, tmp_path / "saved_model")
    assert all(row.passed for row in report.rows)
    x = rng.uniform(0, 255, size=(5, 17, 18, 1)).astype("float32")
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    outputs = loaded.serve(x)
    np.testing.assert_allclose(outputs["class_lengths"], model.predict(x, verbose=0), atol=1e-6)


def test_a_keras_model_with_other_outputs_keeps_their_names(tmp_path, rng):
    image = keras.Input((4, 3), name="capsules")
    poses = DigitCaps(3, 4, name="first")(image)
    model = keras.Model(image, {"a": poses, "b": keras.layers.Flatten(name="flat")(poses)})
    export_onnx(model, tmp_path / "model.onnx")
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    expected = model.predict(x, verbose=0)
    outputs = onnx_outputs(tmp_path / "model.onnx", x)
    assert set(outputs) == {"a", "b"}
    for name, value in outputs.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_sequential_models_and_integer_images(tmp_path):
    layers = [PrimaryCaps(2, 4, 3), DigitCaps(3, 4), CapsuleLength()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    export_onnx(model, tmp_path / "model.onnx")
    assert set(onnx_outputs(tmp_path / "model.onnx", np.zeros((2, 8, 8, 1), "float32"))) == {
        "class_lengths",
        "poses",
    }
    image = keras.Input((8, 8, 1), dtype="uint8")
    lengths = model(keras.layers.Rescaling(1 / 255)(image))
    export_onnx(keras.Model(image, lengths), tmp_path / "bytes.onnx")
    outputs = onnx_outputs(tmp_path / "bytes.onnx", np.zeros((3, 8, 8, 1), "uint8"))
    assert set(outputs) == {"class_lengths", "poses"}
    features = keras.layers.Conv2D(2, 3)(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Flatten()(features))
    export_onnx(model, tmp_path / "bytes.onnx")
    export_saved_model(model, tmp_path / "saved_model")


def test_common_layers_of_keras_export(tmp_path):
    """Users put such layers around capsules; sizes must not be computed from the input."""
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255)(layers.ZeroPadding2D(1)(image))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.MaxPooling2D()(layers.LeakyReLU()(x))
    x = layers.Dropout(0.5)(layers.concatenate([x, layers.SeparableConv2D(4, 1)(x)]))
    x = layers.LayerNormalization()(layers.add([x, layers.Activation("swish")(x)]))
    pooled = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    flat = layers.Flatten()(CapsuleLength()(DigitCaps(4, 6)(PrimaryCaps(3, 4, 3, strides=2)(x))))
    model = keras.Model(image, layers.Dense(2, name="scores")(layers.concatenate([flat, pooled])))
    report = export_onnx(model, tmp_path / "model.onnx")
    assert report.largest_difference <= 1e-5
    assert_standard(tmp_path / "model.onnx")


def test_exporting_leaves_the_model_as_it_was(tmp_path, rng):
    model = small("l1")
    x = rng.uniform(0, 255, size=(2, 17, 18, 1)).astype("float32")
    before, weights = model.predict(x, verbose=0), model.get_weights()
    export_onnx(model, tmp_path / "model.onnx", with_decoder=True)
    export_saved_model(model, tmp_path / "saved_model")
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert keras.Model(model.input, model.get_layer("digit_caps").output).output_shape
    model.compile("adam", metrics=["accuracy"])
    model.fit(x, np.array([0, 1]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_commands_from_any_folder(checkpoint_copy, tmp_path):
    for module, name, steps in (
        ("export.onnx", "model.onnx", 8),
        ("export.saved_model", "saved_model", 5),
    ):
        result = python("-m", module, "--model", "ckpt/", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert not result.stderr
        assert "360 test images of digits" in result.stdout
        # the steps, two outputs at three batch sizes, the classes, the last line
        assert result.stdout.count("✓") == steps + 7 + 1 and "✗" not in result.stdout
        report = json.loads((checkpoint_copy / f"{name}.json").read_text())
        assert report["largest_difference"] <= 1e-5
        recorded = json.loads((checkpoint_copy / "report.json").read_text())["test_accuracy"]
        assert report["accuracy"]["before"] == pytest.approx(recorded)
    loaded = checkpoint.load(checkpoint_copy)
    metadata = {e.key: e.value for e in onnx.load(checkpoint_copy / "model.onnx").metadata_props}
    assert metadata == {
        "kcaps": loaded.run["kcaps"],
        "recipe": "digits",
        "data": "digits",
        "labels": json.dumps([str(i) for i in range(10)]),
        "input_range": "[0, 255]",
        "input_shape": "[8, 8, 1]",
        "fit": "stretch",
        "precision": "float32",
        "checkpoint_sha256": loaded.sha256,
    }
    line = summary.summarize(checkpoint_copy)
    assert "test accuracy" in line and "largest difference" in line and "saved_model" in line


def test_files_are_served_without_what_made_them(checkpoint_copy, tmp_path):
    loaded = checkpoint.load(checkpoint_copy)
    export_onnx(loaded.model, tmp_path / "model.onnx")
    export_saved_model(loaded.model, tmp_path / "saved_model")
    np.save(tmp_path / "images.npy", np.arange(2 * 64, dtype="float32").reshape(2, 8, 8, 1))
    serve_onnx = """
import sys
sys.modules |= dict.fromkeys(["tensorflow", "keras", "kcaps", "export", "tf2onnx", "onnx"])
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, {"image": np.load("images.npy")})))
"""
    serve_saved_model = """
import sys
sys.modules |= dict.fromkeys(["keras", "kcaps", "export"])  # any import of them fails
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load("saved_model")
outputs = {k: v.numpy() for k, v in loaded.serve(np.load("images.npy")).items()}
"""
    expected = loaded.model.predict(np.load(tmp_path / "images.npy"), verbose=0)
    for code in (serve_onnx, serve_saved_model):
        result = python("-c", code + "np.savez('outputs.npz', **outputs)", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        outputs = np.load(tmp_path / "outputs.npz")
        assert set(outputs) == {"class_lengths", "poses"}
        np.testing.assert_allclose(outputs["class_lengths"], expected, atol=1e-5)


def test_exporting_again_replaces_the_files(checkpoint_copy):
    for _ in range(2):
        model = checkpoint.load(checkpoint_copy).model
        export_onnx(model, checkpoint_copy / "model.onnx")
        export_saved_model(model, checkpoint_copy / "saved_model")
    assert not [path for path in checkpoint_copy.iterdir() if path.name.startswith(".")]


def test_images_of_the_user(tmp_path, rng):
    images = rng.integers(256, size=(70, 17, 18, 1)).astype("uint8")
    report = export_onnx(
        small("l2"), tmp_path / "model.onnx", test_images=Images(images, np.zeros(70, int))
    )
    assert report.images == "70 given images"
    assert report.comparison.accuracy_before == report.comparison.accuracy_after
    with pytest.raises(ValueError, match=r"must have the shape \(17, 18, 1\)"):
        export_onnx(small("l2"), tmp_path / "model.onnx", test_images=Images(images[:, :4]))
    with pytest.raises(ValueError, match="at least one image"):
        Images(images[:0])
    with pytest.raises(ValueError, match="one integer for each of the 70"):
        Images(images, labels=np.zeros((70, 3)))


def test_models_that_cannot_be_exported(tmp_path):
    for unknown in (keras.Input((None, 8, 1)), keras.Input((2,), dtype="string")):
        with pytest.raises(ValueError, match="input of numbers, and of known sizes"):
            model = keras.Model(unknown, keras.layers.Identity()(unknown))
            export_onnx(model, tmp_path / "model.onnx")
    image, other = keras.Input((3, 4)), keras.Input((3, 4))
    two = keras.Model([image, other], keras.layers.Add()([image, other]))
    with pytest.raises(ValueError, match="must have one input"):
        export_onnx(two, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="must be a functional"):
        export_onnx(keras.Sequential(), tmp_path / "model.onnx")
    image = keras.Input((4,), dtype="int32")
    table = keras.Model(image, keras.layers.Embedding(256, 3)(image))
    with pytest.raises(ValueError, match="the graph has Gather"):
        export_onnx(table, tmp_path / "model.onnx")
    image = keras.Input((4,))
    unknown = keras.Model(image, keras.layers.Activation("gelu")(image))
    with pytest.raises(ValueError, match="No Op registered for Erfc"):  # tf2onnx has none either
        export_onnx(unknown, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_wheel_carries_kcaps_and_export_only(tmp_path):
    arguments = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    result = python(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(next(tmp_path.glob("kcaps-*.whl"))) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kcaps", "export"}


def test_em_routing_may_differ_by_what_float32_leaves_open(tmp_path):
    keras.utils.set_random_seed(5)
    report = export_onnx(small("em"), tmp_path / "model.onnx")
    assert report.largest_difference <= parity.EM_TOLERANCE


@keras.saving.register_keras_serializable(package="test")
class HalvedCaps(DigitCaps):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training) / 2


class Unregistered(Routing):
    def call(self, inputs, kernel):
        return self.votes(inputs, kernel)[:, 0]


def test_layers_of_the_user(tmp_path):
    image = keras.Input((9, 9, 1))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    capsules = PrimaryCaps(4, 3, 3, strides=2)(x)
    for layer in (HalvedCaps(3, 4, routing="l1"), DigitCaps(3, 4, routing=Unregistered())):
        model = keras.Model(image, CapsuleLength()(layer(capsules)))
        assert export_onnx(model, tmp_path / "model.onnx").largest_difference <= 1e-5


def test_layers_called_twice_and_odd_names(tmp_path, rng):
    image = keras.Input((4, 3))
    length = CapsuleLength(name="length")
    a, b = DigitCaps(3, 4)(image), DigitCaps(2, 4)(image)
    model = keras.Model(image, [length(a), length(b)])
    export_onnx(model, tmp_path / "model.onnx")
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    outputs = onnx_outputs(tmp_path / "model.onnx", x)
    assert {k: v.shape for k, v in outputs.items()} == {
        "class_lengths": (2, 3),
        "poses": (2, 3, 4),
        "length_1": (2, 2),
    }
    np.testing.assert_allclose(outputs["length_1"], model.predict(x, verbose=0)[1], atol=1e-6)
    odd = keras.Model(image, {"MatMul_0_output_0": a, "Mul_0_input_1": b, "Reshape_0": image})
    export_onnx(odd, tmp_path / "model.onnx")
    for outputs in ({"image": a}, {"a": {"b": a}}):
        with pytest.raises(ValueError, match="none of them called 'image'"):
            export_onnx(keras.Model(image, outputs), tmp_path / "model.onnx")


def test_names_of_outputs():
    def names(outputs):
        return list(inference_model(keras.Model(image, outputs)).output)

    image = keras.Input((4, 3))
    first, second = DigitCaps(3, 4)(image), DigitCaps(2, 4)(image)
    lengths, others = CapsuleLength()(first), CapsuleLength()(second)
    assert names(lengths) == ["class_lengths", "poses"]
    assert names({"a": lengths, "b": others}) == ["class_lengths", "poses", "b"]
    model = inference_model(keras.Model(image, {"a": lengths, "class_lengths": others}))
    assert list(model.output) == ["a", "class_lengths", "poses"]
    assert model.output["poses"].shape == (None, 2, 4)  # those that `class_lengths` measures
    assert names({"poses": first, "class_lengths": lengths}) == ["poses", "class_lengths"]
    assert names({"class_lengths": first, "a": lengths}) == ["class_lengths", "a"]
    assert names({"a": image}) == ["a"]
