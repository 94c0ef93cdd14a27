"""Coefficients and scales multiplied into kernels."""

import keras
import numpy as np
import onnx
import pytest

from export.fold import fold
from export.inference import inference_model
from export.onnx import export_onnx
from export.saved_model import export_saved_model
from exporting import FORBIDDEN, onnx_outputs
from kcaps.layers import CapsuleLength, ConvCaps2D, DigitCaps, PrimaryCaps
from kcaps.models import capsnet
from kcaps.routing import UniformRouting

TYPES = 6


@pytest.fixture
def images(rng):
    return rng.integers(256, size=(5, 19, 18, 1)).astype("float32")


def network(coefficients, routing="l1"):
    model = capsnet((19, 18, 1), 3, routing, filters=4, num_primary_capsules=TYPES)
    model.get_layer("digit_caps").routing.coefficients.assign(coefficients)
    return model


def coefficients(rng, types):
    """Random coefficients, zero but at the given types of primary capsules."""
    array = rng.normal(size=(2, TYPES, 3))  # two positions
    array[:, np.setdiff1d(np.arange(TYPES), types)] = 0
    return array.reshape(-1, 3)


@pytest.mark.parametrize("routing", ["l1", "l2"])
def test_folded_models_compute_the_same(rng, images, routing):
    model = inference_model(network(coefficients(rng, range(TYPES)), routing), with_decoder=True)
    folded, lines = fold(model)
    assert lines == [
        "rescaling multiplied into conv",
        "digit_caps: coefficients of 36 pairs multiplied into the kernel",
    ]
    names = {type(layer).__name__ for layer in folded.layers}
    assert "FoldedCaps" in names and not names & {"DigitCaps", "Rescaling"}
    expected, received = model.predict(images, verbose=0), folded.predict(images, verbose=0)
    for name, value in expected.items():
        scale = max(1, np.abs(value).max())
        np.testing.assert_allclose(received[name] / scale, value / scale, atol=2e-6)


def test_equal_couplings_are_folded_too(rng, images, tmp_path):
    model = capsnet((19, 18, 1), 3, "uniform", filters=4, num_primary_capsules=TYPES)
    folded, lines = fold(model)
    assert lines[1] == "digit_caps: coefficients of 36 pairs multiplied into the kernel"
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(folded.predict(images, verbose=0), expected, atol=1e-6)
    assert export_onnx(model, tmp_path / "model.onnx").largest_difference <= 1e-5


def test_types_without_coefficients_leave_the_convolution(rng, images, tmp_path):
    array = coefficients(rng, types=[1, 4])
    array[7] = 0  # a capsule of a type that stays
    model = network(array)
    folded, lines = fold(inference_model(model))
    assert lines[1].endswith("27 of them zero; 4 types of primary_caps removed")
    assert folded.get_layer("primary_caps").conv.kernel.shape[-1] == 2 * 8
    assert folded.get_layer("digit_caps").kernel.shape == (2 * 2 * 8, 3 * 16)
    np.testing.assert_allclose(
        folded.predict(images, verbose=0)["class_lengths"],
        model.predict(images, verbose=0),
        atol=1e-6,
    )
    small, whole = tmp_path / "small.onnx", tmp_path / "whole.onnx"
    assert export_onnx(model, small).largest_difference <= 1e-5
    assert export_saved_model(model, tmp_path / "saved_model").largest_difference <= 1e-5
    export_onnx(network(coefficients(rng, range(TYPES))), whole)
    assert small.stat().st_size < 0.6 * whole.stat().st_size


def test_all_coefficients_zero(images, tmp_path):
    report = export_onnx(network(np.zeros((2 * TYPES, 3))), tmp_path / "model.onnx")
    outputs = onnx_outputs(tmp_path / "model.onnx", images)
    assert report.largest_difference == 0 and not outputs["poses"].any()


def test_capsules_that_others_read_stay(rng):
    image = keras.Input((9, 9, 2))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    primary = PrimaryCaps(4, 3, 3, strides=3)(keras.layers.Conv2D(5, 1)(scaled))
    first = DigitCaps(3, 4, routing="l1", name="first")
    second = DigitCaps(2, 4, routing="l2", name="second")
    poses = [first(primary), second(primary)]
    first.routing.coefficients.assign(np.zeros((36, 3)))
    for outputs in (
        {"a": CapsuleLength()(poses[0]), "b": CapsuleLength()(poses[1])},  # two readers
        {"a": CapsuleLength()(poses[0]), "b": primary, "c": scaled},  # one, and an output
    ):
        model = keras.Model(image, outputs)
        folded, _ = fold(model)
        x = rng.uniform(0, 255, size=(2, 9, 9, 2)).astype("float32")
        expected, received = model.predict(x, verbose=0), folded.predict(x, verbose=0)
        for name, value in expected.items():
            np.testing.assert_allclose(received[name], value, atol=1e-5)


def test_models_inside_models(rng, images, tmp_path):
    inner = network(coefficients(rng, [0, 1]))
    image = keras.Input((19, 18, 1))
    outer = keras.Sequential([image, keras.layers.Rescaling(2.0), inner])
    wrapped = keras.Model(image, keras.Sequential([inner])(keras.layers.Rescaling(2.0)(image)))
    for model in (outer, wrapped):
        report = export_onnx(model, tmp_path / "model.onnx")
        assert {row.output for row in report.rows} == {"class_lengths", "poses", "class"}
        assert "4 types of primary_caps removed" in report.steps[0]["result"]
        assert report.largest_difference <= 1e-5


def test_a_sequential_model_inside(images, tmp_path):
    layers = [keras.layers.Rescaling(0.1), keras.layers.Conv2D(4, 9), PrimaryCaps(2, 3, 9)]
    inner = keras.Sequential([keras.Input((19, 18, 1)), *layers, DigitCaps(3, 4, routing="l2")])
    image = keras.Input((19, 18, 1))
    model = keras.Model(image, CapsuleLength()(inner(image)))
    report = export_onnx(model, tmp_path / "model.onnx")
    assert "multiplied into the kernel" in report.steps[0]["result"]
    expected = model.predict(images, verbose=0)
    outputs = onnx_outputs(tmp_path / "model.onnx", images)
    np.testing.assert_allclose(outputs["class_lengths"], expected, atol=1e-5)


def test_nothing_to_fold_is_the_model_itself():
    image = keras.Input((4, 3))
    model = keras.Model(image, {"poses": DigitCaps(3, 4)(image)})
    folded, lines = fold(model)
    assert folded is model and lines == []


def test_scales_that_are_not_plain_stay(rng):
    image = keras.Input((5, 5, 3))
    offset = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    by_channel = keras.layers.Rescaling([1.0, 0.5, 0.1])(image)
    half = keras.layers.Conv2D(2, 3, dtype="mixed_float16")(keras.layers.Rescaling(0.1)(image))
    outputs = {
        "a": keras.layers.Conv2D(2, 3)(offset),
        "b": keras.layers.Conv2D(2, 3)(by_channel),
        "c": half,
    }
    assert fold(keras.Model(image, outputs))[1] == []
    assert fold(network(np.ones((2 * TYPES, 3))), scales=False)[1] == [
        "digit_caps: coefficients of 36 pairs multiplied into the kernel"
    ]


def maps_network(rng, routing, with_zeros=False):
    """A network with capsule maps and random coefficients, of which one type may have none."""
    image = keras.Input((13, 12, 1), name="image")
    x = PrimaryCaps(TYPES, 4, 3, strides=2, as_map=True)(image)
    x = ConvCaps2D(3, 4, (3, 2), (2, 1), "same", routing=routing, name="maps")(x)
    model = keras.Model(image, CapsuleLength()(DigitCaps(3, 4, name="digits")(x)))
    if routing != "uniform":
        array = rng.normal(size=(3 * 2, TYPES, 3))
        array[:, [0, 2]] *= not with_zeros
        model.get_layer("maps").routing.coefficients.assign(array.reshape(-1, 3))
    return model


@pytest.mark.parametrize("routing", ["l1", "l2", "uniform"])
def test_maps_with_fixed_couplings_become_a_convolution(rng, tmp_path, routing):
    model = maps_network(rng, routing)
    images = rng.uniform(size=(5, 13, 12, 1)).astype("float32")
    folded, lines = fold(model)
    assert lines == ["maps: coefficients of 108 pairs multiplied into the kernel"]
    layer = folded.get_layer("maps")
    assert type(layer).__name__ == "FoldedConvCaps"
    assert layer.conv.kernel.shape == (3, 2, TYPES * 4, 3 * 4) and not layer.conv.use_bias
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(folded.predict(images, verbose=0), expected, atol=1e-6)
    report = export_onnx(model, tmp_path / "model.onnx")
    assert report.largest_difference <= 1e-5
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node].count("Conv") == 2
    assert not {node.op_type for node in graph.node} & FORBIDDEN
    outputs = onnx_outputs(tmp_path / "model.onnx", images)
    np.testing.assert_allclose(outputs["class_lengths"], expected, atol=1e-5)


def test_types_without_coefficients_leave_the_convolution_under_maps(rng, tmp_path):
    model = maps_network(rng, "l1", with_zeros=True)
    images = rng.uniform(size=(5, 13, 12, 1)).astype("float32")
    folded, lines = fold(model)
    assert lines[0].endswith("36 of them zero; 2 types of primary_caps removed")
    assert folded.get_layer("maps").conv.kernel.shape == (3, 2, (TYPES - 2) * 4, 3 * 4)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(folded.predict(images, verbose=0), expected, atol=1e-6)
    assert export_onnx(model, tmp_path / "model.onnx").largest_difference <= 1e-5


def test_subclasses_of_maps_and_of_their_routings_stay(rng):
    class Longer(ConvCaps2D):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs, training)

    class Negative(UniformRouting):
        def iterate(self, inputs, kernel):
            for couplings, poses in super().iterate(inputs, kernel):
                yield couplings, -poses

    maps = keras.Input((5, 4, 2, 3))
    for layer in (Longer(3, 4, 2, routing="l2"), ConvCaps2D(3, 4, 2, routing=Negative())):
        assert fold(keras.Model(maps, layer(maps)))[1] == []
