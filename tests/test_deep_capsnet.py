"""The deep capsule network: its form for any image, its start, training, saving and export."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.models import deep_capsnet
from kcaps.routing import ROUTINGS


def small(shape=(12, 12, 1), **options):
    return deep_capsnet(shape, 3, **{"widths": (8, 16), **options})


@pytest.mark.parametrize(
    ("shape", "positions"),
    [
        ((28, 28, 1), (3, 3)),
        ((32, 32, 3), (3, 3)),
        ((8, 8, 1), (3, 3)),
        ((96, 96, 3), (2, 2)),
        ((224, 224, 3), (3, 3)),
        ((16, 200, 3), (3, 3)),
    ],
)
def test_no_layer_grows_with_the_image(shape, positions):
    model = deep_capsnet(shape, 10, widths=(8, 16, 16))
    assert model.get_layer("strongest_features").input.shape == (None, *positions, 16)
    assert model.class_inputs.shape == (None, 33, 8)
    assert model.output_shape == (None, 10)
    assert model.count_params() < 80_000


def test_parameters_at_full_size():
    """Counted by hand: convolutions, biases and averages of norms, capsules."""
    widths = [24, 64, 64, 256, 256, 256, 256]
    kernels = sum(9 * a * b for a, b in zip(widths, widths[1:], strict=False))
    norms = 3 * sum(widths[1:])  # bias, mean, variance
    whitening = 3 + 12 * 24 + 24
    capsules = 256 * 256 + 256 + (32 + 1) * 8 * 10 * 16
    expected = kernels + norms + whitening + capsules
    assert deep_capsnet((32, 32, 3), 10).count_params() == expected


@pytest.mark.parametrize("convolutions", [1, 2, 3])
def test_blocks_have_the_convolutions_asked_for(convolutions):
    model = small(convolutions=convolutions)
    found = [layer for layer in model.layers if type(layer) is keras.layers.Conv2D]
    assert len(found) == 2 * convolutions
    bridges = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert len(bridges) == (2 if convolutions > 2 else 0)


SHORT = ("l2", "uniform")  # Those that compile fastest stand for all in the short suite.


@pytest.mark.parametrize(
    "routing", [pytest.param(x, marks=[] if x in SHORT else pytest.mark.long) for x in ROUTINGS]
)
def test_learns_with_each_routing(rng, routing):
    labels = np.arange(60) % 3
    images = rng.uniform(0, 60, (60, 12, 12, 1)).astype("float32")
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += 150  # one of three stripes
    model = small(routing=routing)
    model.get_layer("whitening").adapt(images)
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, loss="length_cross_entropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=20, epochs=8, verbose=0)
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"] > 0.9


def test_saved_as_it_is(rng, tmp_path):
    images = rng.uniform(0, 255, (5, 12, 12, 1)).astype("float32")
    model = small(convolutions=3)
    model.get_layer("whitening").adapt(images)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))


def test_mixed_precision_lengths_are_close(rng):
    images = rng.uniform(0, 255, (5, 12, 12, 1)).astype("float32")
    plain = small()
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = small()
    mixed.set_weights(plain.get_weights())
    assert keras.backend.standardize_dtype(mixed(images).dtype) == "float32"
    lengths = [ops.convert_to_numpy(model(images)) for model in (plain, mixed)]
    np.testing.assert_allclose(*lengths, atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (7, 8, 1)}, "at least 8 × 8 pixels"),
        ({"num_classes": 0}, "`num_classes` must be a positive integer"),
        ({"widths": ()}, "`widths` must be the filters of each block"),
        ({"widths": (8, 0)}, "`widths` must be a positive integer"),
        ({"convolutions": 0}, "`convolutions` must be a positive integer"),
        ({"input_shape": None}, "`input_shape` is needed where there are no `weights`"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        deep_capsnet(**{"input_shape": (12, 12, 1), "num_classes": 3, **options})
