"""Every routing against a NumPy loop, and the contract that all of the table keep."""

import functools
import json
import math
import types

import keras
import numpy as np
import pytest
from keras import ops

import references
from kcaps import routing as routings
from kcaps.activations import squash
from kcaps.backend import compiling
from kcaps.layers import ConcurrentCaps, DigitCaps
from kcaps.routing import (
    DiscriminativeRouting,
    DynamicRouting,
    EMRouting,
    InvertedAttentionRouting,
    Routing,
    SelfAttentionRouting,
    StoredVotes,
    Votes,
    VotesOfOne,
    batch_first,
    em,
    routing_objective,
    votes_of,
)
from kcaps.routing.votes import softmax_over_outputs

NAMES = list(routings.ROUTINGS)
BACKEND = keras.backend.backend()


def case(make, reference, **options):
    return lambda: make(**options), functools.partial(reference, **options)


CASES = {
    **{
        f"dynamic_{n}": case(DynamicRouting, references.dynamic, num_iterations=n)
        for n in (1, 2, 3, 5)
    },
    "dynamic_leaky": case(DynamicRouting, references.dynamic, leaky=True),
    "dynamic_tolerance": case(
        DynamicRouting, references.dynamic, num_iterations=10, tolerance=0.05
    ),
    "l1": (lambda: DiscriminativeRouting("l1"), references.discriminative),
    "l2": (lambda: DiscriminativeRouting("l2"), references.discriminative),
    "em_1": case(EMRouting, references.em, num_iterations=1),
    "em_3": case(EMRouting, references.em),
    "em_hot": case(
        EMRouting, references.em, num_iterations=4, inverse_temperature=1.0, variance_floor=0.1
    ),
    "self_attention": (SelfAttentionRouting, references.self_attention),
    "inverted_attention_1": case(
        InvertedAttentionRouting, references.inverted_attention, num_iterations=1
    ),
    "inverted_attention_4": case(
        InvertedAttentionRouting, references.inverted_attention, num_iterations=4
    ),
    "uniform": (lambda: routings.get("uniform"), references.uniform),
}
cases = pytest.mark.parametrize(("make", "reference"), CASES.values(), ids=CASES)


@pytest.fixture
def problem(rng):
    inputs = rng.normal(size=(4, 6, 3)).astype("float32")
    kernel = rng.normal(size=(6, 3, 5, 4)).astype("float32")
    return inputs, kernel


def build(routing, problem):
    """Gives the routing's weights random values; returns them by name."""
    routing.build(problem[0].shape, problem[1].shape)
    rng = np.random.default_rng(1)
    for variable in routing.weights:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    return {v.name: ops.convert_to_numpy(v).astype("float64") for v in routing.weights}


def call(routing, inputs, kernel, compiled):
    """By XLA where the backend has it, as in training, or by the plain operations."""
    if BACKEND == "jax" and compiled:
        import jax

        poses = jax.jit(lambda *args: routing(*args, training=True))(inputs, kernel)
    else:
        poses = routing(inputs, kernel, training=compiled)
    return ops.convert_to_numpy(poses)


@pytest.mark.parametrize("compiled", [True, False])
@cases
def test_poses_equal_the_loops(problem, make, reference, compiled):
    routing = make()
    weights = build(routing, problem)
    expected, _ = reference(*problem, weights)
    np.testing.assert_allclose(call(routing, *problem, compiled), expected, atol=1e-5)


@cases
def test_couplings_of_each_iteration_equal_the_loops(problem, make, reference):
    routing = make()
    weights = build(routing, problem)
    _, expected = reference(*problem, weights)
    tensors = map(ops.convert_to_tensor, problem)
    steps = [ops.convert_to_numpy(couplings) for couplings, _ in routing.iterate(*tensors)]
    # with a tolerance, examples that are done keep their couplings
    expected += expected[-1:] * (len(steps) - len(expected))
    for couplings, reference_couplings in zip(steps, expected, strict=True):
        full = np.broadcast_to(couplings, reference_couplings.shape)
        np.testing.assert_allclose(full, reference_couplings, atol=1e-5)


@cases
def test_the_global_precision_does_not_count(problem, make, reference):
    """A layer of float32 computes in float32, whatever the default of new layers is."""
    usual, routing = keras.config.floatx(), make()
    build(routing, problem)
    tensors = [*map(ops.convert_to_tensor, problem), np.arange(4), np.full(4, 1 / 3)]
    steps, poses, objectives = [], [], []
    for floatx in (usual, "float16"):
        keras.config.set_floatx(floatx)
        try:
            steps.append([couplings for couplings, _ in routing.iterate(*tensors[:2])])
            poses.append(routing(*problem, training=False))
            if routing.routing_variables:
                objectives += [(routing.objective(*tensors), routing.penalty_term())]
        finally:
            keras.config.set_floatx(usual)
    np.testing.assert_allclose(*map(ops.convert_to_numpy, poses), atol=1e-6)
    for before, after in zip(*steps, strict=True):
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (before, after)), atol=1e-6)
    if objectives:
        before, after = ([float(ops.convert_to_numpy(x)) for x in pair] for pair in objectives)
        assert before == pytest.approx(after, rel=1e-6)


@pytest.mark.compiled
@pytest.mark.parametrize("compiled", [True, False])
@cases
def test_gradients_equal_numerical_ones(problem, gradient, make, reference, compiled):
    routing = make()
    weights = build(routing, problem)
    projection = np.random.default_rng(2).normal(size=(4, 5, 4)).astype("float32")

    def total(inputs, kernel, *values):
        with keras.StatelessScope(zip(routing.weights, values, strict=True)):
            poses = routing(inputs, kernel, training=compiled)
            return poses * ops.convert_to_tensor(projection)

    arrays = [*problem, *(w.astype("float32") for w in weights.values())]
    gradients = gradient(total, *arrays)

    def value(which, index, step):
        shifted = [x.astype("float64") for x in arrays]
        shifted[which][index] += step
        named = dict(zip(weights, shifted[2:], strict=True))
        return np.sum(reference(*shifted[:2], named)[0] * projection)

    indices = [(0, (1, 2, 0)), (0, (3, 5, 2)), (1, (0, 1, 2, 3)), (1, (5, 2, 4, 0))]
    indices += [(2 + n, (1,) * w.ndim) for n, w in enumerate(weights.values())]
    for which, index in indices:
        slope = (value(which, index, 1e-5) - value(which, index, -1e-5)) / 2e-5
        # float32 through several iterations
        assert float(gradients[which][index]) == pytest.approx(slope, rel=2e-3, abs=2e-4)


either_way = pytest.mark.parametrize("way", [Votes, StoredVotes])


@either_way
@pytest.mark.parametrize("components_first", [False, True])
def test_votes_equal_the_dense_tensor(rng, problem, way, components_first):
    inputs, kernel = problem
    votes = np.einsum("bik,ikjd->bijd", *(x.astype("float64") for x in problem))
    received = way(inputs, kernel, components_first)
    np.testing.assert_allclose(received.dense(), votes, atol=1e-5)
    total = votes.sum(1).transpose(1, 0, 2)
    np.testing.assert_allclose(received.sum(), total, atol=1e-5)
    couplings, sums = received.uniform()
    np.testing.assert_allclose(couplings, np.full((1, 6, 5), 0.2), atol=1e-7)
    np.testing.assert_allclose(sums, total / 5, atol=1e-5)
    couplings = rng.normal(size=(5, 4, 6)).astype("float32")
    expected = np.einsum("jbi,bijd->jbd", couplings, votes)
    np.testing.assert_allclose(received.weighted_sum(couplings), expected, atol=1e-5)
    targets = rng.normal(size=(5, 4, 4)).astype("float32")
    expected = np.einsum("jbd,bijd->jbi", targets, votes)
    np.testing.assert_allclose(received.agreement(targets), expected, atol=1e-5)
    kept = received.agreement(targets, keepdims=True)
    assert tuple(kept.shape) == ((5, 4, 1, 6) if components_first else (5, 4, 6, 1))
    np.testing.assert_allclose(received.as_couplings(kept), expected.transpose(1, 2, 0), atol=1e-5)
    np.testing.assert_allclose(
        received.weighted_sum(kept), received.weighted_sum(ops.cast(expected, "float32")), atol=1e-4
    )


@either_way
@pytest.mark.parametrize("components_first", [False, True])
def test_gradients_of_votes(rng, problem, gradient, way, components_first):
    """Sums and agreements are one trilinear form, in which couplings and targets change places."""
    couplings = rng.normal(size=(5, 4, 6)).astype("float32")
    targets = rng.normal(size=(5, 4, 4)).astype("float32")
    x, w, c, t = (array.astype("float64") for array in (*problem, couplings, targets))
    by_input = np.einsum("jbi,jbd,ikjd->bik", c, t, w)
    by_kernel = np.einsum("jbi,jbd,bik->ikjd", c, t, x)
    by_couplings = np.einsum("jbd,bik,ikjd->jbi", t, x, w)
    by_targets = np.einsum("jbi,bik,ikjd->jbd", c, x, w)

    def sums(x, w, c):
        return way(x, w, components_first).weighted_sum(c) * ops.convert_to_tensor(targets)

    def agreements(x, w, t):
        return way(x, w, components_first).agreement(t) * ops.convert_to_tensor(couplings)

    expected = (by_input, by_kernel, by_couplings)
    for received, exact in zip(gradient(sums, *problem, couplings), expected, strict=True):
        np.testing.assert_allclose(received, exact, atol=2e-5)
    expected = (by_input, by_kernel, by_targets)
    for received, exact in zip(gradient(agreements, *problem, targets), expected, strict=True):
        np.testing.assert_allclose(received, exact, atol=2e-5)


@either_way
def test_detached_votes_are_constants(rng, problem, gradient, way):
    couplings = rng.normal(size=(5, 4, 6)).astype("float32")
    targets = rng.normal(size=(5, 4, 4)).astype("float32")

    def total(inputs, kernel):
        votes = way(inputs, kernel)
        votes.agreement(targets)  # The votes themselves stay as they are.
        constant = votes.detached()
        assert type(constant) is way
        parts = (
            constant.agreement(targets),
            constant.weighted_sum(couplings),
            constant.sum(),
            constant.dense(),
        )
        return sum(ops.sum(part) for part in parts) + 0.0 * ops.sum(inputs) * ops.sum(kernel)

    assert all(not values.any() for values in gradient(total, *problem))
    constant = way(*problem).detached()
    np.testing.assert_allclose(
        constant.agreement(targets), Votes(*problem).agreement(targets), atol=1e-5
    )


@pytest.mark.parametrize("components_first", [False, True])
def test_votes_of_one_example(rng, problem, gradient, components_first):
    """They equal the factored ones, and so do their gradients."""
    inputs, kernel = problem[0][:1], problem[1]
    ours, others = (way(inputs, kernel, components_first) for way in (VotesOfOne, Votes))
    couplings = rng.normal(size=(5, 1, 6)).astype("float32")
    targets = rng.normal(size=(5, 1, 4)).astype("float32")

    def results(votes):
        kept = votes.agreement(targets, keepdims=True)
        return (
            *(votes.sum(0.3), *votes.uniform(), votes.dense(), kept),
            *(votes.agreement(targets), votes.weighted_sum(couplings), votes.weighted_sum(kept)),
        )

    for one, other in zip(results(ours), results(others), strict=True):
        assert tuple(one.shape) == tuple(other.shape)
        np.testing.assert_allclose(one, other, atol=1e-5)

    def total(way):
        def value(x, w):
            return sum(ops.sum(ops.square(part)) for part in results(way(x, w, components_first)))

        return value

    pairs = zip(*(gradient(total(way), inputs, kernel) for way in (VotesOfOne, Votes)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    constant = ours.detached()
    assert type(constant) is VotesOfOne
    np.testing.assert_allclose(constant.sum(), ours.sum(), atol=1e-6)


def test_which_votes_are_those_of_one(problem):
    inputs, kernel = problem
    assert type(votes_of(inputs[:1], kernel, components_first=True)) is VotesOfOne
    half = ops.cast(inputs[:1], "float16"), ops.cast(kernel, "float16")
    for votes in (
        votes_of(inputs, kernel, components_first=True),
        votes_of(inputs[:1], kernel),
        votes_of(*half, components_first=True),
    ):
        assert type(votes) is not VotesOfOne


@either_way
def test_votes_of_no_examples(problem, way):
    votes = way(problem[0][:0], problem[1])
    agreement = votes.agreement(votes.sum(), keepdims=True)
    assert tuple(agreement.shape) == (5, 0, 6, 1)
    assert tuple(votes.weighted_sum(agreement).shape) == (5, 0, 4)
    assert tuple(votes.as_couplings(agreement).shape) == (0, 6, 5)


@pytest.mark.parametrize(
    ("device", "batch", "num_inputs", "training", "expected"),
    [
        (("jax", "cpu"), 512, 1152, True, True),
        (("jax", "cpu"), 1024, 1152, True, False),
        (("jax", "cpu"), 1, 1152, False, True),
        (("jax", "cpu"), 8, 1152, None, True),
        (("jax", "cpu"), 32, 1152, False, False),
        (("jax", "cpu"), 32, 1152, None, False),
        (("jax", "gpu"), 32, 4096, True, True),
        (("jax", "gpu"), 128, 1152, True, False),
        (("jax", "gpu"), 32, 1152, False, True),
        (("jax", "gpu"), 32, 4096, False, False),
        (("torch", "cpu"), 8, 1152, True, True),
        (("torch", "cpu"), 32, 1152, True, False),
        (("torch", "cpu"), 512, 1152, False, True),
        (("torch", "cpu"), 1024, 1152, False, False),
        (("torch", "cuda"), 128, 1152, True, True),
        (("torch", "cuda"), 512, 1152, True, False),
        (("torch", "cuda"), 512, 1152, False, True),
        (("torch", "meta"), 1, 1152, True, False),
        (("jax", "tpu"), 1, 1152, True, False),
        (("tensorflow", None), 1, 1152, True, False),
        (("torch", "cuda"), None, 1152, True, False),
        (("torch", "cuda"), 0, 1152, True, True),
    ],
)
def test_which_votes_are_stored(monkeypatch, device, batch, num_inputs, training, expected):
    monkeypatch.setattr(compiling, "_device_of", lambda tensor: device)

    def is_stored(input_dim, dtype):
        inputs = types.SimpleNamespace(shape=(batch, num_inputs, input_dim), dtype=dtype)
        kernel = types.SimpleNamespace(shape=(num_inputs, input_dim, 10, 16), dtype=dtype)
        return compiling.prefers_stored_votes(inputs, kernel, training)

    assert is_stored(8, "float32") == expected
    assert not is_stored(7, "float32")  # The votes have more than twice its components.
    # XLA for a CPU computes in float32, where there is JAX.
    assert is_stored(8, "bfloat16") == (expected and BACKEND == "jax")


def test_the_rule_is_told_whether_a_model_trains(monkeypatch, rng):
    seen = []

    def rule(inputs, kernel, training):
        seen.append((tuple(inputs.shape), tuple(kernel.shape), training))
        return False

    monkeypatch.setattr("kcaps.routing.stored_votes.prefers_stored_votes", rule)
    capsules = ops.convert_to_tensor(rng.normal(size=(2, 6, 3)).astype("float32"))
    for name in ("dynamic", "self_attention", "inverted_attention", "concurrent"):
        concurrent = name == "concurrent"
        layer = DigitCaps(5, 4, routing="inverted_attention" if concurrent else name)
        layer = ConcurrentCaps([layer]) if concurrent else layer
        layer.build((None, 6, 3))
        for training in (True, False, None):
            seen.clear()
            layer(capsules, training=training)
            # Outside of a model, Keras takes a call that nobody says trains for inference.
            assert {bool(known) for _, _, known in seen} == {bool(training)}, (name, seen)
            assert {shapes[:2] for shapes in seen} == {((2, 6, 3), (6, 3, 5, 4))}


@pytest.mark.compiled
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        DynamicRouting,
        functools.partial(DynamicRouting, stop_gradient=True, leaky=True),
        functools.partial(DynamicRouting, tolerance=0.05),
        SelfAttentionRouting,
        functools.partial(InvertedAttentionRouting, 3),
    ],
)
def test_routings_are_the_same_of_stored_votes(monkeypatch, problem, gradient, make, training):
    inputs, kernel = problem
    inputs = np.concatenate([inputs, 1e3 * inputs[:1], np.zeros_like(inputs[:1])])
    found = []
    for is_stored in (False, True):
        rule = "kcaps.routing.stored_votes.prefers_stored_votes"
        monkeypatch.setattr(rule, lambda *args, is_stored=is_stored: is_stored)
        routing = make()
        build(routing, problem)
        poses = call(routing, inputs, kernel, training)
        if training or BACKEND != "tensorflow":  # There, Keras has no largest of no logits.
            assert call(routing, inputs[:0], kernel, training).shape == (0, 5, 4)
        gradients = gradient(
            lambda u, w, routing=routing: ops.square(routing(u, w, training=training)),
            inputs[[0, 1, 2, 3, 5]],
            kernel,
        )
        found.append([poses, *gradients])
    for factored, stored in zip(*found, strict=True):
        assert np.isfinite(stored).all()
        np.testing.assert_allclose(stored, factored, rtol=1e-4, atol=2e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="tensors have a device of their own on torch")
@either_way
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_votes_stay_on_their_device(way, dtype):
    """On the device `meta`, which stands for a GPU here: it has shapes and no values."""
    import torch

    inputs, kernel = (
        torch.ones(shape, dtype=getattr(torch, dtype), device="meta")
        for shape in ((2, 6, 3), (6, 3, 5, 4))
    )
    with keras.device("meta"):
        votes = way(inputs, kernel)
        agreement = votes.detached().agreement(votes.sum(), keepdims=True)
        tensors = (agreement, votes.weighted_sum(agreement), votes.dense(), *votes.uniform())
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@either_way
@pytest.mark.parametrize("components_first", [False, True])
def test_sums_in_half_precision_keep_their_digits(way, components_first):
    """A share of a small kernel would be below the smallest normal number of float16."""
    inputs, kernel = np.full((2, 6, 3), 64, "float16"), np.full((6, 3, 5, 4), 2.0**-14, "float16")
    votes = way(inputs, kernel, components_first)
    sums = ops.convert_to_numpy(ops.cast(votes.sum(1 / 700), "float32"))
    np.testing.assert_allclose(sums, np.full((5, 2, 4), 18 * 2.0**-8 / 700), rtol=2e-3)
    agreement = votes.agreement(ops.full((5, 2, 4), 64.0, "float16"))
    assert keras.backend.standardize_dtype(agreement.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(agreement), 3 * 4 * 0.25, rtol=1e-6)
    couplings = ops.full((5, 2, 6), 0.5)
    weighted = votes.weighted_sum(couplings)
    assert keras.backend.standardize_dtype(weighted.dtype) == "float16"


def test_objective_at_all_lengths():
    lengths = np.geomspace(1e-6, 1e6, 200)
    sums = np.zeros((200, 1, 3), "float32")
    sums[:, 0, 1] = lengths
    expected = []
    for z in lengths:
        # float64 loses the difference below 1e-3, where two terms of the series are exact to 1e-12
        expected.append(z**3 / 3 - z**5 / 5 if z < 1e-3 else z - math.atan(z))
    np.testing.assert_allclose(-routing_objective(sums), expected, rtol=5e-6, atol=0)
    # four terms of the series leave less than 1e-6 just below 0.2, where they are used last
    series = [-routing_objective([[[z, 0.0]]]) for z in (0.18, 0.199)]
    expected = [[z - math.atan(z)] for z in map(float, np.float32([0.18, 0.199]))]
    np.testing.assert_allclose(series, expected, rtol=1.2e-6)


@pytest.mark.parametrize("leaky", [False, True])
def test_stop_gradient_leaves_values_and_holds_the_couplings(problem, gradient, leaky):
    inputs, kernel = problem
    through, held = (DynamicRouting(3, stop, leaky) for stop in (False, True))
    np.testing.assert_allclose(call(through, *problem, True), call(held, *problem, True))
    *_, (couplings, _) = held.iterate(inputs, kernel)
    fixed = ops.stop_gradient(ops.transpose(couplings, (2, 0, 1)))

    def with_fixed_couplings(x):
        return squash(batch_first(Votes(x, kernel).weighted_sum(fixed))) ** 2

    expected = gradient(with_fixed_couplings, inputs)
    a = gradient(lambda x: through(x, kernel, training=True) ** 2, inputs)
    b = gradient(lambda x: held(x, kernel, training=True) ** 2, inputs)
    np.testing.assert_allclose(b, expected, atol=1e-5)
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize("compiled", [True, False])
def test_tolerance_decides_for_each_example(problem, compiled):
    """Zero is never undercut, infinity at once, and what is between stops each row by itself."""
    inputs, kernel = problem
    for tolerance, num_iterations in [(0.0, 6), (1e9, 2)]:
        adaptive = call(DynamicRouting(6, tolerance=tolerance), inputs, kernel, compiled)
        fixed = call(DynamicRouting(num_iterations), inputs, kernel, compiled)
        np.testing.assert_allclose(adaptive, fixed, atol=1e-6)
    adaptive = call(DynamicRouting(10, tolerance=0.05), inputs, kernel, compiled)
    steps = [ops.convert_to_numpy(poses) for _, poses in DynamicRouting(10).iterate(*problem)]
    errors = np.abs(np.array(steps) - adaptive).max(axis=(2, 3))  # (iteration, b)
    assert (errors.min(axis=0) < 1e-5).all()
    assert len(set(errors.argmin(axis=0))) > 1


def test_votes_of_hardly_any_mass():
    """At the mass that the denominator is guarded with, half of the mean of the votes is left."""
    votes = np.array([1.0, 3.0], "float32").reshape(1, 2, 1, 1)
    mass = np.full((1, 2, 1), 0.5e-7, "float32")
    tensors = map(ops.convert_to_tensor, (votes, mass, *np.zeros((2, 1), "float32")))
    means, variances, _ = em._maximization(*tensors, 1.0, 0.25)
    assert float(means[0, 0, 0]) == pytest.approx(1.0, rel=1e-5)
    assert float(variances[0, 0, 0]) == pytest.approx((0 + 4) / 4 + 0.25, rel=1e-5)


def test_uniform_is_one_iteration_of_dynamic(problem):
    uniform = call(routings.get("uniform"), *problem, True)
    np.testing.assert_allclose(uniform, call(DynamicRouting(1), *problem, True), atol=1e-7)


def test_nearly_equal_components_are_normalized(problem):
    inputs, kernel = problem
    kernel = 10 * kernel[..., :1] + 1e-3 * kernel
    poses = call(InvertedAttentionRouting(), inputs, kernel, True)
    assert np.isfinite(poses).all()
    # mean 0 and variance 1 but for the epsilon, and for the rounding of sums of like components
    np.testing.assert_allclose(poses.mean(-1), 0, atol=1e-2)
    assert (poses.var(-1) < 1.01).all()


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("shift", [-1000.0, -3.0, 0.0, 1000.0])
def test_softmax_of_logits_of_any_size(rng, leaky, shift):
    logits = rng.normal(size=(5, 2, 3)) + shift
    padded = np.concatenate([logits, np.zeros((int(leaky), 2, 3))])
    powers = np.exp(padded - padded.max(0))
    received = softmax_over_outputs(ops.convert_to_tensor(logits.astype("float32")), leaky)
    expected = (powers / powers.sum(0))[:5]
    # the rounding of logits of a thousand
    np.testing.assert_allclose(ops.convert_to_numpy(received), expected, rtol=2e-4, atol=1e-7)


def test_leaky_couplings_leave_a_share_to_none():
    inputs, kernel = np.full((1, 4, 3), 0.5, "float32"), np.full((4, 3, 5, 2), 0.1, "float32")
    for couplings, _ in DynamicRouting(3, leaky=True).iterate(inputs, kernel):
        total = ops.convert_to_numpy(couplings).sum(-1)
        assert (total > 5 / 6 - 1e-6).all() and (total < 1).all()


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_routing_gradient_equals_equations_13_and_15(
    rng, problem, gradient, penalty, balanced, reduction
):
    inputs, kernel = problem
    labels, weight = np.array([0, 3, 3, 1]), 0.01
    routing = DiscriminativeRouting(penalty, weight, balanced, reduction)
    routing.build(inputs.shape, kernel.shape)
    tensors = [ops.convert_to_tensor(x) for x in problem]
    b = rng.normal(size=(6, 5)).astype("float32")
    b[0, 0] = 0.0  # the derivative of |x| at 0 counts as 0

    def objective(coefficients):
        with keras.StatelessScope([(routing.coefficients, coefficients)]):
            return routing.objective(*tensors, labels) - routing.penalty_term()

    sums = numpy_sums(inputs, kernel, b)
    expected = np.zeros((6, 5))
    for i in range(6):
        for j in range(5):
            for k in range(4):
                delta = (4 if balanced else 1) if labels[k] == j else -1
                vote = inputs[k, i].astype("float64") @ kernel[i, :, j]
                expected[i, j] += 2 * delta * (vote @ sums[k, j])
            expected[i, j] /= 4 if reduction == "mean" else 1
            expected[i, j] -= weight * (np.sign(b[i, j]) if penalty == "l1" else 2 * b[i, j])
    np.testing.assert_allclose(gradient(objective, b), expected, rtol=1e-4, atol=1e-4)


def numpy_sums(inputs, kernel, coefficients):
    """Sums of equation (6) of Yang et al., before squash, in float64."""
    votes = np.einsum("bik,ikjd->bijd", inputs.astype("float64"), kernel.astype("float64"))
    return np.einsum("ij,bijd->bjd", coefficients, votes)


def test_objective_counts_sample_weights_and_several_labels(problem):
    inputs, kernel = problem
    routing = DiscriminativeRouting()
    routing.build(inputs.shape, kernel.shape)
    two_hot = np.eye(5)[[0, 1, 2, 3]] + np.eye(5)[[4, 4, 4, 4]]
    squared = (numpy_sums(inputs, kernel, np.full((6, 5), 0.2)) ** 2).sum(-1)
    weights = np.array([1.0, 0.0, 2.0, 0.5])
    expected = np.sum(weights[:, None] * (2 * two_hot - 1) * squared)
    value = routing.objective(*map(ops.convert_to_tensor, problem), two_hot, sample_weight=weights)
    assert float(ops.convert_to_numpy(value)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_batch(problem, name):
    """Alone, in a batch of 7, with the others permuted: the same to rounding of the sums."""
    _, kernel = problem
    # no sum of these is nearly constant: layer normalisation would magnify the rounding
    inputs = np.random.default_rng(1).normal(size=(7, 6, 3)).astype("float32")
    routing = routings.get(name)
    build(routing, problem)
    poses = call(routing, inputs, kernel, False)
    for b in range(len(inputs)):
        alone = call(routing, inputs[b : b + 1], kernel, False)
        np.testing.assert_allclose(alone[0], poses[b], atol=2e-6)
    order = [3, 0, 6, 1, 5, 2, 4]
    np.testing.assert_allclose(call(routing, inputs[order], kernel, True), poses[order], atol=2e-6)
    ragged = call(routing, inputs[4:], kernel, True)
    np.testing.assert_allclose(ragged, poses[4:], atol=2e-6)


@pytest.mark.compiled
@pytest.mark.parametrize("name", [*NAMES, "tolerance", "leaky"])
def test_values_and_gradients_are_finite_at_extremes(gradient, problem, name):
    inputs, kernel = problem
    options = {"tolerance": 1e-3} if name == "tolerance" else {"leaky": True}
    routing = routings.get(name) if name in NAMES else DynamicRouting(**options)
    routing.build(inputs.shape, kernel.shape)  # outside JAX's traces, which weights would escape
    mixed = np.ones((4, 6, 1)) * np.array([0, 1, 1e-20, 1, 1e4, 0])[:, None]
    for size in (0.0, 1e-20, 1e4, mixed):
        scaled = (inputs * size).astype("float32")
        assert np.isfinite(call(routing, scaled, kernel, True)).all()
        gradients = gradient(lambda u, w: routing(u, w, training=True), scaled, kernel)
        assert all(np.isfinite(g).all() for g in gradients), size


@pytest.mark.parametrize(
    "name", ["dynamic", "em", "self_attention", "inverted_attention", "uniform"]
)
def test_couplings_sum_to_one_over_output_capsules(problem, name):
    routing = routings.get(name)
    routing.build(problem[0].shape, problem[1].shape)  # self-attention: the bias starts at zero
    for couplings, _ in routing.iterate(*problem):
        np.testing.assert_allclose(ops.convert_to_numpy(couplings).sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_names_configs_and_objects_give_equal_routings(name):
    routing = routings.get(name)
    assert routings.get(routing) is routing
    copy = routings.get(routings.serialize(routing))
    assert type(copy) is type(routing) and copy is not routing
    assert copy.get_config() == routing.get_config()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dynamic", {}),
        ("uniform", {}),
        ("l1", {"coefficients": np.full((6, 5), 0.2)}),
        ("em", {"activation_bias": np.zeros(5), "cost_bias": np.zeros(5)}),
        ("self_attention", {"bias": np.zeros((6, 5))}),
        ("inverted_attention", {"scale": np.ones(4), "offset": np.zeros(4)}),
    ],
)
def test_weights_at_the_start(name, expected):
    routing = routings.get(name)
    routing.build((None, 6, 3), (6, 3, 5, 4))
    assert [v.name for v in routing.weights] == list(expected)
    for variable, value in zip(routing.weights, expected.values(), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(variable), value, rtol=1e-7)
        assert tuple(variable.shape) == value.shape


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_poses_have_their_shape(name):
    poses = routings.get(name)(keras.Input((6, 3)), keras.KerasTensor((6, 3, 5, 4)))
    assert poses.shape == (None, 5, 4)


def test_defaults():
    documented = {
        DynamicRouting: {
            "num_iterations": 3,
            "stop_gradient": False,
            "leaky": False,
            "tolerance": None,
        },
        DiscriminativeRouting: {
            "penalty": "l2",
            "penalty_weight": 0.001,
            "balanced": False,
            "reduction": "sum",
            "coefficients_initializer": None,
            "proximal": False,
            "coefficients_constraint": None,
        },
        EMRouting: {"num_iterations": 3, "inverse_temperature": 0.01, "variance_floor": 5e-4},
        InvertedAttentionRouting: {"num_iterations": 2},
    }
    for cls, options in documented.items():
        base = Routing(name=cls().name).get_config()
        assert {k: v for k, v in cls().get_config().items() if k not in base} == options


def test_plain_class_names_are_configs():
    config = {"class_name": "DynamicRouting", "config": {"num_iterations": 4}}
    assert routings.get(config).num_iterations == 4


def test_config_covers_every_argument():
    dynamic = DynamicRouting(num_iterations=7, stop_gradient=True, leaky=True, tolerance=0.5)
    copy = routings.deserialize(routings.serialize(dynamic))
    assert (copy.num_iterations, copy.stop_gradient) == (7, True)
    assert (copy.leaky, copy.tolerance) == (True, 0.5)
    copy = routings.deserialize(routings.serialize(EMRouting(2, 0.1, 0.2)))
    assert (copy.num_iterations, copy.inverse_temperature, copy.variance_floor) == (2, 0.1, 0.2)
    copy = routings.deserialize(routings.serialize(InvertedAttentionRouting(5)))
    assert copy.num_iterations == 5
    copy = routings.deserialize(routings.serialize(SelfAttentionRouting("ones")))
    copy.build((None, 2, 3), (2, 3, 4, 5))
    assert ops.convert_to_numpy(copy.bias)[0, 0] == 1.0
    routing = DiscriminativeRouting("l1", 0.5, True, "mean", keras.initializers.Constant(3.0))
    copy = routings.deserialize(routings.serialize(routing))
    assert (copy.penalty, copy.penalty_weight, copy.balanced) == ("l1", 0.5, True)
    json.dumps(routing.get_config())  # of plain values
    copy.build((None, 2, 3), (2, 3, 4, 5))
    assert copy.reduction == "mean" and ops.convert_to_numpy(copy.coefficients)[0, 0] == 3.0
    assert copy.proximal and not DiscriminativeRouting("l2").proximal
    unit = keras.constraints.UnitNorm(axis=0)
    routing = DiscriminativeRouting("l1", proximal=False, coefficients_constraint=unit)
    copy = routings.deserialize(routings.serialize(routing))
    json.dumps(routing.get_config())
    assert not copy.proximal and copy.coefficients_constraint.axis == 0


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", NAMES)
def test_xla_in_training_and_none_at_inference(problem, xla_calls, name):
    routing = routings.get(name)
    routing(*problem)
    assert any(xla_calls(lambda u, w: routing(u, w, training=True), *problem))
    assert not any(xla_calls(lambda u, w: routing(u, w, training=False), *problem))


@pytest.mark.parametrize("training", [False, True])
def test_plain_lists_and_integers_are_arrays(problem, training):
    routing, whole = routings.get("uniform"), [np.round(4 * part) for part in problem]
    expected = ops.convert_to_numpy(routing(*whole, training=training))
    for given in ([part.tolist() for part in whole], [part.astype("int32") for part in whole]):
        poses = ops.convert_to_numpy(routing(*given, training=training))
        np.testing.assert_array_equal(poses, expected)


def test_symbolic_capsules(problem):
    inputs, kernel = problem
    places = keras.KerasTensor((None, 6, 3)), keras.KerasTensor(kernel.shape)
    poses = routings.get("uniform")(*places)
    assert isinstance(poses, keras.KerasTensor) and poses.shape == (None, 5, 4)


def test_shapes_that_do_not_fit_are_refused(problem):
    inputs, kernel = problem
    routing = routings.get("uniform")
    assert routing(inputs, kernel[:, :, :1]).shape == (*inputs.shape[:1], 1, 4)
    for shapes in [
        (inputs[:, :3], kernel),
        (inputs[..., :2], kernel),
        (inputs, kernel[..., 0]),
        (inputs, kernel[:, :, :0]),
        (inputs[:, :0], kernel[:0]),
    ]:
        with pytest.raises(ValueError, match="must have the shape \\(batch, num_inputs, input_dim"):
            routing(*shapes)


@keras.saving.register_keras_serializable(package="kcaps_tests")
class CountingRouting(Routing):
    """A user's routing on votes, with a scale of its own and a state that calls change."""

    def __init__(self, power=1.0, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def build(self, input_shape, kernel_shape):
        assert input_shape[1:] == kernel_shape[:2]
        self.scale = self.add_weight(shape=(kernel_shape[2], 1), initializer="ones", name="scale")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.built = True

    def call(self, inputs, kernel):
        self.calls.assign(self.calls + 1)
        return squash(self.scale * keras.ops.mean(self.votes(inputs, kernel), axis=1))

    def get_config(self):
        return {**super().get_config(), "power": self.power}


def test_a_users_routing_works_saves_and_loads(problem, tmp_path):
    inputs, kernel = problem
    layer = DigitCaps(5, 4, routing=CountingRouting(power=2.0))
    model = keras.Sequential([keras.Input((6, 3)), layer])
    layer.kernel.assign(kernel)
    votes = np.einsum("bik,ikjd->bijd", inputs, kernel)
    expected = np.apply_along_axis(references.squash, -1, votes.mean(1))
    calls = float(layer.routing.calls)
    poses = ops.convert_to_numpy(model(inputs, training=True))
    np.testing.assert_allclose(poses, expected, atol=1e-5)
    assert float(layer.routing.calls) == calls + 1  # state survives the compiled call
    layer.routing.scale.assign(layer.routing.scale * 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))
    assert loaded.layers[-1].routing.power == 2.0


def test_changed_settings_count_in_training_too(problem):
    routing = DynamicRouting(1)
    call(routing, *problem, True)
    routing.num_iterations = 4
    expected = call(DynamicRouting(4), *problem, False)
    np.testing.assert_allclose(call(routing, *problem, True), expected, atol=1e-6)


class ScaledRouting(CountingRouting):
    def call(self, inputs, kernel):
        return self.power * super().call(inputs, kernel)


def test_settings_of_a_users_routing_may_be_numpys(problem):
    """JSON does not know them; a change of them counts at once."""
    routing = ScaledRouting(power=np.float32(2.0))
    poses = ops.convert_to_numpy(routing(*problem, training=True))
    routing.power = np.float32(3.0)
    changed = ops.convert_to_numpy(routing(*problem, training=True))
    np.testing.assert_allclose(changed, 1.5 * poses, rtol=1e-6)


class DroppingRouting(Routing):
    """A user's routing that differs in training, by a layer of its own and by the argument."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = keras.layers.Dropout(0.5, seed=0)

    def call(self, inputs, kernel, training=None):
        poses = self.dropout(ops.sum(self.votes(inputs, kernel), axis=1))
        return poses + 100.0 if training else poses


@pytest.mark.parametrize("alone", [False, True])
def test_training_reaches_the_routing_and_its_layers(problem, alone):
    layer = DroppingRouting() if alone else DigitCaps(5, 4, routing=DroppingRouting())
    inputs = problem if alone else problem[:1]
    for training in (None, True, False, True, None):
        poses = ops.convert_to_numpy(layer(*inputs, training=training))
        dropped = np.isclose(poses, 100.0 if training else 0.0, atol=1e-6).mean()
        assert (0.2 < dropped < 0.8) if training else dropped == 0
        assert (np.abs(poses).max() > 50) == bool(training)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_gives_no_poses(problem, name):
    routing = routings.get(name)
    build(routing, problem)
    assert routing(problem[0][:0], problem[1], training=False).shape == (0, 5, 4)


def test_a_routing_without_call_says_so(problem):
    with pytest.raises(NotImplementedError, match=r"must implement `call\(inputs, kernel\)`"):
        Routing()(*problem, training=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DynamicRouting(0), "`num_iterations` must be a positive integer. Received"),
        (lambda: DynamicRouting(2.0), "num_iterations=2.0"),
        (lambda: DynamicRouting(True), "num_iterations=True"),
        (lambda: DynamicRouting(tolerance=-1), "`tolerance` must be a finite number >= 0"),
        (lambda: EMRouting(0), "`num_iterations` must be a positive integer"),
        (lambda: EMRouting(inverse_temperature=-1), "`inverse_temperature` must be a finite"),
        (lambda: EMRouting(variance_floor=-1), "`variance_floor` must be a finite number >= 0"),
        (lambda: EMRouting(variance_floor=0), "`variance_floor` must be positive"),
        (lambda: InvertedAttentionRouting(0.5), "num_iterations=0.5"),
        (
            lambda: InvertedAttentionRouting().build((None, 6, 3), (6, 3, 5, 1)),
            "output capsules of at least 2 components",
        ),
        (lambda: DiscriminativeRouting("l3"), "`penalty` must be one of 'l1', 'l2'"),
        (lambda: DiscriminativeRouting("l1", -1), "`penalty_weight` must be a finite number >= 0"),
        (lambda: DiscriminativeRouting("l1", reduction="max"), "`reduction` must be one of"),
        (lambda: DiscriminativeRouting("l1", balanced=1), "`balanced` must be True or False"),
        (lambda: DiscriminativeRouting(proximal="no"), "`proximal` must be True or False"),
        (lambda: DynamicRouting(stop_gradient="no"), "`stop_gradient` must be True or False"),
        (lambda: DynamicRouting(leaky=None), "`leaky` must be True or False"),
        (lambda: routings.get("best"), "'inverted_attention', 'uniform', a config, or an instance"),
        (lambda: routings.get(3), "Received: routing=3"),
        (lambda: routings.get({"rate": 3}), "`routing` must be the config of a kcaps.routing.Rou"),
        (
            lambda: routings.get({"module": "m", "class_name": "Nothing", "config": {}}),
            "`routing` is not the config of a routing",
        ),
        (
            lambda: routings.get(keras.saving.serialize_keras_object(keras.layers.ReLU())),
            "Received the config of: ReLU",
        ),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
