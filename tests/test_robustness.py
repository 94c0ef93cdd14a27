"""Images that try a trained network, and the network that capsules are compared with there."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from kcaps.losses import LogLoss
from kcaps.models import capsnet
from networks import baselines as networks
from pictures_of import robustness
from programs import take
from reproduction import attacks

CLASSES = 3


@pytest.fixture
def blots(rng):
    """Images with ink of any form, the first of them without ink."""
    images = rng.integers(1, 256, size=(300, 7, 9, 2)) * (rng.uniform(size=(300, 7, 9, 1)) < 0.1)
    images[0] = 0
    return images.astype("uint8")


def test_maps_are_uniform_in_the_published_ranges(blots):
    maps = robustness.transformations(np.repeat(blots, 7, axis=0), 3)
    ranges = [(-20, 20), (-0.2, 0.2), (0.8, 1.2), (0.8, 1.2)]
    for values, (low, high) in zip(maps.T, ranges, strict=False):
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 0.01
    assert np.abs(np.corrcoef(maps.T)[:4] - np.eye(6)[:4]).max() < 0.1  # 4.6 deviations


def test_translations_are_uniform_over_the_canvas(monkeypatch):
    for name, value in (("ROTATION", 0), ("SHEAR", 0), ("EXPANSION", (1, 1))):
        monkeypatch.setattr(robustness, name, value)
    maps = robustness.transformations(np.full((500, 5, 4, 1), 9, "uint8"), 0)
    for translations in maps.T[4:]:
        assert stats.kstest(translations, "uniform", (-6, 12)).pvalue > 0.01
    # What is too large for the canvas stays in its middle.
    monkeypatch.setattr(robustness, "EXPANSION", (3, 3))
    maps = robustness.transformations(np.full((5, 8, 8, 1), 9, "uint8"), 0)
    np.testing.assert_allclose(maps[:, 4:], 0, atol=1e-12)


def test_all_ink_stays_on_the_canvas(blots, monkeypatch):
    maps = robustness.transformations(blots, 1)
    moved = robustness.transformed(blots, maps)
    assert moved.dtype == "uint8" and moved.shape == (300, 19, 21, 2)
    np.testing.assert_array_equal(moved, robustness.affine(blots, 1))
    monkeypatch.setattr(robustness, "MARGIN", 26)
    wider = robustness.transformed(blots, maps)
    np.testing.assert_array_equal(wider[:, 20:-20, 20:-20], moved)
    assert wider.sum() == moved.sum() and not moved[0].any()
    assert moved[1:].any((1, 2, 3)).mean() > 0.99  # a few images may have no ink by chance


def test_affine_maps_against_a_loop(blots):
    """With x to the right and y upwards; each pixel of the image is a pyramid of ink."""
    images = blots[1:3]
    maps = robustness.transformations(images, 5)
    moved = robustness.transformed(images, maps)
    for image, (angle, shear, tall, wide, down, right), found in zip(
        images, maps, moved, strict=True
    ):
        angle = np.radians(angle)
        rotation = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        back = np.linalg.inv(np.diag([wide, tall]) @ [[1, -shear], [0, 1]] @ rotation)
        expected = np.zeros(found.shape)
        for row, column in np.ndindex(found.shape[:2]):
            x, y = back @ [column - 10 - right, -(row - 9 - down)]
            for i, j in np.ndindex(image.shape[:2]):
                near = max(0, 1 - abs(3 - y - i)) * max(0, 1 - abs(4 + x - j))
                expected[row, column] += near * image[i, j]
        np.testing.assert_allclose(found, expected, atol=0.5 + 1e-6)  # rounded to whole numbers


def test_affine_maps_of_a_seed(blots):
    identity = np.tile([0.0, 0, 1, 1, 0, 0], (len(blots), 1))
    padded = np.pad(blots, [(0, 0), (6, 6), (6, 6), (0, 0)])
    np.testing.assert_array_equal(robustness.transformed(blots, identity), padded)
    moved = robustness.affine(blots, 2)
    np.testing.assert_array_equal(robustness.affine(blots[:9], 2), moved[:9])
    assert (robustness.affine(blots, 3) != moved).any()


def test_digits_at_random_places(rng):
    images = rng.integers(1, 256, size=(40, 3, 5, 1)).astype("uint8")
    labels = np.arange(40)
    batches = take(robustness.placed(images, labels, 4, 16), 5)
    pictures, numbers = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert pictures.dtype == "float32" and pictures.shape == (80, 15, 17, 1)
    assert sorted(numbers) == sorted(2 * list(range(40)))  # two passes
    fixed = robustness.canvas(images, 4)
    assert fixed.dtype == "uint8"
    np.testing.assert_array_equal(fixed, robustness.canvas(images, 4))
    corners = []
    for picture, number in [*zip(pictures, numbers, strict=True), *zip(fixed, labels, strict=True)]:
        row, column = np.argwhere(picture[..., 0])[0]
        expected = np.zeros((15, 17, 1))
        expected[row : row + 3, column : column + 5] = images[number]
        np.testing.assert_array_equal(picture, expected)
        corners.append((row, column))
    assert np.ptp(corners, axis=0).tolist() == [12, 12] and len(set(corners)) > 70
    for one, two in zip(
        batches[3:], take(robustness.placed(images, labels, 4, 16), 2, start=3), strict=True
    ):
        for expected, received in zip(one, two, strict=True):
            np.testing.assert_array_equal(received, expected)


def test_noise():
    images = np.full((20, 30, 30, 1), 127, "uint8")
    noise = robustness.noisy(images, 0.1, 0) - 127
    assert noise.dtype == "float32"
    assert abs(noise.mean()) < 0.6 and abs(noise.std() - 25.5) < 0.5  # 3 deviations
    np.testing.assert_array_equal(robustness.noisy(images, 0.1, 0) - 127, noise)
    strong = robustness.noisy(images, 1.0, 0)
    assert strong.min() == 0 and strong.max() == 255
    np.testing.assert_array_equal(robustness.noisy(images, 0, 0), images)


def capsules():
    model = capsnet((18, 18, 1), CLASSES, "l2", filters=4, num_primary_capsules=2)
    model.compile(loss="margin")
    return model


def logits():
    model = networks.sabour_cnn((18, 18, 1), CLASSES, filters=(3,), units=(8,))
    model.compile(loss=LogLoss())
    return model


def probabilities():
    model = networks.with_probabilities(logits())
    model.compile(loss="sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("build", [capsules, logits, probabilities])
def test_attacks_raise_the_loss_within_their_bounds(build, rng):
    model = build()
    images = rng.integers(256, size=(7, 18, 18, 1)).astype("uint8")
    images[:, :3] = 0
    labels = np.arange(7) % CLASSES

    def loss(x):
        return model.evaluate(np.asarray(x, "float32"), labels, verbose=0)

    def attack(x, *arguments, **options):
        return attacks.white_box(model, x, labels, *arguments, **options)

    once = attack(images, 0.1)
    assert once.dtype == "float32" and once.min() >= 0 and once.max() <= 255
    assert np.abs(once - images).max() == 25.5
    assert loss(once) > loss(images)
    np.testing.assert_array_equal(attack(images, 0), images)
    np.testing.assert_array_equal(attack(images, 0.1, batch_size=3), once)
    # Two half steps are two attacks of half the size, and are never further away than one.
    twice = attack(images, 0.1, 2)
    np.testing.assert_allclose(twice, attack(attack(images, 0.05), 0.05), atol=1e-4)
    assert np.abs(twice - images).max() <= 25.5 and (twice != once).any()

    def leads(x):
        outputs = model.predict(np.asarray(x, "float32"), verbose=0)
        others = np.where(np.eye(CLASSES, dtype=bool)[labels], -np.inf, outputs)
        found = ops.convert_to_numpy(attacks.lead(labels, ops.convert_to_tensor(outputs)))
        np.testing.assert_allclose(
            found, others.max(1) - outputs[np.arange(7), labels], rtol=1e-5, atol=1e-7
        )
        return found

    assert (leads(attack(images, 0.01, loss=attacks.lead)) > leads(images)).mean() > 0.8


def test_fgsm_has_the_signs_of_numerical_gradients(rng):
    image = keras.Input((2, 3, 1))
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(image))
    model = keras.Model(image, outputs)
    model.compile(loss=LogLoss())
    model.layers[-1].set_weights([rng.normal(scale=0.01, size=(6, CLASSES)), np.zeros(CLASSES)])
    kernel = model.layers[-1].get_weights()[0].astype("float64")
    images = rng.uniform(50, 200, size=(4, 2, 3, 1)).astype("float32")
    labels = np.array([0, 1, 2, 0])

    def loss(x, label):
        values = x @ kernel
        return np.log(np.exp(values).sum()) - values[label]

    moved = attacks.white_box(model, images, labels, 0.1) - images
    for x, label, step in zip(images.reshape(4, 6).astype("float64"), labels, moved, strict=True):
        slopes = [loss(x + e, label) - loss(x - e, label) for e in 1e-3 * np.eye(6)]
        assert np.abs(slopes).min() > 1e-9  # of about 1e-5: the signs are certain
        np.testing.assert_allclose(step.ravel(), 25.5 * np.sign(slopes), rtol=1e-5)


def test_refusals():
    model, images, labels = logits(), np.zeros((2, 18, 18, 1)), np.zeros(2, int)
    with pytest.raises(ValueError, match="`epsilon` must be a number from 0 to 1.*epsilon=-0.1"):
        attacks.white_box(model, images, labels, -0.1)
    with pytest.raises(ValueError, match="`steps` must be a positive integer.*steps=0"):
        attacks.white_box(model, images, labels, 0.1, 0)
    with pytest.raises(ValueError, match="compiled with a loss.*model='sabour_cnn' without"):
        attacks.white_box(
            keras.Model(model.input, model.output, name=model.name), images, labels, 0.1
        )
    with pytest.raises(ValueError, match="`deviation` must be a number from 0 to 1.*deviation=-1"):
        robustness.noisy(images, -1, 0)


def test_published_number_of_parameters():
    """35.4 million on 28 × 28: 780 places more than on 2 × 2, each with 128 features."""
    network = networks.sabour_cnn((2, 2, 1), 10)
    assert network.count_params() + 780 * 128 * 328 == 35_445_522
    assert network.output_names == ["logits"]
