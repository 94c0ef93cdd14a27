"""Exports of models that compute in half precision: in float32, with their accuracies."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import export.benchmark
import export.onnx
from export import checkpoint, precision, summary, verify
from export.comparing import compare_model
from export.errors import ParityError
from export.half import Half, half_dtypes, in_float32
from export.images import Images
from export.inference import inference_model
from export.onnx import export_onnx
from export.reference import Reference
from export.saved_model import export_saved_model
from exporting import ended, onnx_outputs, recipe_here, small
from kcaps.layers import CapsuleLength, ConcurrentCaps, DigitCaps, PrimaryCaps
from kcaps.routing import Routing

POLICIES = pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
ROUTED = pytest.mark.parametrize("routing", ["dynamic", "l1"])
SLOW = pytest.mark.parametrize(  # convolutions in float16 are slow on a CPU
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.long)]
)


def network(routing):
    return small(routing, decoder_units=(8,))


def made_in(policy, make):
    """Makes a model under a dtype policy, from the same seed under all of them."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        return make()
    finally:
        keras.config.set_dtype_policy("float32")


def twins(policy, make):
    """A model in half precision, and the same network built in float32 with its weights."""
    mixed, exact = made_in(policy, make), made_in("float32", make)
    exact.set_weights(mixed.get_weights())
    return mixed, exact


def given_images(rng, size=70, shape=(17, 18, 1)):
    test = rng.integers(256, size=(size, *shape)).astype("uint8")
    return Images(test, rng.integers(3, size=size), test)


def policies(model):
    return [layer.dtype_policy.name for layer in model._flatten_layers()]


@POLICIES
@ROUTED
def test_the_copy_is_the_network_built_in_float32(rng, policy, routing):
    mixed, exact = twins(policy, lambda: network(routing))
    own = inference_model(mixed, with_decoder=True)
    x = rng.uniform(0, 255, size=(9, 17, 18, 1)).astype("float32")
    before, names = own.predict_on_batch(x), policies(mixed)
    copy = in_float32(own)
    expected = inference_model(exact, with_decoder=True).predict_on_batch(x)
    received = copy.predict_on_batch(x)
    assert set(received) == set(expected) == {"class_lengths", "poses", "reconstruction"}
    for name, value in expected.items():
        assert received[name].dtype == "float32"
        np.testing.assert_array_equal(received[name], value)
        assert np.any(before[name] != value)  # half precision shows
        np.testing.assert_array_equal(own.predict_on_batch(x)[name], before[name])
    assert half_dtypes(copy) == [] and half_dtypes(own) == [policy.removeprefix("mixed_")]
    assert policies(mixed) == names and policy in names


class MeanRouting(Routing):
    def call(self, inputs, kernel):
        return self.votes(inputs, kernel)[:, 0]


class HalvedCaps(DigitCaps):
    """A layer that no config can name: Keras does not know its class."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=training) / 2


def nested():
    inner = network("l2")
    inner.compile("adam")
    image = keras.Input((17, 18, 1))
    return keras.Model(image, keras.Sequential([inner])(layers.Rescaling(0.5)(image)))


def concurrent():
    image = keras.Input((12, 12, 1))
    x = PrimaryCaps(4, 4, 3, strides=2)(layers.Rescaling(1 / 255)(image))
    routed = [DigitCaps(n, 4, routing="inverted_attention") for n in (5, 3)]
    return keras.Model(image, CapsuleLength()(ConcurrentCaps(routed)(x)))


def of_the_user():
    image = keras.Input((12, 12, 1))
    x = PrimaryCaps(4, 4, 3, strides=2)(layers.Rescaling(1 / 255)(image))
    return keras.Model(image, CapsuleLength()(HalvedCaps(3, 4, routing=MeanRouting())(x)))


def cast():
    image = keras.Input((6,), dtype=keras.config.dtype_policy().compute_dtype)
    x = keras.ops.cast(layers.Dense(4)(image), image.dtype)
    return keras.Model(image, layers.Dense(3, dtype=image.dtype, name="scores")(x))


@POLICIES
@pytest.mark.parametrize("make", [nested, concurrent, of_the_user, cast])
def test_layers_inside_of_others_are_in_float32_too(rng, policy, make):
    mixed, exact = twins(policy, make)
    copy = in_float32(inference_model(mixed))
    x = rng.uniform(0, 255, size=(9, *mixed.inputs[0].shape[1:])).astype("float32")
    assert half_dtypes(mixed) and not half_dtypes(copy) and copy.inputs[0].dtype == "float32"
    for name, value in inference_model(exact).predict_on_batch(x).items():
        np.testing.assert_array_equal(copy.predict_on_batch(x)[name], value)


@SLOW
@ROUTED
def test_the_file_computes_in_float32_and_both_accuracies_are_told(tmp_path, rng, policy, routing):
    mixed, exact = twins(policy, lambda: network(routing))
    given = given_images(rng)
    x = given.test.astype("float32")
    before, names = mixed.predict_on_batch(x), policies(mixed)
    path = tmp_path / "model.onnx"
    report = export_onnx(mixed, path, test_images=given, with_decoder=True)
    assert report.largest_difference <= 1e-5  # to the copy, not to half precision
    outputs = onnx_outputs(path, x)
    for name, value in inference_model(exact, True).predict_on_batch(x).items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)
    found = [
        float(np.mean(x.argmax(-1) == given.labels)) for x in (before, outputs["class_lengths"])
    ]
    content = json.loads((tmp_path / "model.onnx.json").read_text())
    assert content["accuracy"] == {"before": found[0], "after": found[1]}
    dtype = policy.removeprefix("mixed_")
    expected = np.abs(before - exact.predict_on_batch(x)).max()
    assert content["half_precision"]["dtype"] == dtype
    assert content["half_precision"]["accuracy"] == found[0]
    assert content["half_precision"]["difference"] >= expected > 0
    changed = before.argmax(-1) != outputs["class_lengths"].argmax(-1)
    assert content["half_precision"]["changed"] == changed.sum()
    assert [step["step"] for step in report.steps][:2] == ["float32", "fold"]
    np.testing.assert_array_equal(mixed.predict_on_batch(x), before)
    assert policies(mixed) == names
    comparison, _ = verify.verify_onnx(mixed, path, test_images=given)
    assert comparison == report.comparison


@SLOW
def test_lower_precisions_are_judged_by_the_model_itself(tmp_path, rng, policy):
    mixed = made_in(policy, lambda: network("l1"))
    given = given_images(rng)
    classes = mixed.predict_on_batch(given.test.astype("float32")).argmax(-1)
    given = Images(given.test, classes, given.calibration)  # the model itself is always right
    path = tmp_path / "model.onnx"
    for kind in ("float16", "int8"):
        options = {"precision": kind, "max_accuracy_drop": 100}
        report = export_onnx(mixed, path, test_images=given, **options)
        received = onnx_outputs(path, given.test.astype("float32"))["class_lengths"].argmax(-1)
        assert report.comparison.accuracy_before == 1.0
        assert report.comparison.accuracy_after == np.mean(received == classes)
        assert report.about["metadata"]["precision"] == kind
    own = inference_model(mixed)
    copy = in_float32(own)

    def always_wrong(images):
        lengths = copy.predict_on_batch(images)["class_lengths"]
        return {**copy.predict_on_batch(images), "class_lengths": -lengths}

    comparison = compare_model(Reference(copy, own), always_wrong, given, 2.0, same_classes=False)
    with pytest.raises(ParityError, match=r"int8 loses 100.00 points .* from 100.00 to 0.00 %"):
        precision.check_accuracy(comparison, "int8", 0.5)


def test_a_fair_bound():
    def told(gained, lost, images=1000):
        return Half(
            dtype="bfloat16",
            difference=0.01,
            images=images,
            changed=gained + lost + 1,
            gained=gained,
            lost=lost,
            accuracy=0.9,
        ).warning

    for gained, lost, images in [
        (0, 0, 1000),
        (0, 4, 1000),  # as likely as one side of a coin four times
        (4, 0, 1000),
        (50, 36, 1000),
        (0, 9, 9000),  # a tenth of a point
        (0, 9, 10_000),
    ]:
        assert told(gained, lost, images) is None
    assert told(0, 5).startswith(
        "test accuracy is 90.00 % as Keras computes the model in bfloat16 and 89.50 % in float32, "
        "in which it is exported: 0 images are right in float32 alone, 5 in bfloat16 alone"
    )
    assert "and 90.50 % in float32" in told(5, 0)
    assert "and 87.00 % in float32" in told(50, 80)
    assert told(0, 11, 10_000) is not None
    assert Half(dtype="float16", difference=0.1, images=3, changed=3).warning is None
    assert str(Half(dtype="float16", difference=0.1, images=3)).endswith("float16 by 1.0e-01")


def test_another_accuracy_is_a_warning(tmp_path, rng, monkeypatch):
    """Where the copy is right and the model is not, the report and the summary line say so."""
    mixed, exact = twins("mixed_bfloat16", lambda: network("dynamic"))
    x = rng.integers(256, size=(70, 17, 18, 1))
    given = Images(x, exact.predict_on_batch(x.astype("float32")).argmax(-1))

    class Wrong(keras.Model):
        def predict_on_batch(self, images):
            outputs = super().predict_on_batch(images)
            return {**outputs, "class_lengths": -outputs["class_lengths"].astype("float32")}

    own, half = inference_model(exact), inference_model(mixed)
    reference = Reference(own, Wrong(half.inputs, half.output))
    comparison = compare_model(reference, own.predict_on_batch, given, 1e-5)
    assert (comparison.accuracy_before, comparison.accuracy_after) == (0.0, 1.0)
    assert comparison.half.gained == comparison.half.changed == 70 and comparison.half.lost == 0
    assert [line for line in comparison.warnings if "test accuracy is 0.00 % as Keras" in line]
    monkeypatch.setattr(Reference, "of", lambda *args: reference)
    report = export_onnx(mixed, tmp_path / "model.onnx", test_images=given)
    content = json.loads((tmp_path / "model.onnx.json").read_text())
    assert content["warnings"] == report.warnings == comparison.warnings
    (tmp_path / "model.keras").touch()
    line = summary.summarize(tmp_path)
    content["half_precision"]["dtype"] = "two\nlines"
    (tmp_path / "model.onnx.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'dtype' must be the name of a dtype"):
        summary.summarize(tmp_path)
    assert "exported in float32: test accuracy 0.00 % before, 100.00 % after" in line
    assert f"warning: {comparison.warnings[0]}" in line


@SLOW
@ROUTED
def test_a_saved_model_stays_in_half_precision(tmp_path, rng, policy, routing):
    mixed = made_in(policy, lambda: network(routing))
    given = given_images(rng)
    report = export_saved_model(mixed, tmp_path / "saved", test_images=given, with_decoder=True)
    assert report.about["precision"] == policy.removeprefix("mixed_")
    assert report.comparison.half is None and report.largest_difference <= 1e-6
    x = given.test.astype("float32")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    served = loaded.serve(x)["class_lengths"]
    expected = mixed.predict_on_batch(x)
    np.testing.assert_allclose(served, expected, atol=1e-6)
    accuracy = np.mean(expected.argmax(-1) == given.labels)
    content = json.loads((tmp_path / "saved.json").read_text())
    assert content["accuracy"] == {"before": accuracy, "after": accuracy}


@keras.saving.register_keras_serializable(package="test_half")
class Stubborn(layers.Layer):
    """A layer that holds another one in half precision, whatever its own policy is."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(4, dtype="mixed_bfloat16", name="inner")

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, x):
        return self.inner(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


@keras.saving.register_keras_serializable(package="test_half")
class Scaled(layers.Layer):
    """A layer with an array that may have changed since it was made."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = np.linspace(1, 2, 4, dtype="float32")

    def call(self, x):
        return x * keras.ops.cast(self.scale, x.dtype)


class NoConfig(layers.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def get_config(self):
        raise NotImplementedError("no config")

    def call(self, x):
        return x * self.size


def around(layer):
    image = keras.Input((4,))
    x = layer(layers.Dense(4, dtype="mixed_bfloat16")(image))
    return keras.Model(image, layers.Dense(3, dtype="mixed_bfloat16")(x))


def changed():
    layer = Scaled()
    layer.scale = np.linspace(1, 3, 4, dtype="float32")
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Stubborn, "layer 'inner' computes in bfloat16 whatever its policy is"),
        (changed, "Scaled 'scaled.*' holds an array that its config does not"),
        (lambda: NoConfig(2), "the copy fails with NotImplementedError: no config"),
        (lambda: layers.Lambda(lambda x: x + 1), "the copy fails with ValueError: .*Lambda"),
    ],
)
def test_models_without_a_copy(tmp_path, make, message):
    with pytest.raises(ValueError, match=rf"in bfloat16, .* to float32: {message}") as error:
        export_onnx(around(make()), tmp_path / "model.onnx")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    assert export_onnx(around(Scaled()), tmp_path / "model.onnx").largest_difference <= 1e-5


def test_a_program_ends_with_one_line(monkeypatch, capsys, tmp_path):
    around(Stubborn()).save(tmp_path / "model.keras")
    data = {"name": "digits", "title": "digits", "loader": "synthetic"}
    run = checkpoint.run_content("own", data, ["a", "b", "c"])
    (tmp_path / "run.json").write_text(json.dumps(run))
    before = sorted(tmp_path.iterdir())
    line = ended(monkeypatch, capsys, export.onnx.main, 2, "--model", tmp_path)
    assert "cannot be copied to float32: layer 'inner' computes in bfloat16" in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.long
@POLICIES
def test_programs_on_a_recipes_checkpoint(monkeypatch, capsys, tmp_path, policy):
    folder = tmp_path / "ckpt"
    arguments = ("--limit", 600, "--epochs", 2, "--precision", policy, "--output", folder)
    result = recipe_here("digits", *arguments)
    assert result.returncode == 0, result.stderr
    dtype = policy.removeprefix("mixed_")

    def program(main, *arguments):
        monkeypatch.setattr("sys.argv", ["program", "--model", str(folder), *arguments])
        main()
        return capsys.readouterr().out

    text = program(export.onnx.main)
    assert re.search(rf"% before \(Keras in {dtype}\), \d+\.\d\d % after", text)
    assert f"✓ float32    layers that Keras computes in {dtype} are exported in float32" in text
    recorded = json.loads((folder / "report.json").read_text())["test_accuracy"]
    content = json.loads((folder / "model.onnx.json").read_text())
    assert content["accuracy"]["before"] == pytest.approx(recorded)
    assert f"Keras in {dtype}" in program(verify.main)
    assert f"computed in {dtype} by Keras, exported in float32" in program(summary.main)
    text = program(export.benchmark.main, "--batch-sizes", "2", "--repeats", "2")
    assert "ONNX Runtime, CPU, float32" in text and f"Keras, predict_on_batch, {dtype}" in text
    for kind in ("float16", "int8"):
        options = ("--precision", kind, "--overwrite", "--max-accuracy-drop", "5")
        assert f"✓ {kind}" in program(export.onnx.main, *options)
        assert f"Keras in {dtype}" in program(verify.main, "--max-accuracy-drop", "5")
