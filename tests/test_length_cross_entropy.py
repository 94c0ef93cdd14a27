"""The cross-entropy of lengths, against a loop."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from kcaps import losses
from kcaps.losses import LengthCrossEntropy


def by_loop(y, lengths, scale, smoothing):
    total = 0.0
    for row, present in zip(lengths.astype("float64"), y, strict=True):
        norm = sum(math.exp(scale * length) for length in row)
        for length, is_present in zip(row, present, strict=True):
            wanted = (1 - smoothing) * is_present / max(sum(present), 1) + smoothing / len(row)
            total -= wanted * math.log(math.exp(scale * length) / norm)
    return total / len(y)


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("scale", [1, 12.0])
def test_equals_a_loop(rng, scale, smoothing):
    lengths = rng.uniform(size=(6, 5)).astype("float32")
    one_hot = np.eye(5)[[0, 4, 2, 2, 1, 3]]
    two_hot = np.maximum(one_hot, one_hot[::-1])
    loss = LengthCrossEntropy(scale, smoothing)
    for y in (one_hot, two_hot, np.zeros((6, 5))):
        expected = by_loop(y, lengths, scale, smoothing)
        assert float(loss(y, lengths)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    labels = np.array([0, 4, 2, 2, 1, 3])
    assert float(loss(labels, lengths)) == pytest.approx(float(loss(one_hot, lengths)), rel=1e-6)


def test_smoothed_loss_is_least_at_finite_lengths(rng, gradient):
    """At logits ln t, the softmax is the target, and the gradient vanishes."""
    scale, smoothing = 12.0, 0.2
    target = 0.8 * np.eye(4)[[1, 3]] + smoothing / 4
    lengths = (np.log(target) - np.log(target).min() + 0.1) / scale
    slope = gradient(
        lambda x: LengthCrossEntropy(scale, smoothing)(np.array([1, 3]), x),
        lengths.astype("float32"),
    )
    np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_by_name_config_and_errors():
    assert isinstance(losses.get("length_cross_entropy"), LengthCrossEntropy)
    loss = LengthCrossEntropy(scale=7, label_smoothing=0.3)
    same = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (same.scale, same.label_smoothing) == (7.0, 0.3)
    with pytest.raises(ValueError, match="`scale` must be positive"):
        LengthCrossEntropy(scale=0)
    with pytest.raises(ValueError, match="`label_smoothing` must be a number from 0 to 1"):
        LengthCrossEntropy(label_smoothing=1.5)


def test_a_number_that_is_no_class_is_nan():
    assert np.isnan(ops.convert_to_numpy(LengthCrossEntropy()(np.array([7]), np.zeros((1, 3)))))
