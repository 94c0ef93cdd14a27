"""Batch normalisation by one operation, against Keras' own."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import FusedBatchNormalization


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "momentum": 0.6}])
def test_fused_normalisation_equals_keras_own(rng, gradient, dtype, options):
    maps = (3 * rng.normal(size=(6, 5, 4, 7)) + 2).astype("float32")
    fused = FusedBatchNormalization(dtype=dtype, **options)
    plain = keras.layers.BatchNormalization(dtype=dtype, **options)
    results = []
    for layer in (fused, plain):
        layer.build(maps.shape)
        for variable in layer.trainable_variables:
            variable.assign(np.linspace(0.5, 2, 7))

        def weighted(x, weights, layer=layer):
            with keras.StatelessScope():  # JAX keeps no averages of a traced call.
                return ops.cast(layer(x, training=True), "float32") * weights

        weights = np.random.default_rng(1).normal(size=maps.shape).astype("float32")
        slope = gradient(weighted, maps, weights)[0]
        layer(maps, training=True)
        results.append(
            [
                slope,
                *layer.get_weights(),
                ops.convert_to_numpy(ops.cast(layer(maps, training=False), "float32")),
            ]
        )
    tolerance = 1e-4 if dtype == "float32" else 0.05
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_fused_normalisation_of_other_inputs_and_its_config(rng):
    vectors = rng.normal(size=(6, 7)).astype("float32")
    fused, plain = FusedBatchNormalization(), keras.layers.BatchNormalization()
    outputs = [ops.convert_to_numpy(x(vectors, training=True)) for x in (fused, plain)]
    np.testing.assert_array_equal(*outputs)
    frozen = FusedBatchNormalization(trainable=False)  # It normalises by the averages.
    maps = rng.normal(size=(6, 2, 2, 7)).astype("float32")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(frozen(maps, training=t)) for t in (0, 1)))
    same = FusedBatchNormalization.from_config(fused.get_config())
    assert same.get_config() == fused.get_config()


@pytest.mark.parametrize("training", [False, True])
def test_scaled_biases(rng, training):
    """A bias of 1/8 of another counts as much, and a step moves it by 64 times as much."""
    maps = rng.normal(size=(6, 5, 4, 7)).astype("float32")
    plain, scaled = FusedBatchNormalization(), FusedBatchNormalization(bias_scale=8)
    for layer in (plain, scaled):
        layer.build(maps.shape)
        layer.beta.assign(np.linspace(-1, 1, 7) / layer.bias_scale)
    outputs = [ops.convert_to_numpy(layer(maps, training=training)) for layer in (plain, scaled)]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    plain.beta.assign(plain.beta - 0.64)  # A gradient of one, and a rate of 0.01.
    scaled.beta.assign(scaled.beta - 0.01 * 8)
    outputs = [ops.convert_to_numpy(layer(maps, training=training)) for layer in (plain, scaled)]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    with pytest.raises(ValueError, match="`bias_scale` must be positive"):
        FusedBatchNormalization(bias_scale=0)
