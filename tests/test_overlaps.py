"""MultiMNIST: the pictures that are made, and the recipe."""

import json

import keras
import numpy as np
import pytest

import programs
from kcaps.models import capsnet
from pictures_of import data, overlap_plots, overlaps
from programs import take


@pytest.fixture
def digits(rng):
    """Images that tell their number: one bright pixel in the corner has it."""
    images = np.zeros((50, 28, 28, 1), "uint8")
    images[:, 0, 0, 0] = np.arange(1, 51)
    images[:, 10:15, 10:15] = 200
    return images, np.repeat(np.arange(5), 10)


def test_pictures_hold_two_digits_of_different_classes(digits):
    images, labels = digits
    firsts, partners, corners = [], [], []
    for pictures, pairs, parts in take(overlaps.overlapping(*digits, 3, 10), 10):
        assert pictures.shape == (10, 36, 36, 1) and parts.shape == (10, 2, 36, 36, 1)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        np.testing.assert_array_equal(pictures, np.minimum(parts.sum(1), 255))
        for pair, two in zip(pairs, parts, strict=True):
            numbers = []
            for label, part in zip(pair, two, strict=True):
                row, column = np.argwhere(part[..., 0])[0]  # of the corner, 4 ± 4 on the canvas
                assert 0 <= row <= 8 and 0 <= column <= 8
                number = int(part[row, column, 0]) - 1
                assert labels[number] == label
                canvas = np.zeros((36, 36, 1))
                canvas[row : row + 28, column : column + 28] = images[number]
                np.testing.assert_array_equal(part, canvas)
                numbers.append(number)
                corners.append((row, column))
            firsts.append(numbers[0])
            partners.append(numbers[1])
    # Two passes: each digit is first twice. Partners and places vary.
    assert sorted(firsts) == sorted(2 * list(range(50)))
    assert len(set(partners)) > 30 and len(set(corners)) > 60


def test_partners_are_drawn_evenly_from_the_other_classes():
    """Unequal classes are drawn evenly, too: 5 standard deviations of 6,000 draws."""
    labels = np.repeat([0, 1, 2], [1, 2, 3])
    images = np.arange(6, dtype="uint8").reshape(6, 1, 1, 1) + 1
    counts = np.zeros((6, 6))
    for _, _, parts in take(overlaps.overlapping(images, labels, 0, 600), 10):
        numbers = parts.max((2, 3, 4)).astype(int) - 1
        np.add.at(counts, tuple(numbers.T), 1)
    allowed = labels[:, None] != labels
    expected = 1000 * allowed / allowed.sum(1, keepdims=True)
    assert (counts[~allowed] == 0).all()
    assert np.abs(counts - expected).max() < 5 * np.sqrt(1000 / 4)


def test_the_same_pictures_for_the_same_seed_from_any_batch_on(digits):
    whole = take(overlaps.overlapping(*digits, 7, 20), 6)
    later = take(overlaps.overlapping(*digits, 7, 20), 2, start=4)
    other = take(overlaps.overlapping(*digits, 8, 20), 1)
    for expected, received in zip(whole[4:], later, strict=True):
        for one, two in zip(expected, received, strict=True):
            np.testing.assert_array_equal(one, two)
    assert (whole[0][0] != other[0][0]).any()


def test_one_class_is_refused(digits):
    with pytest.raises(ValueError, match="two classes at least.*10 labels, all 0"):
        overlaps.overlapping(digits[0][:10], digits[1][:10], 0, 5)


def test_each_digit_is_rebuilt_from_its_capsule_alone(digits):
    keras.utils.set_random_seed(0)
    x = overlaps.overlapping(*digits, 0, 4)(0)[0]
    model = capsnet(x.shape[1:], 10, filters=4, num_primary_capsules=2, decoder_units=(8, 8))
    found, rebuilt = overlap_plots.rebuild(model, x)
    lengths = model.predict(x, verbose=0)
    poses = keras.Model(model.input, model.class_layer.output).predict(x, verbose=0)
    for picture in range(4):
        longest = sorted(range(10), key=lambda label: -lengths[picture, label])[:2]
        assert list(found[picture]) == sorted(longest)
        for label, image in zip(found[picture], rebuilt[picture], strict=True):
            alone = np.zeros_like(poses[:1])
            alone[0, label] = poses[picture, label]
            np.testing.assert_allclose(image, model.decoder.predict(alone, verbose=0)[0], rtol=1e-5)


@pytest.mark.long
def test_recipe(tmp_path):
    arguments = ("--synthetic", "--limit", 40, "--epochs", 1, "--batch-size", 12, "--routing", "l1")
    arguments = (*arguments, "--network", "reference", "--output", tmp_path / "ckpt")
    result = programs.recipe_here("multi_mnist", *arguments)
    assert result.returncode == 0, result.stderr
    assert "both digits right in" in result.stdout.splitlines()[-1]
    report = json.loads((tmp_path / "ckpt/report.json").read_text())
    _, (pictures, labels, _) = overlaps.held_out(data.load("mnist", limit=40, synthetic=True))
    lengths = keras.saving.load_model(tmp_path / "ckpt/model.keras").predict(pictures, verbose=0)
    found = [set(np.argsort(row)[-2:]) for row in lengths]
    right = [classes == set(pair) for classes, pair in zip(found, labels, strict=True)]
    assert report["test_accuracy"] == pytest.approx(np.mean(right)) and len(right) == 40
    for name in ("model.keras", "history.csv", "curves.png", "reconstructions.png"):
        assert (tmp_path / "ckpt" / name).exists()


@pytest.mark.parametrize("recipe", [("multi_mnist",), ("reproduce", "multi_mnist")])
def test_too_few_images_are_one_line(tmp_path, recipe):
    arguments = (*recipe, "--synthetic", "--limit", 5, "--output", tmp_path / "ckpt")
    result = programs.recipe_here(*arguments)
    assert result.returncode == 2 and "Give a larger --limit" in result.stderr
    assert result.stderr.count("\n") == 1
