"""The fast activation, against its formula, the exact unit and central differences."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import QuickGELU


@pytest.mark.parametrize("training", [None, False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("mixed_bfloat16", 0.02)])
def test_values_and_slopes(rng, gradient, training, dtype, tolerance):
    x = np.concatenate([rng.normal(size=60) * 3, [0, -30, 30, -200, 200]]).astype("float32")
    layer = QuickGELU(dtype=dtype)

    def outputs(x):
        return ops.cast(layer(x, training=training), "float32")

    sigmoid = 1 / (1 + np.exp(-1.702 * x.astype("float64")))
    expected = x * sigmoid
    np.testing.assert_allclose(outputs(x), expected, rtol=tolerance, atol=tolerance)
    slope = sigmoid * (1 + 1.702 * x * (1 - sigmoid))
    np.testing.assert_allclose(gradient(outputs, x), slope, rtol=tolerance, atol=tolerance)


def test_is_close_to_the_exact_unit():
    x = np.linspace(-8, 8, 4001, dtype="float32")
    exact = keras.ops.convert_to_numpy(keras.ops.gelu(x, approximate=False))
    difference = np.abs(ops.convert_to_numpy(QuickGELU()(x)) - exact).max()
    assert 0.02 < difference < 0.021


def test_trains_in_a_model_and_is_saved(rng, tmp_path):
    maps = rng.normal(size=(8, 4, 4, 2)).astype("float32")
    model = keras.Sequential([keras.layers.Conv2D(3, 3), QuickGELU(), keras.layers.Flatten()])
    model.compile("adam", loss="mse")
    model.fit(maps, np.zeros((8, 12)), epochs=1, verbose=0)
    assert model.layers[1].compute_output_shape((None, 2, 2, 3)) == (None, 2, 2, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(maps), model.predict(maps))
