"""Penalties by a proximal step, and coefficients on a sphere, against NumPy in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.routing import DiscriminativeRouting
from kcaps.routing.discriminative import soft_threshold


def network(routing):
    """A network of 18 primary capsules and 3 class capsules; other weights stay as they are."""
    image = keras.Input((7, 7, 1), name="image")
    capsules = PrimaryCaps(2, 4, kernel_size=3, strides=2)(image)
    return CapsNet(
        image, CapsuleLength()(DigitCaps(3, 4, routing=routing, name="classes")(capsules))
    )


@pytest.fixture
def batch(rng):
    return rng.uniform(size=(8, 7, 7, 1)).astype("float32"), rng.integers(3, size=8)


def coefficients_of(model):
    return ops.convert_to_numpy(model.get_layer("classes").routing.coefficients).copy()


def quadratic_forms(model, x, y, balanced=False):
    """Matrices `M_j` `(j, i, i)` of the objective `Σ_j b_jᵀ M_j b_j`, its sum over the batch."""
    layer = model.get_layer("classes")
    capsules = keras.Model(model.input, layer.input).predict(x, verbose=0).astype("float64")
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    votes = np.einsum("bik,ikjd->bijd", capsules, kernel)
    signs = np.where(y[:, None] == np.arange(3), 2 if balanced else 1, -1)
    return np.einsum("bj,bijd,bkjd->jik", signs, votes, votes)


def data_gradient(forms, b):
    return 2 * np.einsum("jik,kj->ij", forms, b)


def test_soft_threshold_is_the_proximal_map(rng):
    """It minimises ½ (x - z)² + t |x|, here over a fine grid."""
    values, grid = rng.normal(size=50), np.linspace(-4, 4, 80_001)
    found = ops.convert_to_numpy(soft_threshold(values.astype("float32"), 0.7))
    costs = 0.5 * (grid - values[:, None]) ** 2 + 0.7 * np.abs(grid)
    np.testing.assert_allclose(found, grid[costs.argmin(1)], atol=1e-4)
    assert (found == 0).any() and (found != 0).any()


@pytest.mark.parametrize("update", ["alternating", "joint"])
@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_a_step_ascends_and_then_shrinks(batch, penalty, update):
    model = network(DiscriminativeRouting(penalty, penalty_weight=1.5, proximal=True))
    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=0.05, update=update)
    b = coefficients_of(model)
    ascended = b + 0.05 * data_gradient(quadratic_forms(model, *batch), b)
    if penalty == "l1":
        expected = np.where(np.abs(ascended) <= 0.075, 0, ascended - 0.075 * np.sign(ascended))
    else:
        expected = ascended / (1 + 2 * 0.075)
    model.train_on_batch(*batch)
    np.testing.assert_allclose(coefficients_of(model), expected, atol=1e-5)


def test_zeros_are_exact_and_stay_where_subgradient_steps_cross(batch):
    """Under a penalty larger than any gain, one rests at zero and the other swings about it."""
    found = {}
    for proximal in (True, False):
        routing = DiscriminativeRouting("l1", penalty_weight=20.0, proximal=proximal)
        model = network(routing)
        model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=1e-3)
        repeated = (np.concatenate([part] * 40) for part in batch)
        model.fit(*repeated, batch_size=8, shuffle=False, verbose=0)
        found[proximal] = coefficients_of(model)
    assert (found[True] == 0).all()
    assert (found[False] != 0).all() and np.abs(found[False]).max() < 0.05


def test_the_rate_is_that_of_the_step(batch):
    """With a schedule, the first step has its first rate, before the optimizer counts on."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.05, 0.0])
    model = network(DiscriminativeRouting("l1", penalty_weight=1e6))
    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=schedule)
    model.train_on_batch(*batch)
    assert (coefficients_of(model) == 0).all()


def test_frozen_coefficients_stay(batch):
    model = network(DiscriminativeRouting("l1", penalty_weight=1e6))
    model.get_layer("classes").routing.trainable = False
    model.compile(keras.optimizers.SGD(0.1), routing_learning_rate=1.0)
    model.train_on_batch(*batch)
    assert (coefficients_of(model) == np.float32(1 / 3)).all()


def test_on_a_sphere_the_coefficients_become_the_leading_eigenvector(batch):
    model = network(
        DiscriminativeRouting(
            penalty_weight=0.0,
            balanced=True,
            reduction="mean",
            coefficients_initializer=keras.initializers.RandomNormal(seed=1),
            coefficients_constraint=keras.constraints.UnitNorm(axis=0),
        )
    )
    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=0.15)
    forms = quadratic_forms(model, *batch, balanced=True)
    images = np.concatenate([batch[0]] * 300), np.concatenate([batch[1]] * 300)
    model.fit(*images, batch_size=8, shuffle=False, verbose=0)
    b = coefficients_of(model)
    np.testing.assert_allclose(np.linalg.norm(b, axis=0), 1, atol=1e-5)
    for form, column in zip(forms, b.T, strict=True):
        values, vectors = np.linalg.eigh(form)
        assert values[-1] > 0
        # The quotient is second order in the error of the vector.
        assert column @ form @ column == pytest.approx(values[-1], rel=1e-3)


def test_the_constraint_holds_after_the_proximal_step(batch):
    unit = keras.constraints.UnitNorm(axis=0)
    model = network(DiscriminativeRouting("l1", 1.0, coefficients_constraint=unit))
    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=0.1)
    model.train_on_batch(*batch)
    np.testing.assert_allclose(np.linalg.norm(coefficients_of(model), axis=0), 1, atol=1e-5)
