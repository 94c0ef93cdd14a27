import keras
import numpy as np
import pytest
from keras import ops

from kcaps.activations import exponential_squash, safe_norm, squash


def numpy_squash(x):
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(norm > 0, norm / (1 + norm**2), 0) * x


def numpy_exponential_squash(x):
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return -np.expm1(-norm) * x / norm


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.03, 0.3, 1.0, 1e3])
@pytest.mark.parametrize(
    ("function", "expected"),
    [(squash, numpy_squash), (exponential_squash, numpy_exponential_squash)],
)
def test_squash_equals_the_formula(rng, function, expected, scale):
    x = (scale * rng.normal(size=(5, 7, 4))).astype("float32")
    np.testing.assert_allclose(function(x), expected(x.astype("float64")), rtol=2e-6)


def test_gradient_of_exponential_squash(rng, gradient):
    """Of short and of long vectors, against central differences."""
    x = (rng.normal(size=(50, 3)) * np.geomspace(1e-3, 3, 50)[:, None]).astype("float32")
    weights = np.array([1.0, -2.0, 0.5], "float32")
    slopes = gradient(lambda v: exponential_squash(v) * ops.convert_to_tensor(weights), x)
    for k in range(3):
        step = np.zeros((50, 3))
        step[:, k] = 1e-6
        ends = [numpy_exponential_squash(x.astype("float64") + s) @ weights for s in (step, -step)]
        np.testing.assert_allclose(slopes[:, k], (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-5)


def test_squash_keeps_direction_and_shortens_to_below_one(rng):
    x = rng.normal(size=(100, 8)).astype("float32") * 10
    squashed = ops.convert_to_numpy(squash(x))
    lengths = np.linalg.norm(squashed, axis=-1)
    cosine = np.sum(squashed * x, -1) / lengths / np.linalg.norm(x, axis=-1)
    assert (lengths < 1).all()
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-10, 1e4])
@pytest.mark.parametrize("function", [squash, exponential_squash, safe_norm])
def test_values_and_gradients_are_finite_at_extremes(gradient, function, size):
    x = np.full((3, 4), size, "float32")
    assert np.isfinite(ops.convert_to_numpy(function(x))).all()
    assert np.isfinite(gradient(function, x)).all()


def test_zero_vectors_are_exactly_zero():
    zeros = np.zeros((2, 3), "float32")
    assert not ops.convert_to_numpy(safe_norm(zeros)).any()
    assert not ops.convert_to_numpy(squash(zeros)).any()
    assert not ops.convert_to_numpy(exponential_squash(zeros)).any()


def test_gradient_of_the_norm_is_the_unit_vector(rng, gradient):
    x = rng.normal(size=(6, 5)).astype("float32")
    expected = x / np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(gradient(safe_norm, x), expected, rtol=1e-5)


def test_axis_and_keepdims(rng):
    x = rng.normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_allclose(safe_norm(x, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)
    assert safe_norm(x, keepdims=True).shape == (2, 3, 1)
    moved = np.moveaxis(numpy_squash(np.moveaxis(x, 1, -1)), -1, 1)
    np.testing.assert_allclose(squash(x, axis=1), moved, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_squash_keeps_the_dtype_and_computes_in_float32(dtype):
    # 300² exceeds float16: only a float32 norm is finite.
    x = ops.cast(np.full((1, 4), 300.0), dtype)
    squashed = squash(x)
    assert keras.backend.standardize_dtype(squashed.dtype) == dtype
    np.testing.assert_allclose(ops.cast(squashed, "float32"), 0.5, atol=2e-3)
