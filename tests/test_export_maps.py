"""Capsule maps in exported files: every routing, computed by others than Keras."""

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf

from export.onnx import export_onnx
from export.parity import EM_TOLERANCE
from export.saved_model import export_saved_model
from exporting import FORBIDDEN, onnx_outputs
from kcaps.layers import CapsuleLength, ConvCaps2D, DigitCaps, PrimaryCaps
from kcaps.routing import ROUTINGS


def network(routing, padding):
    image = keras.Input((13, 12, 1), name="image")
    x = PrimaryCaps(4, 4, 3, strides=2, as_map=True)(image)
    x = ConvCaps2D(3, 4, (3, 2), (2, 1), padding, routing=routing)(x)
    x = ConvCaps2D(3, 4, 1, routing=routing)(x)
    return keras.Model(image, CapsuleLength()(DigitCaps(3, 4, routing=routing)(x)))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_onnx_files_compute_what_keras_does(rng, tmp_path, routing, padding):
    model = network(routing, padding)
    # Which way EM rounds depends on the network's seed: eight of these differed by up to 1.8e-05.
    allowed = EM_TOLERANCE if routing == "em" else 1e-5
    report = export_onnx(model, tmp_path / "model.onnx")
    assert report.largest_difference <= allowed
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert not {node.op_type for node in graph.node} & FORBIDDEN
    for batch in (1, 5):
        images = rng.uniform(size=(batch, 13, 12, 1)).astype("float32")
        outputs = onnx_outputs(tmp_path / "model.onnx", images)
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(outputs["class_lengths"], expected, atol=allowed)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_saved_models_compute_what_keras_does(rng, tmp_path, routing):
    model = network(routing, "same")
    report = export_saved_model(model, tmp_path / "saved_model")
    assert report.largest_difference <= 1e-5
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    images = rng.uniform(size=(3, 13, 12, 1)).astype("float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(served.serve(images)["class_lengths"], expected, atol=1e-5)


def test_lengths_of_maps_are_exported(rng, tmp_path):
    """A network that tells the classes of each pixel has maps as its output."""
    image = keras.Input((9, 8, 1), name="image")
    x = PrimaryCaps(4, 4, 3, padding="same", as_map=True)(image)
    model = keras.Model(image, CapsuleLength()(ConvCaps2D(5, 4, 3, padding="same")(x)))
    assert export_onnx(model, tmp_path / "model.onnx").largest_difference <= 1e-5
    images = rng.uniform(size=(3, 9, 8, 1)).astype("float32")
    outputs = onnx_outputs(tmp_path / "model.onnx", images)
    expected = model.predict(images, verbose=0)
    assert expected.shape == (3, 9, 8, 5)
    np.testing.assert_allclose(outputs["class_lengths"], expected, atol=1e-5)
    assert outputs["poses"].shape == (3, 9, 8, 5, 4)
