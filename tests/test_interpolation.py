"""The interpolating functions of capsule regression: against mpmath, with 50 digits."""

import keras
import mpmath
import numpy as np
import pytest
from keras import ops

from kcaps.regression import lambda_0, lambda_1
from kcaps.regression.interpolation import at_least_float32, continued_fraction

BACKEND = keras.backend.backend()
BETAS = np.concatenate([[0.0, 1e-30, 1e-8, 1e-3], np.logspace(-2, 6, 33)])
DIMS = (2, 3, 4, 7, 20, 80, 321, 1000)


def exact(total_dim, betas):
    """λ0 and λ1 by Kummer's function, with 50 digits."""
    with mpmath.workdps(50):
        s = mpmath.mpf(total_dim) / 2
        values = [mpmath.mpf(float(beta)) for beta in betas]
        zero = [b * mpmath.hyp1f1(1, s + 2, -b) / (s + 1) for b in values]
        one = [b * mpmath.hyp1f1(1, s + 3, -b) / (s + 2) for b in values]
        return np.array(zero, "float64"), np.array(one, "float64")


@pytest.mark.parametrize("total_dim", DIMS)
def test_interpolating_functions(total_dim):
    betas = BETAS.astype("float32")
    for function, expected in zip((lambda_0, lambda_1), exact(total_dim, betas), strict=True):
        received = ops.convert_to_numpy(function(betas, total_dim))
        assert received.dtype == np.float32 and np.all((received >= 0) & (received <= 1))
        np.testing.assert_allclose(received, expected, rtol=1e-6, atol=1e-38)


@pytest.mark.skipif(BACKEND == "jax", reason="float64 is off in JAX by default")
@pytest.mark.parametrize("total_dim", DIMS)
def test_interpolating_functions_in_double_precision(total_dim):
    for function, expected in zip((lambda_0, lambda_1), exact(total_dim, BETAS), strict=True):
        received = ops.convert_to_numpy(function(BETAS, total_dim))
        np.testing.assert_allclose(received, expected, rtol=1e-12)


def test_interpolating_functions_equal_their_integrals():
    """By quadrature: that the reference above is the function that is meant."""
    for total_dim, beta in [(2, 0.3), (5, 4.0), (20, 50.0)]:
        for function, power in [(lambda_0, total_dim / 2), (lambda_1, total_dim / 2 + 1)]:
            integral = mpmath.quad(
                lambda t, s=power, b=beta: t**s * mpmath.exp(b * (t - 1)), [0, 0.5, 1]
            )
            assert float(function(beta, total_dim)) == pytest.approx(beta * integral, rel=1e-6)


@pytest.mark.parametrize("total_dim", [2, 20, 1000])
def test_gradients_of_the_interpolating_functions(gradient, total_dim):
    betas = BETAS.astype("float32")
    with mpmath.workdps(40):
        s = mpmath.mpf(total_dim) / 2
        slopes = [
            mpmath.hyp1f1(1, s + 2, -b) / (s + 1)
            - b * mpmath.hyp1f1(2, s + 3, -b) / (s + 1) / (s + 2)
            for b in map(mpmath.mpf, map(float, betas))
        ]
    received = gradient(lambda beta: lambda_0(beta, total_dim), betas)
    # The slope at large β is a difference of numbers of the size of 1/β.
    np.testing.assert_allclose(received, np.array(slopes, "float64"), rtol=1e-4, atol=2e-7)
    assert np.isfinite(gradient(lambda beta: lambda_1(beta, total_dim), betas)).all()


def test_levels_of_the_continued_fraction():
    """The two that it returns, which give more than the functions themselves."""
    betas = np.array([0.01, 1.0, 30.0], "float32")
    outer, inner = map(ops.convert_to_numpy, continued_fraction(ops.convert_to_tensor(betas), 6))
    zero, one = exact(6, betas)
    np.testing.assert_allclose(outer, betas / zero, rtol=1e-6)
    np.testing.assert_allclose(inner, zero / (zero - one), rtol=1e-6)


@pytest.mark.parametrize("function", [lambda_0, lambda_1])
def test_total_dimensions(function):
    """The smallest one counts, and an array broadcasts against `beta`."""
    betas = np.array([0.5, 5.0], "float32")
    received = ops.convert_to_numpy(function(betas, np.array([[2], [9]])))
    alone = [ops.convert_to_numpy(function(betas, dim)) for dim in (2, 9)]
    np.testing.assert_allclose(received, alone, rtol=1e-6)
    for total_dim, shown in [
        *((1, "1"), (1.5, "1.5"), (np.array([3, 1]), r"array\(\[3, 1\]\)")),
        *(("x", "'x'"), (None, "None"), (float("inf"), "inf"), (10**400, str(10**400))),
    ]:
        message = f"`total_dim` must be at least 2. Received: total_dim={shown}."
        with pytest.raises(ValueError, match=message):
            function(1.0, total_dim)


def test_precisions():
    """Half precision and Python numbers are computed in float32; what has no levels is refused."""
    usual = keras.config.floatx()
    for floatx in ("float16", usual):
        keras.config.set_floatx(floatx)
        types = [at_least_float32(beta).dtype for beta in (2, 2.0, np.float16(2), np.float32(2))]
        keras.config.set_floatx(usual)
        assert set(map(keras.backend.standardize_dtype, types)) == {"float32"}
    with pytest.raises(ValueError, match="`beta.dtype` must be one of 'float32', 'float64'"):
        continued_fraction(ops.cast([2.0], "float16"), 6)
