"""Convolutions with strides on JAX, as products of matrices where XLA's gradient is slow."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.backend import convolution
from kcaps.layers import PrimaryCaps

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="a matter of XLA for CPUs on the JAX backend"
)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_products_are_the_convolution(rng, gradient, strided, padding):
    """Sums of small integers are exact, in the outputs and in both gradients."""
    size, window, strides = strided
    images = rng.integers(-3, 4, (2, *size, 3)).astype("float32")
    kernel = rng.integers(-3, 4, (*window, 3, 2)).astype("float32")
    plain = ops.conv(images, kernel, strides, padding, "channels_last")
    upstream = rng.integers(-3, 4, plain.shape).astype("float32")

    def by_phases(images, kernel):
        return convolution.convolve_by_phases(images, kernel, strides, padding)

    def by_xla(images, kernel):
        return ops.conv(images, kernel, strides, padding, "channels_last")

    np.testing.assert_array_equal(by_phases(images, kernel), plain)
    found, expected = (
        gradient(lambda x, k, convolve=each: upstream * convolve(x, k), images, kernel)
        for each in (by_phases, by_xla)
    )
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("strides", "training", "is_used"), [(2, True, True), (2, False, False), (1, True, False)]
)
def test_primary_caps_use_it_in_training_with_strides(monkeypatch, strides, training, is_used):
    calls = []
    monkeypatch.setattr(
        convolution,
        "convolve_by_phases",
        lambda *args: calls.append(args) or ops.conv(args[0], args[1], args[2], args[3]),
    )
    layer = PrimaryCaps(2, 4, kernel_size=3, strides=strides)
    layer(np.ones((1, 9, 9, 2), "float32"), training=training)
    assert bool(calls) == is_used
