"""The whitening of patches, against loops over patches."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import Whitening


@pytest.fixture
def images(rng):
    """Smooth images, whose neighbouring pixels are alike, with channels that differ in unit."""
    noise = rng.normal(size=(30, 9, 8, 3))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)
    return (smooth * [40, 10, 1] + [120, 30, 0.5]).astype("float32")


def patches_of(images, rows, columns):
    """All patches of images, one by one, each flattened."""
    found = []
    for image in images.astype("float64"):
        for y in range(image.shape[0] - rows + 1):
            for x in range(image.shape[1] - columns + 1):
                found.append(image[y : y + rows, x : x + columns].ravel())
    return np.array(found)


@pytest.mark.parametrize("size", [(2, 2), (1, 3)])
def test_features_of_adapted_images_are_white(images, size):
    layer = Whitening(size, epsilon=1e-9)
    layer.adapt(images)
    features = ops.convert_to_numpy(layer(images))
    filters = 3 * size[0] * size[1]
    assert features.shape == (30, 10 - size[0], 9 - size[1], 2 * filters)
    first = features[..., :filters].reshape(-1, filters).astype("float64")
    np.testing.assert_allclose(first.T @ first / len(first), np.eye(filters), atol=2e-3)
    np.testing.assert_allclose(features[..., filters:], -features[..., :filters], atol=1e-5)


def test_features_equal_a_loop_over_patches(images):
    layer = Whitening(epsilon=0.01)
    layer.adapt(images[:20])
    mean = np.tile(patches_of(images[:20], 2, 2).reshape(-1, 3).mean(0), 4)
    centred = patches_of(images[:20], 2, 2) - mean
    values, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    scaled = directions / np.sqrt(values + 0.01 * values.mean())
    expected = (patches_of(images, 2, 2) - mean) @ scaled
    features = ops.convert_to_numpy(layer(images))[..., :12].reshape(-1, 12)
    signs = np.sign(np.sum(features * expected, axis=0))  # Each direction has two.
    np.testing.assert_allclose(features * signs, expected, atol=2e-3)


def test_batches_count_as_their_images_do(images):
    whole, parts = Whitening(), Whitening()
    whole.adapt(images)
    parts.adapt((images[n : n + 7], None) for n in range(0, 30, 7))
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_unit_of_pixels_does_not_matter(images):
    features = []
    for factor in (1.0, 1 / 255):
        layer = Whitening()
        layer.adapt(images * factor)
        features.append(ops.convert_to_numpy(layer(images * factor)))
    np.testing.assert_allclose(*features, atol=1e-3)


def test_before_adapt_patches_count_as_white(images):
    layer = Whitening()
    features = ops.convert_to_numpy(layer(images))
    assert features[0, 0, 0, 0] == pytest.approx((images[0, 0, 0, 0] - 127.5) / 64, rel=1e-5)


def test_only_the_biases_train():
    layer = Whitening()
    layer.build((None, 8, 8, 1))
    assert [v.name for v in layer.trainable_variables] == ["bias"]
    assert [v.name for v in layer.non_trainable_variables] == ["mean", "kernel"]


def test_half_precision_does_not_round_the_pixels(images):
    features = []
    for dtype in ("float32", "mixed_bfloat16"):
        layer = Whitening(dtype=dtype)
        layer.adapt(images)
        features.append(ops.convert_to_numpy(ops.cast(layer(images), "float32")))
    assert keras.backend.standardize_dtype(layer(images).dtype) == "bfloat16"
    np.testing.assert_allclose(*features, rtol=2**-8)  # of the output alone


def test_saved_with_its_directions(images, tmp_path):
    model = keras.Sequential([keras.Input((9, 8, 3)), Whitening(name="whitening")])
    model.get_layer("whitening").adapt(images)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))


def test_height_and_width_may_be_unknown(images):
    model = keras.Sequential([keras.Input((None, None, 3)), Whitening()])
    assert model.output_shape == (None, None, None, 24)
    assert model.predict(images[:, :5], verbose=0).shape == (30, 4, 7, 24)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 8, 8, 1)), "that vary"),
        (np.full((3, 8, 8, 1), np.nan), "finite pixels"),
        (np.zeros((3, 8, 8)), r"images \(n, height, width, channels\)"),
        (np.zeros((3, 1, 8, 1)), "no smaller than a patch"),
        ([], "at least one image"),
        (np.ones((3, 8, 8, 2)), "must have 1 channels"),
    ],
)
def test_data_that_cannot_be_whitened(data, message):
    layer = Whitening()
    layer.build((None, 8, 8, 1))
    with pytest.raises(ValueError, match=message):
        layer.adapt(data)


def test_construction_errors():
    with pytest.raises(ValueError, match="`kernel_size` must be a positive integer"):
        Whitening(0)
    with pytest.raises(ValueError, match="`epsilon` must be positive"):
        Whitening(epsilon=0)
    with pytest.raises(ValueError, match="known number of channels"):
        Whitening()(keras.Input((8, 8, None)))
