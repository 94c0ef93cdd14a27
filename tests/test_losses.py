import itertools

import keras
import numpy as np
import pytest

from kcaps import losses
from kcaps.losses import MarginLoss, ReconstructionLoss, SpreadLoss


def numpy_margin(y, lengths, present=0.9, absent=0.1, weight=0.5):
    total = 0.0
    for row, target in zip(lengths, y, strict=True):
        for length, t in zip(row, target, strict=True):
            total += t * max(0, present - length) ** 2
            total += weight * (1 - t) * max(0, length - absent) ** 2
    return total / len(y)


def test_margin_equals_the_formula(rng):
    lengths = rng.uniform(size=(6, 5)).astype("float32")
    one_hot = np.eye(5)[[0, 4, 2, 2, 1, 3]]
    two_hot = np.maximum(one_hot, one_hot[::-1])
    for target in (one_hot, two_hot):
        assert float(MarginLoss()(target, lengths)) == pytest.approx(
            numpy_margin(target, lengths), rel=1e-5
        )
    custom = MarginLoss(0.8, 0.2, 0.3)
    expected = numpy_margin(one_hot, lengths, 0.8, 0.2, 0.3)
    assert float(custom(one_hot, lengths)) == pytest.approx(expected, rel=1e-5)


def test_margin_takes_integers_and_matrices_alike(rng):
    lengths = rng.uniform(size=(3, 5)).astype("float32")
    labels = np.array([0, 4, 2])
    values = {float(MarginLoss()(y, lengths)) for y in (labels, labels[:, None], np.eye(5)[labels])}
    assert len(values) == 1


def test_margin_weights_and_reduction(rng):
    lengths = rng.uniform(size=(3, 5)).astype("float32")
    labels, weights = np.array([0, 4, 2]), np.array([1.0, 0.0, 3.0])
    each = keras.ops.convert_to_numpy(MarginLoss(reduction=None)(labels, lengths))
    assert each.shape == (3,)
    weighted = MarginLoss()(labels, lengths, sample_weight=weights)
    assert float(weighted) == pytest.approx(float(np.sum(each * weights) / 3), rel=1e-5)


def test_margin_is_zero_within_the_margins():
    assert float(MarginLoss()(np.array([1]), np.array([[0.1, 0.9, 0.05]]))) < 1e-12


def test_reconstruction_sums_over_pixels(rng):
    images, decoded = rng.uniform(size=(2, 3, 4, 5, 1)).astype("float32")
    expected = 0.25 * np.sum((images - decoded) ** 2) / 3
    assert float(ReconstructionLoss(0.25)(images, decoded)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [MarginLoss(0.8, 0.2, 0.3, "sum"), ReconstructionLoss(2.0, None), SpreadLoss(0.3, "sum")],
)
def test_config_round_trip(loss):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert copy.get_config() == loss.get_config()


def test_names():
    assert isinstance(losses.get("margin"), MarginLoss)
    assert losses.get("mse") is keras.losses.get("mse")


def test_errors():
    with pytest.raises(ValueError, match="`present_margin` must be a finite number >= 0"):
        MarginLoss(present_margin=-1)
    with pytest.raises(ValueError, match="`weight` must be a finite number >= 0"):
        ReconstructionLoss(weight=float("nan"))
    with pytest.raises(ValueError, match="`labels` must be integers"):
        MarginLoss()(np.zeros((2, 4)), np.zeros((2, 5)))


def test_spread_equals_the_formula(rng):
    lengths = rng.uniform(size=(6, 5)).astype("float32")
    one_hot = np.eye(5)[[0, 4, 2, 2, 1, 3]]
    two_hot = np.maximum(one_hot, one_hot[::-1])
    for y in (one_hot, two_hot):
        total = 0.0
        for row, target in zip(lengths, y, strict=True):
            for t, i in itertools.product(range(5), range(5)):
                total += target[t] * (1 - target[i]) * max(0, 0.4 - (row[t] - row[i])) ** 2
        assert float(SpreadLoss(0.4)(y, lengths)) == pytest.approx(total / 6, rel=1e-5)
    assert float(losses.get("spread")(np.array([1]), np.array([[0.0, 0.95]]))) == 0
