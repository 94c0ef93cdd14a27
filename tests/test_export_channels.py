"""What layers do to channels, multiplied into convolutions: values are those of the model."""

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from export.fold import fold
from export.onnx import export_onnx
from exporting import onnx_outputs
from kcaps.layers import FusedBatchNormalization
from kcaps.models import deep_capsnet, efficient_capsnet

SHAPE = (9, 8, 4)


def train(model, rng):
    """Gives batch normalisations the statistics and weights of a trained model, signs included."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            train(layer, rng)
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.variables:
                variable.assign(rng.normal(size=variable.shape))
            layer.moving_variance.assign(rng.uniform(0.1, 3, layer.moving_variance.shape))
    return model


def folded_layers(model, rng, expected):
    """Returns the layers of the folded model, which computes the same and tells these lines."""
    x = rng.normal(size=(3, *model.input_shape[1:])).astype("float32")
    before = model.predict(x, verbose=0)
    folded, lines = fold(model)
    assert lines == expected
    after = folded.predict(x, verbose=0)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)  # It is not changed.
    return folded.layers


def chain(rng, *parts):
    image = keras.Input(SHAPE)
    x = image
    for part in parts:
        x = part(x)
    return train(keras.Model(image, layers.Activation("relu")(x)), rng)


def once(times="once"):
    return [f"batch normalisation multiplied into convolutions, {times}"]


def normalizations(found):
    return [layer for layer in found if isinstance(layer, layers.BatchNormalization)]


NORMALIZATIONS = {
    "keras": lambda: layers.BatchNormalization(),
    "without_scale": lambda: layers.BatchNormalization(scale=False, epsilon=0.1),
    "without_centre": lambda: layers.BatchNormalization(center=False, axis=3),
    "kcaps": lambda: FusedBatchNormalization(bias_scale=8.0),
}
FOLDED = {
    "after": lambda norm: (layers.Conv2D(5, 3, padding="same"), norm),
    "after_without_bias": lambda norm: (layers.Conv2D(5, 3, 2, use_bias=False), norm),
    "after_depthwise": lambda norm: (layers.DepthwiseConv2D(3, depth_multiplier=2), norm),
    "before": lambda norm: (layers.Conv2D(5, 3, activation="relu"), norm, layers.Conv2D(6, (3, 2))),
    "before_depthwise": lambda norm: (
        *(layers.Activation("tanh"), norm),
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
    ),
}


@pytest.mark.parametrize("norm", NORMALIZATIONS)
@pytest.mark.parametrize("place", FOLDED)
def test_normalisation_beside_a_convolution(rng, place, norm):
    model = chain(rng, *FOLDED[place](NORMALIZATIONS[norm]()))
    assert not normalizations(folded_layers(model, rng, once()))


def test_normalisation_after_a_maximum(rng):
    """Only a factor above zero has the maximum of its products where the maximum is."""

    def model(scale):
        convolution = layers.Conv2D(5, 3, use_bias=False)
        return chain(
            rng, convolution, layers.MaxPooling2D(2), layers.BatchNormalization(scale=scale)
        )

    assert not normalizations(folded_layers(model(scale=False), rng, once()))
    signs = model(scale=True)
    (norm,) = normalizations(signs.layers)
    norm.gamma.assign([1, 2, -1, 1, 1])
    assert fold(signs) == (signs, [])
    norm.gamma.assign([1, 2, 0.5, 1, 1])
    assert not normalizations(folded_layers(signs, rng, once()))


def test_both_sides_and_a_scale_into_one_convolution(rng):
    model = chain(
        rng,
        *(layers.Activation("tanh"), layers.BatchNormalization(name="first")),
        *(layers.Conv2D(5, 3), layers.BatchNormalization(name="second")),
    )
    assert not normalizations(folded_layers(model, rng, once("2 times")))
    scaled = chain(
        rng,
        layers.Rescaling(0.5, name="scale"),
        *(layers.Conv2D(5, 3, padding="same", name="conv"), layers.BatchNormalization()),
    )
    lines = ["scale multiplied into conv", *once()]
    assert not normalizations(folded_layers(scaled, rng, lines))
    assert fold(scaled, scales=False)[1] == once()


def test_models_inside_models(rng):
    image = keras.Input(SHAPE)
    inner = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(5, 3), layers.BatchNormalization()])
    model = train(keras.Model(image, inner(image)), rng)
    (_, folded) = folded_layers(model, rng, once())
    assert not normalizations(folded.layers)


KEPT = {
    "padding": lambda: (
        *(layers.Activation("relu"), layers.BatchNormalization()),
        layers.Conv2D(5, 3, padding="same"),
    ),
    "groups": lambda: (layers.Conv2D(4, 3, groups=2), layers.BatchNormalization()),
    "activation": lambda: (layers.Conv2D(5, 3, activation="relu"), layers.BatchNormalization()),
    "rows": lambda: (layers.Conv2D(5, 3), layers.BatchNormalization(axis=1)),
    "half": lambda: (layers.Conv2D(5, 3, dtype="mixed_bfloat16"), layers.BatchNormalization()),
}


@pytest.mark.parametrize("parts", KEPT.values(), ids=list(KEPT))
def test_normalisations_that_stay(rng, parts):
    model = chain(rng, *parts())
    assert fold(model) == (model, [])


def test_normalisations_of_the_batch_and_of_what_others_read_stay(rng):
    image = keras.Input(SHAPE)
    maps = layers.Conv2D(5, 3)(image)
    of_batch = layers.BatchNormalization()(maps, training=True)
    twice = layers.BatchNormalization()
    for outputs in (
        of_batch,
        {"a": layers.BatchNormalization()(maps), "b": maps},  # an output itself
        {"a": layers.BatchNormalization()(maps), "b": layers.Activation("relu")(maps)},
        twice(twice(maps)),
    ):
        model = train(keras.Model(image, outputs), rng)
        assert fold(model) == (model, [])


@pytest.mark.parametrize(
    ("make", "times"),
    [
        (lambda: efficient_capsnet((28, 28, 1), 10), 4),
        (lambda: deep_capsnet((32, 32, 3), 10, widths=(8, 16, 16)), 6),
    ],
    ids=["efficient", "deep"],
)
def test_files_of_the_networks_have_none(rng, tmp_path, make, times):
    model = train(make(), rng)
    images = rng.integers(256, size=(4, *model.input_shape[1:])).astype("float32")
    expected = model.predict(images, verbose=0)
    report = export_onnx(model, tmp_path / "model.onnx")
    assert report.largest_difference <= 1e-5
    assert f"batch normalisation multiplied into convolutions, {times} times" in str(report.steps)
    outputs = onnx_outputs(tmp_path / "model.onnx", images)
    np.testing.assert_allclose(outputs["class_lengths"], expected, atol=1e-5)
    graph = onnx.load(tmp_path / "model.onnx").graph
    of_channels = {x.name for x in graph.initializer if len(x.dims) == 4 and x.dims[2:] == [1, 1]}
    read = {name for node in graph.node if node.op_type in ("Add", "Mul") for name in node.input}
    assert not read & of_channels and "BatchNormalization" not in {x.op_type for x in graph.node}
