"""The pictures of training: the same on every backend, by their number alone, and right."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy import ndimage

import pipelines
from networks.small_capsnet import SHIFT
from pictures_of import batches as pictures
from pictures_of import distortions, sampling
from pictures_of.batches import Batches, Change, stream
from programs import RECIPES, ROOT

BACKEND = keras.backend.backend()

# Of pixels that are moved as they are: no rounding of a machine's own is in them. Another digest
# means that runs, when they are resumed, go on with other pictures than they began with.
DIGESTS = {
    "plain": "643a6a36a80c59df47f7ced9432ffd2ca111327952fa41fa1a7305f60f159065",
    "mirrored_and_shifted": "33fe5f463382c130a27892482eb188b452895829d4952f589d5a108b5d9a755d",
    "moved": "9e4e1db7d00b2e8cd147068aefde541f5ba68113e3607ed250040ce91f662a03",
    "overlapping": "2e4461f40a6a36ea54f44b872c17600f45f92df4d3bdcfe25db601c68343b4ba",
    "targets": "2e4461f40a6a36ea54f44b872c17600f45f92df4d3bdcfe25db601c68343b4ba",
    "placed": "a488d37954ee68629a7ba1686194d050069c3f8ff15cceb39fefe74fca8a151b",
    "canvas": "bba07ce7afa88a4ee648b91ddaeeb0c870a4cf206dfd1ae31685de9295e6fe33",
}


def equal(found, expected):
    found, expected = pipelines.arrays(found), pipelines.arrays(expected)
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_pictures_are_the_same_on_every_backend():
    """Each backend that is installed makes them in a process of its own, and alike to the bit."""
    here = pipelines.digests()
    assert {name: here[name] for name in DIGESTS} == DIGESTS
    others = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
    others.remove(BACKEND)
    assert others
    for backend in others:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["PYTHONPATH"] = os.pathsep.join([str(RECIPES), str(ROOT)])
        program = [sys.executable, pipelines.__file__]
        result = subprocess.run(program, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == here, backend


@pytest.mark.parametrize("name", pipelines.NAMES)
def test_pictures_are_of_their_number_seed_and_place(name):
    batches = pipelines.pipeline(name)
    whole = [batches(number) for number in range(6)]
    again = pipelines.pipeline(name)
    equal(again(5), whole[5])  # as the first that a resumed run asks for
    equal(again(2), whole[2])
    first, *_ = pipelines.arrays(pipelines.pipeline(name, seed=4)(0))
    assert (first != pipelines.arrays(whole[0])[0]).any()
    for part in (slice(0, 8), slice(8, 16), slice(0, 3), slice(3, 4), slice(15, 16)):
        rows = [array[part] for array in pipelines.arrays(whole[3])]
        equal(tuple(rows), tuple(pipelines.arrays(batches(3, part))))
    assert pipelines.arrays(whole[0])[0].dtype == "float32"


def test_a_part_of_a_large_batch_is_the_same_to_the_bit(rng):
    """Matrix products of other sizes may round otherwise: those of the distortion must not."""
    images = rng.integers(256, size=(150, 28, 28, 1)).astype("uint8")
    batches = distortions.distorted(images, np.arange(150), 0, 128)
    whole, _ = batches(1)
    for part in (slice(0, 64), slice(64, 128), slice(32, 64), slice(127, 128)):
        np.testing.assert_array_equal(batches(1, part)[0], whole[part])


def test_only_the_part_that_is_asked_for_is_made():
    sizes = []

    def apply(images, draws):
        sizes.append((len(images), len(draws)))
        return images

    change = Change(draw=lambda rng, count: (rng.random(count),), apply=apply)
    images, labels = pipelines.examples()
    stream(images, labels, 16, 0, change)(2, slice(4, 10))
    made = []
    Batches(37, 16, 0, lambda indices: made.append(len(indices)))(0, slice(12, 16))
    assert sizes == [(6, 6)] and made == [4]


@pytest.mark.parametrize(("count", "size"), [(37, 16), (10, 5), (7, 7), (5, 12), (1, 3)])
def test_passes_have_every_example_once_and_go_on_within_batches(count, size):
    batches = Batches(count, size, 9, lambda indices: (indices,))
    numbers = np.concatenate([batches(number)[0] for number in range(3 * count)])
    passes = numbers.reshape(-1, count)
    np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(count), (len(passes), 1)))
    assert len({tuple(order) for order in passes}) > min(math.factorial(count), len(passes)) / 2
    other = Batches(count, size, 10, lambda indices: (indices,))
    rest = np.concatenate([other(number)[0] for number in range(3 * count)])
    assert count == 1 or (rest != numbers).any()


def test_orders_are_even():
    """Each example is at each place of a pass alike often: 5 standard deviations of 3,000."""
    batches, counts = Batches(4, 4, 0, lambda indices: (indices,)), np.zeros((4, 4))
    for number in range(3000):
        counts[np.arange(4), batches(number)[0]] += 1
    assert np.abs(counts - 750).max() < 5 * np.sqrt(3000 * 3 / 16)


def test_draws_of_a_batch_are_its_own():
    """Neither the next batch, nor the next seed, nor the order of the images has the same."""
    drawn = {}
    for seed in range(3):
        change = Change(lambda rng, count: (rng.random(count),), lambda images, x: x)
        batches = stream(*pipelines.examples(), 16, seed, change)
        drawn |= {(seed, number): batches(number)[0].tobytes() for number in range(9)}
    assert len(set(drawn.values())) == 27


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_gpu_has_the_same_pictures_from_its_own_memory(monkeypatch, backend):
    if backend != BACKEND:
        pytest.skip(f"a matter of {backend}")
    expected = pipelines.pipeline("plain")
    monkeypatch.setattr(pictures, "gpu_name", lambda: "a GPU")
    images, labels = pipelines.examples()
    kept = stream(images, labels, pipelines.SIZE, 3)
    for number in (0, 2):
        found = kept(number)
        assert keras.ops.is_tensor(found[0])
        assert keras.backend.standardize_dtype(found[0].dtype) == "float32"
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(found[0]), expected(number)[0])
        np.testing.assert_array_equal(found[1], expected(number)[1])
        part = kept(number, slice(5, 9))[0]
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(part), expected(number)[0][5:9])
    monkeypatch.setattr(pictures, "_MOST_ON_DEVICE", images.nbytes - 1)
    assert isinstance(stream(images, labels, 16, 3)(0)[0], np.ndarray)
    monkeypatch.setattr(pictures, "_MOST_ON_DEVICE", images.nbytes)
    assert keras.ops.is_tensor(stream(images, labels, 16, 3)(0)[0])


def test_bilinear_sampling_against_a_loop(rng):
    images = rng.uniform(1, 255, size=(3, 4, 6)).astype("float32")
    rows = rng.uniform(-2, 5, size=(3, 5, 7))
    columns = rng.uniform(-2, 7, size=(3, 5, 7))
    rows[0, 0], columns[0, 0] = [-1, 0, 3, 4, 3.5, 1, 2], [0, -1, 5, 6, 5, 5.5, 2]
    found = sampling.bilinear(images, rows, columns)
    assert found.dtype == "float32" and found.shape == rows.shape
    expected = np.zeros(rows.shape)
    for place in np.ndindex(rows.shape):
        row, column = rows[place], columns[place]
        for i, j in np.ndindex(4, 6):  # Each pixel is a pyramid of light.
            near = max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j))
            expected[place] += near * images[place[0], i, j]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_placing_against_a_loop(rng):
    images = rng.integers(1, 256, size=(6, 3, 4, 2)).astype("uint8")
    corners = np.array([[0, 0], [4, 4], [0, 4], [4, 0], [1, 3], [2, 2]])
    found = sampling.placed(images, corners, 2)
    assert found.dtype == "uint8" and found.shape == (6, 7, 8, 2)
    for number, row, column, channel in np.ndindex(found.shape):
        i, j = row - corners[number, 0], column - corners[number, 1]
        inside = 0 <= i < 3 and 0 <= j < 4
        assert found[number, row, column, channel] == (
            images[number, i, j, channel] if inside else 0
        )
    drawn = sampling.corners(np.random.default_rng(0), 500, 2)
    assert drawn.shape == (500, 2) and drawn.min() == 0 and drawn.max() == 4
    assert sampling.corners(np.random.default_rng(0), (5, 3), 2).shape == (5, 3, 2)


def test_shifts_of_digits_are_those_of_keras(rng):
    """Which made them before, as maps of its own function, with black around the images."""
    images = rng.integers(256, size=(20, 8, 7, 3)).astype("uint8")
    draws = SHIFT.draw(np.random.default_rng(2), 20)
    (offsets,) = draws
    assert offsets.shape == (20, 2) and 0.45 < np.abs(offsets).max() <= 0.55
    maps = np.zeros((20, 8), "float32")
    maps[:, 0] = maps[:, 4] = 1
    maps[:, 2], maps[:, 5] = offsets[:, 1], offsets[:, 0]
    moved = keras.ops.image.affine_transform(
        images.astype("float32"), maps, data_format="channels_last"
    )
    found = SHIFT.apply(images, *draws)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(moved), atol=2e-3)


class Draws:
    """A generator of random numbers which are given: none but those are other than 0.

    Args:
        maps: What is drawn for the affine maps, from -1 to 1: rotation, height, width, shear,
            rows and columns.
        thickening: What is drawn for the thickening, from -1 to 1.
        bumps: Function of a shape, for the elastic field.
    """

    def __init__(self, maps=(0,) * 6, thickening=0.0, bumps=np.zeros):
        self.maps, self.thickening, self.bumps = np.array(maps, float), thickening, bumps

    def uniform(self, low, high, shape):
        assert low == -high
        if shape[0] == 6:
            return high * np.tile(self.maps[:, None], shape[1])
        return np.full(shape, high * self.thickening)

    def standard_normal(self, shape, dtype):
        return self.bumps(shape).astype(dtype)


def distort(images, draws, strength=1.0):
    change = distortions.distortion(*images.shape[1:3], strength)
    return change.apply(images, *change.draw(draws, len(images)))[..., 0]


@pytest.fixture
def blurred(rng):
    images = ndimage.gaussian_filter(rng.uniform(0, 255, size=(4, 13, 16)), (0, 1, 1))
    return images.astype("float32")[..., None]


def test_no_strength_distorts_nothing(blurred):
    found = distort(blurred, np.random.default_rng(0), strength=0.0)
    np.testing.assert_allclose(found, blurred[..., 0], rtol=1e-5, atol=1e-3)
    assert np.abs(distort(blurred, np.random.default_rng(0)) - blurred[..., 0]).max() > 20
    np.testing.assert_allclose(distort(blurred, Draws()), blurred[..., 0], rtol=1e-5, atol=1e-3)


def matrix_of(angle, tall, wide, shear):
    """A rotation, a shear of the columns, and scales of rows and columns, one after the other."""
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    return np.diag([tall, wide]) @ [[1, 0], [shear, 1]] @ [[cosine, sine], [-sine, cosine]]


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize(
    "maps", [*np.eye(6), *-np.eye(6), (0.7, -0.6, 0.5, -0.9, 0.3, 0.8)], ids=lambda x: str(list(x))
)
def test_affine_maps_are_those_of_scipy(blurred, maps, strength):
    """About the centre, as far as the module says: a place of the result is sought in the image."""
    angle, tall, wide, shear, down, right = strength * np.array(maps)
    matrix = matrix_of(15 * angle, 1 + 0.15 * tall, 1 + 0.15 * wide, 0.2 * shear)
    centre = np.array([6, 7.5])
    offset = centre - matrix @ centre + 1.5 * np.array([down, right])
    found = distort(blurred, Draws(maps), strength)
    for image, each in zip(blurred[..., 0], found, strict=True):
        options = {"order": 1, "mode": "grid-constant"}
        expected = ndimage.affine_transform(image, matrix, offset, **options)
        np.testing.assert_allclose(each, expected, atol=0.02)
        assert np.abs(image - expected).max() > 2


@pytest.mark.parametrize("amount", [-1.0, 0.5])
def test_thickening_is_a_mixture_with_the_dilation_or_the_erosion(blurred, amount):
    found = distort(blurred, Draws(thickening=amount))
    extreme = ndimage.grey_dilation if amount > 0 else ndimage.grey_erosion
    for image, each in zip(blurred[..., 0], found, strict=True):
        other = extreme(image, size=(3, 3), mode="constant", cval=0)
        expected = image + 0.4 * abs(amount) * (other - image)
        np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-3)


def test_elastic_displacements_are_smoothed_noise(rng):
    """On a ramp, pixels tell where they are from. Deviation 1.1 pixels, smooth over 4 pixels."""
    size, count = 40, 800
    ramps = np.broadcast_to(np.arange(100.0, 100 + size), (count, size, size))
    images = np.stack([ramps, ramps.swapaxes(1, 2)])[..., None].reshape(-1, size, size, 1)
    found = distort(images.astype("float32"), Draws(bumps=rng.standard_normal))
    inner = slice(8, -8)  # At the frame, black is mixed in.
    moves = (found - images[..., 0])[:, inner, inner]
    assert abs(moves.std() - 1.1) < 0.05 and abs(moves.mean()) < 0.05
    for axis in (1, 2):
        far = np.take(moves, range(4, moves.shape[axis]), axis)
        near = np.take(moves, range(moves.shape[axis] - 4), axis)
        # Of white noise behind a Gaussian filter: exp(-d²/(4 σ²)).
        assert abs((near * far).mean() / 1.1**2 - math.exp(-1 / 4)) < 0.06
    half = distort(images.astype("float32"), Draws(bumps=rng.standard_normal), strength=0.5)
    assert abs((half - images[..., 0])[:, inner, inner].std() - 0.55) < 0.03
