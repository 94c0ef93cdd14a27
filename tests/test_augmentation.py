"""Random changes of training images, each against a loop over pixels."""

import math

import numpy as np
import pytest

from pictures_of import augmentation, distortions, overlaps, sampling
from pictures_of.batches import Batches, Change, stream, turns
from pictures_of.data import Images
from programs import refused


def pictures(count=30, shape=(7, 9, 3), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 256, size=(count, *shape)).astype("uint8")


def data_set(shape=(7, 9, 3)):
    split = (pictures(40, shape), np.arange(40) % 4)
    return Images("mine", list("abcd"), {"loader": "mine"}, split, split, split)


def reflected(place, size):
    """The pixel that is seen at a place outside of an image, as in a mirror at its last pixel."""
    if place < 0:
        return -place
    return place if place < size else 2 * (size - 1) - place


@pytest.mark.parametrize("border", ["reflect", "constant"])
@pytest.mark.parametrize("shape", [(7, 9, 3), (5, 4, 1)])
def test_shifts_against_a_loop(border, shape):
    images, pixels = pictures(25, shape), 2
    change = augmentation.shift(pixels, border)
    (corners,) = change.draw(np.random.default_rng(3), 4000)
    assert corners.shape == (4000, 2) and set(corners.ravel()) == set(range(5))
    every = np.array([(row, column) for row in range(5) for column in range(5)])
    found = change.apply(images, every)
    assert found.dtype == "uint8" and found.shape == images.shape
    height, width, _ = shape
    for number, row, column in np.ndindex(found.shape[:3]):
        i, j = row - (every[number, 0] - pixels), column - (every[number, 1] - pixels)
        inside = 0 <= i < height and 0 <= j < width
        expected = images[number, reflected(i, height), reflected(j, width)]
        if border == "constant" and not inside:
            expected = 0
        np.testing.assert_array_equal(found[number, row, column], expected)


def test_shifts_of_images_in_another_order_of_memory():
    images = np.asfortranarray(pictures())
    corners = sampling.corners(np.random.default_rng(0), len(images), 3)
    expected = sampling.moved(np.ascontiguousarray(images), corners, 3, "reflect")
    np.testing.assert_array_equal(sampling.moved(images, corners, 3, "reflect"), expected)


def test_black_borders_are_those_of_placed():
    images = pictures()
    corners = sampling.corners(np.random.default_rng(0), len(images), 2)
    found = augmentation.shift(2, "constant").apply(images, corners)
    np.testing.assert_array_equal(found, sampling.placed(images, corners, 2)[:, 2:-2, 2:-2])


@pytest.mark.parametrize("channels", [1, 3])
def test_mirroring(channels):
    images = pictures(6, (4, 5, channels))
    chosen = np.array([True, False, True, True, False, False])
    found = augmentation.mirrored(images, chosen)
    for number, row, column in np.ndindex(found.shape[:3]):
        source = 4 - column if chosen[number] else column
        np.testing.assert_array_equal(found[number, row, column], images[number, row, source])
    np.testing.assert_array_equal(augmentation.mirrored(images), images[:, :, ::-1])
    half = augmentation.random_mirror()
    (drawn,) = half.draw(np.random.default_rng(0), 10_000)
    assert abs(drawn.mean() - 0.5) < 0.025 and not half.alternates


@pytest.mark.parametrize("size", [1, 3, 7])
def test_cutout_against_a_loop(size):
    images, colour = pictures(300), np.array([10, 20, 30])
    change = augmentation.cutout(7, 9, size, colour)
    (corners,) = change.draw(np.random.default_rng(0), len(images))
    # Every place of the square within the image is drawn, and none else.
    assert set(corners[:, 0]) == set(range(8 - size)) and set(corners[:, 1]) == set(
        range(10 - size)
    )
    before = images.copy()
    found = change.apply(images, corners)
    np.testing.assert_array_equal(images, before)
    for image, original, (row, column) in zip(found, images, corners, strict=True):
        for i, j in np.ndindex(7, 9):
            covered = row <= i < row + size and column <= j < column + size
            np.testing.assert_array_equal(image[i, j], colour if covered else original[i, j])


def test_squares_have_the_mean_colour_of_the_training_images():
    images = data_set()
    change = augmentation.named(["cutout"], images, 2, 4)
    found = change.apply(images.train[0], *change.draw(np.random.default_rng(0), 40))
    covered = (found != images.train[0]).any(-1)
    mean = [round(float(np.mean(images.train[0][..., channel]))) for channel in range(3)]
    assert (found[covered] == mean).all() and covered.sum() > 0.9 * 40 * 16


def test_a_mirrored_image_is_another_one_in_each_second_pass():
    images = pictures(37, (3, 4, 1))
    batches = stream(images, np.arange(37), 10, 5, augmentation.mirror())
    seen = {}
    for number in range(37 * 4 // 10):
        found, labels = batches(number)
        for place, (image, label) in enumerate(zip(found, labels, strict=True)):
            is_mirrored = np.array_equal(image, images[label, :, ::-1])
            assert is_mirrored != np.array_equal(image, images[label])
            seen.setdefault(label, []).append(((number * 10 + place) // 37, is_mirrored))
    for forms in seen.values():
        assert [number for number, _ in forms] == list(range(len(forms))) and len(forms) >= 3
        assert all(one != two for (_, one), (_, two) in zip(forms, forms[1:], strict=False))
    first = [forms[0][1] for forms in seen.values()]
    assert 8 < sum(first) < 29  # of the first pass, half at random
    assert turns(4, 0, np.arange(4), 0).tolist() == turns(4, 0, np.arange(4), 2).tolist()
    assert (turns(999, 0, np.arange(999), 0) != turns(999, 1, np.arange(999), 0)).any()


def test_passes_are_told_within_batches():
    batches = Batches(5, 3, 0, lambda indices, passes: (indices, passes), tells_passes=True)
    passes = np.concatenate([batches(number)[1] for number in range(10)])
    np.testing.assert_array_equal(passes, np.repeat(np.arange(6), 5))
    np.testing.assert_array_equal(batches(1, slice(1, 3))[1], [0, 1])


def test_changes_in_turn_are_those_one_after_the_other():
    images, rng = pictures(20), np.random.default_rng(1)
    parts = [
        augmentation.random_mirror(),
        augmentation.mirror(),
        augmentation.shift(2),
        augmentation.cutout(7, 9, 3, np.zeros(3)),
    ]
    together = augmentation.in_turn(*parts)
    assert together.alternates and not augmentation.in_turn(parts[0], parts[2]).alternates
    drawn, turn = together.draw(rng, 20), np.arange(20) % 2 == 0
    again = np.random.default_rng(1)
    expected = images
    for part in parts:
        own = part.draw(again, 20)
        expected = part.apply(expected, *((turn, *own) if part.alternates else own))
    np.testing.assert_array_equal(together.apply(images, turn, *drawn), expected)
    assert augmentation.in_turn(parts[0]) is parts[0]


def test_names_make_changes_whatever_their_order():
    images = data_set((7, 9, 1))
    one = augmentation.named(augmentation.NAMES, images, 2, 3)
    two = augmentation.named(augmentation.NAMES[::-1], images, 2, 3)
    batches = [stream(*images.train, 16, 0, change)(1)[0] for change in (one, two)]
    np.testing.assert_array_equal(*batches)
    assert augmentation.named([], images, 2, 3) is None
    # Of covered pixels nothing else changes: the square comes last.
    cut = augmentation.cutout(7, 9, 3, augmentation.mean_colour(images.train[0]))
    others = augmentation.named(("mirror", "shift"), images, 2, 3)
    both = augmentation.named(("cutout", "mirror", "shift"), images, 2, 3)
    drawn = both.draw(np.random.default_rng(0), 40)
    turn = np.ones(40, bool)
    moved = others.apply(images.train[0], turn, *drawn[:1])
    np.testing.assert_array_equal(
        both.apply(images.train[0], turn, *drawn), cut.apply(moved, *drawn[1:])
    )


def test_elastic_is_the_distortion_of_half_the_strength():
    images = data_set((7, 9, 1))
    change = augmentation.named(["elastic"], images, 2, 3)
    expected = distortions.distortion(7, 9, 0.5)
    drawn = change.draw(np.random.default_rng(0), 40)
    np.testing.assert_array_equal(
        change.apply(images.train[0], *drawn), expected.apply(images.train[0], *drawn)
    )


@pytest.mark.parametrize(
    ("names", "max_shift", "cutout_size", "line"),
    [
        (["elastic"], 2, 3, "--augment elastic is for images of one channel"),
        (["mirror", "shift"], 7, 3, "--max-shift must be less than 7 pixels. Received: 7."),
        (["cutout"], 2, 8, "--cutout-size must be 7 at most. Received: 8."),
    ],
)
def test_changes_that_cannot_be_had(capsys, names, max_shift, cutout_size, line):
    def call():
        augmentation.named(names, data_set(), max_shift, cutout_size)

    assert line in refused(capsys, call)
    assert augmentation.named(["mirror"], data_set(), 99, 99) is not None


def test_digits_are_changed_before_they_overlap():
    digits = pictures(24, (6, 6, 1))
    labels = np.arange(24) % 3
    negative = Change(lambda rng, count: (rng.random(count),), lambda x, drawn: 255 - x)
    plain = overlaps.overlapping(digits, labels, 0, 8)
    changed = overlaps.overlapping(digits, labels, 0, 8, negative)
    for number in (0, 2):
        _, names, parts = changed(number)
        _, same_names, originals = plain(number)
        np.testing.assert_array_equal(names, same_names)
        inside = originals > 0  # Each pixel of a digit is.
        np.testing.assert_array_equal(parts[inside], 255 - originals[inside])
        assert not parts[~inside].any()
    part = changed(2, slice(3, 7))
    for one, two in zip(part, changed(2), strict=True):
        np.testing.assert_array_equal(one, two[3:7])


def test_digits_that_overlap_have_their_turns():
    digits = pictures(12, (4, 4, 1))
    labels = np.arange(12)
    batches = overlaps.overlapping(digits, labels, 0, 6, augmentation.mirror())
    forms = {}
    for number in range(8):
        _, names, parts = batches(number)
        for pair, both in zip(names, parts, strict=True):
            for name, canvas in zip(pair, both, strict=True):
                rows, columns = (np.flatnonzero(canvas[..., 0].any(axis)) for axis in (1, 0))
                digit = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                is_mirrored = np.array_equal(digit, digits[name, :, ::-1])
                assert is_mirrored or np.array_equal(digit, digits[name])
                forms.setdefault((name, number // 2), set()).add(is_mirrored)
    assert all(len(each) == 1 for each in forms.values())  # one form in a pass
    for (name, number), each in forms.items():
        following = forms.get((name, number + 1))
        assert following is None or following != each


def test_half_a_pixel_is_at_most_0_55():
    (offsets,) = augmentation.half_pixel().draw(np.random.default_rng(0), 5000)
    assert offsets.shape == (5000, 2) and 0.54 < np.abs(offsets).max() <= 0.55
    assert math.isclose(offsets.mean(), 0, abs_tol=0.01)
