"""The mathematics of capsule regression: against Monte Carlo and plain loops."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.regression import (
    CapsuleRegression,
    Competition,
    SubspaceProjection,
    class_probabilities,
    posterior_means,
)
from kcaps.regression.competition import ARCHITECTURES, AllVersusAll
from kcaps.regression.moments import inverse_factor, principal_directions
from kcaps.regression.subspace import stream


def monte_carlo(means, dims, draws=400_000):
    """Class probabilities and posterior means by sampling, one row of `means` at a time."""
    rng = np.random.default_rng(0)
    mask = np.arange(means.shape[-1]) < dims[:, None]
    probabilities, expected = [], []
    for mean in means:
        capsules = (mean + rng.normal(size=(draws, *mean.shape))) * mask
        squared = (capsules**2).sum(-1)
        classes = squared / squared.sum(-1, keepdims=True)  # (draws, m)
        probabilities.append(classes.mean(0))
        weights = classes / classes.sum(0)
        expected.append(np.einsum("nj,nid->jid", weights, capsules))
    return np.array(probabilities), np.array(expected)


@pytest.mark.parametrize("dims", [(3, 3, 3), (1, 3, 2)])
def test_inference_equals_sampling(dims):
    dims = np.array(dims)
    scale = np.array([0.0, 0.3, 2.0, 6.0])[:, None, None]
    means = scale * np.random.default_rng(1).normal(size=(4, 3, 3))
    means = (means * (np.arange(3) < dims[:, None])).astype("float32")
    probabilities, expected = monte_carlo(means, dims)
    received = ops.convert_to_numpy(class_probabilities(means, dims))
    np.testing.assert_allclose(received, probabilities, atol=2e-3)  # 400,000 draws
    np.testing.assert_allclose(received.sum(-1), 1, rtol=1e-6)
    for k in range(3):
        posterior = ops.convert_to_numpy(posterior_means(means, np.full(4, k), dims))
        np.testing.assert_allclose(posterior, expected[:, k], atol=2e-2)


def test_posterior_means_average_to_the_means():
    means = np.random.default_rng(2).normal(size=(5, 4, 3)).astype("float32")
    probabilities = ops.convert_to_numpy(class_probabilities(means))
    total = sum(
        probabilities[:, k, None, None]
        * ops.convert_to_numpy(posterior_means(means, np.full(5, k)))
        for k in range(4)
    )
    np.testing.assert_allclose(total, means, rtol=1e-5, atol=1e-6)


def test_inference_at_extremes(gradient):
    for scale in (0.0, 1e-20, 1e-3, 1e4, 1e9):
        means = scale * np.random.default_rng(0).normal(size=(6, 4, 2)).astype("float32")
        probabilities = ops.convert_to_numpy(class_probabilities(means))
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
        assert probabilities.min() > 0
        expected = posterior_means(means, np.zeros(6, int))
        assert np.isfinite(ops.convert_to_numpy(expected)).all()
        slopes = gradient(lambda x: ops.log(class_probabilities(x))[:, 0], means)
        assert np.isfinite(slopes).all()


@pytest.mark.parametrize("scale", [1e8, 1e10, 1e19, 1e30])
def test_means_whose_squares_overflow(gradient, scale):
    """Without noise left, probabilities are shares of the joint squared length."""
    means = np.random.default_rng(0).normal(size=(6, 4, 2))
    squared = (means**2).sum(-1)
    shares = squared / squared.sum(-1, keepdims=True)
    large = (scale * means).astype("float32")
    received = ops.convert_to_numpy(class_probabilities(large))
    np.testing.assert_allclose(received, shares, rtol=1e-6)
    expected = ops.convert_to_numpy(posterior_means(large, np.zeros(6, int)))
    np.testing.assert_allclose(expected, large, rtol=1e-6)
    slopes = gradient(lambda x: ops.log(class_probabilities(x))[:, 0], large)
    own = np.arange(4)[:, None] == 0
    exact = 2 * means * (own / squared[:, :1, None] - 1 / squared.sum(-1)[:, None, None])
    np.testing.assert_allclose(slopes * scale, exact, rtol=1e-5, atol=1e-5)
    layer = Competition(4, 2)
    layer.build((None, 3))
    probabilities = ops.convert_to_numpy(layer(scale * np.ones((1, 3), "float32")))
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-6)


def test_wrong_capsule_dims_are_refused():
    with pytest.raises(ValueError, match="one number for each of the 3 capsules, from 1 to 2"):
        class_probabilities(np.zeros((1, 3, 2), "float32"), (2, 2))


def binary(first, second):
    """Probability of the first of two capsules with these means, by the model of two classes."""
    pair = np.stack([first, second], axis=1).astype("float32")
    return ops.convert_to_numpy(class_probabilities(pair))[:, 0].astype("float64")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_equal_separate_problems(name):
    m, p, d = 4, 5, 3
    layer = Competition(m, d, name, keras.initializers.RandomNormal(stddev=1.0))
    features = np.random.default_rng(0).normal(size=(50, p)).astype("float32")
    received = ops.convert_to_numpy(layer(features))
    kernel = ops.convert_to_numpy(layer.kernel)
    means = np.einsum("bp,npcd->nbcd", features, kernel)
    np.testing.assert_allclose(received.sum(-1), 1, rtol=1e-5)
    if name == "multiclass":
        expected = ops.convert_to_numpy(class_probabilities(means[0]))
    elif name == "one_vs_all":
        own = np.stack([binary(means[k, :, 0], means[k, :, 1]) for k in range(m)], axis=1)
        expected = own / own.sum(1, keepdims=True)
    else:
        wins, inverse = np.zeros((50, m)), np.zeros((50, m))
        for n, (a, b) in enumerate(itertools.combinations(range(m), 2)):
            first = binary(means[n, :, 0], means[n, :, 1])
            wins[:, a] += first > 0.5
            wins[:, b] += first < 0.5
            inverse[:, a] += 1 / first
            inverse[:, b] += 1 / (1 - first)
        coupled = 1 / (inverse - (m - 2))
        coupled /= coupled.sum(1, keepdims=True)
        elected = np.where(wins == wins.max(1, keepdims=True), coupled, 0).argmax(1)
        np.testing.assert_array_equal(received.argmax(1), elected)
        agree = elected == coupled.argmax(1)
        assert 0.5 < agree.mean() < 1  # the exchange is exercised
        np.testing.assert_allclose(np.sort(received), np.sort(coupled), rtol=1e-4)
        np.testing.assert_allclose(received[agree], coupled[agree], rtol=1e-4)
        return
    np.testing.assert_allclose(received, expected, rtol=1e-4)


def test_all_versus_all_recovers_consistent_probabilities():
    problems = AllVersusAll(5)
    truth = np.random.default_rng(0).dirichlet(np.ones(5), size=20).astype("float32")
    pairs = truth[:, problems.pairs]  # (b, n, 2)
    received = problems.combine(ops.convert_to_tensor(pairs / pairs.sum(-1, keepdims=True)))
    np.testing.assert_allclose(ops.convert_to_numpy(received), truth, rtol=1e-3, atol=1e-6)
    even = problems.combine(ops.full((2, 10, 2), 0.5))
    np.testing.assert_allclose(ops.convert_to_numpy(even), 0.2, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dims", [2, (1, 3, 2)])
def test_competition_layer(tmp_path, name, dims):
    inputs = keras.Input((6,))
    layer = Competition(3, dims, name)
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, 3)
    features = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[-1].get_config() == layer.get_config()
    outputs = ops.convert_to_numpy(model(features))
    np.testing.assert_array_equal(outputs, ops.convert_to_numpy(loaded(features)))
    alone = np.concatenate([ops.convert_to_numpy(model(features[i : i + 1])) for i in range(7)])
    np.testing.assert_allclose(alone, outputs, rtol=1e-5)
    if name == "multiclass" and dims != 2:
        means = ops.convert_to_numpy(layer.means(features))
        assert means.shape == (7, 1, 3, 3)
        assert not means[:, 0, 0, 1:].any() and not means[:, 0, 2, 2:].any()
        assert means[:, 0, 1].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 2), "`num_classes` must be at least 2"),
        ((3, 0), "`capsule_dim` must be a positive integer"),
        ((3, (2, 2)), "one for each of the 3 classes. Received: 2 integers"),
        ((3, 2, "pairs"), "`architecture` must be one of 'multiclass', 'one_vs_all', 'all_vs_all'"),
    ],
)
def test_bad_arguments(arguments, message):
    for kind in (Competition, CapsuleRegression):
        with pytest.raises(ValueError, match=message):
            kind(*arguments)


def test_subspace_projection(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(300, 4, 3)) * np.arange(1, 13).reshape(4, 3) + 2
    flat = data.reshape(300, 12)
    _, _, expected = np.linalg.svd(flat, full_matrices=False)
    layer = SubspaceProjection(5)
    assert not layer.adapted
    layer.adapt(data, batch_size=37)
    kernel = ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(np.abs(expected[:5] @ kernel), np.eye(5), atol=1e-6)
    assert layer.adapted and layer.compute_output_shape((None, 4, 3)) == (None, 5)
    features = ops.convert_to_numpy(layer(data.astype("float32")))
    np.testing.assert_allclose(features, flat @ kernel, rtol=1e-4, atol=1e-4)
    streamed = SubspaceProjection(5)
    streamed.adapt((data[i : i + 50], np.zeros(50)) for i in range(0, 300, 50))
    np.testing.assert_allclose(ops.convert_to_numpy(streamed.kernel), kernel, atol=1e-5)
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[-1].adapted
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.layers[-1].kernel), kernel)


def test_subspace_projection_refuses():
    with pytest.raises(ValueError, match="at most the number of inputs, 6. Received: num_comp"):
        SubspaceProjection(7).adapt(np.ones((4, 2, 3)))
    with pytest.raises(ValueError, match="`x` must be finite"):
        SubspaceProjection(2).adapt(np.array([[1.0, np.nan, 2.0]]))
    with pytest.raises(ValueError, match="at least one example"):
        SubspaceProjection(2).adapt(iter(()))
    with pytest.raises(ValueError, match="known sizes"):
        SubspaceProjection(2)(keras.Input((None, 3)))


def test_streams_stop_after_steps_and_check_lengths():
    assert len(list(stream(itertools.repeat(np.ones((3, 2))), steps=4))) == 4
    with pytest.raises(ValueError, match="differ in length"):
        list(stream(np.ones((3, 2)), np.ones(2)))
    with pytest.raises(ValueError, match="`sample_weight` must be finite and >= 0"):
        list(stream(np.ones((2, 2)), np.ones(2), np.array([1.0, -1.0])))


def test_inverse_factor():
    data = np.random.default_rng(0).normal(size=(50, 6))
    moment = data.T @ data
    factor, ridge = inverse_factor(moment, 2.0)
    assert ridge == 2.0
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(moment + 2 * np.eye(6)), atol=1e-12)
    data[:, 5] = data[:, 4]
    with pytest.warns(UserWarning, match=r"linearly dependent \(rank 5 of 6\)"):
        factor, ridge = inverse_factor(data.T @ data, 0.0)
    assert ridge > 0 and np.isfinite(factor).all()
    directions = principal_directions(np.diag([1.0, 0.0, 0.0]), 2, np.diag([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(directions, [[1, 0], [0, 0], [0, 1]], atol=1e-6)


def test_data_and_models_that_are_not_ready():
    with pytest.raises(ValueError, match="`x` must not be zero in all examples"):
        inverse_factor(np.zeros((3, 3)), 0.0)
    model = CapsuleRegression(3, 2)
    with pytest.raises(ValueError, match="The model has no graph yet"):
        _ = model.output
    model.compile()
    with pytest.raises(ValueError, match="`y` must be the labels of the examples"):
        model.fit(np.ones((4, 2)), verbose=0)
    with pytest.raises(ValueError, match="inputs of known sizes"):
        CapsuleRegression(3, 2).build((None, None))
