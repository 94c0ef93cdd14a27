"""Diagnostics of routings against the definitions, and Ye, Li and Shen's theorem."""

import keras
import numpy as np
import pytest
from keras import ops

import references
from kcaps import diagnostics
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.routing import ROUTINGS, DynamicRouting, Routing


def layer_on(rng, num_inputs, input_dim, num_outputs, output_dim, routing="dynamic", scale=1.0):
    layer = DigitCaps(num_outputs, output_dim, routing=routing)
    layer.build((None, num_inputs, input_dim))
    layer.kernel.assign(scale * rng.normal(size=layer.kernel.shape))
    return layer


def test_entropy_and_polarisation_by_hand():
    couplings = np.array([[[0.25] * 4, [1, 0, 0, 0]], [[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]]])
    entropy = [np.log(4) / 2, (np.log(2) - sum(p * np.log(p) for p in (0.1, 0.2, 0.3, 0.4))) / 2]
    np.testing.assert_allclose(diagnostics.coupling_entropy(couplings), entropy, rtol=1e-6)
    np.testing.assert_allclose(diagnostics.polarisation(couplings), [0.625, 0.45], rtol=1e-6)
    # signed coefficients count by their shares, and none at all as undecided as can be
    signed = np.array([[[-3.0, 1.0], [0.0, 0.0]]])
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / 2
    np.testing.assert_allclose(diagnostics.coupling_entropy(signed), [expected], rtol=1e-6)
    np.testing.assert_allclose(diagnostics.polarisation(signed), [0.375], rtol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_the_objective_never_rises_on_random_votes(seed):
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers((2, 1, 2, 1), (40, 9, 12, 17))]
    layer = layer_on(rng, *sizes, scale=10.0 ** rng.uniform(-1.5, 1.5))
    for _ in range(3):  # one example each: the mean of several could hide a rise
        capsules = rng.normal(size=(1, *sizes[:2]))
        trace = diagnostics.trace_routing(layer, capsules, DynamicRouting(25))
        objective = trace["objective"]
        assert len(objective) == 25
        # float32 sums over all votes
        assert np.diff(objective).max() <= 2e-6 * np.abs(objective).max()
        assert objective[-1] < objective[0]


def test_trace_equals_the_loops(rng):
    layer = layer_on(rng, 6, 3, 5, 4)
    capsules = rng.normal(size=(4, 6, 3)).astype("float32")
    kernel = ops.convert_to_numpy(layer.kernel)
    trace = diagnostics.trace_routing(layer, capsules, DynamicRouting(5))
    poses, couplings = references.dynamic(capsules, kernel, {}, num_iterations=5)
    votes = np.einsum("bik,ikjd->bijd", capsules.astype("float64"), kernel)
    for t, c in enumerate(couplings):
        sums = np.einsum("bij,bijd->bjd", c, votes)
        expected = np.mean([references.objective(s) for s in sums])
        assert trace["objective"][t] == pytest.approx(expected, rel=1e-5)
        assert trace["entropy"][t] == pytest.approx(-np.mean((c * np.log(c)).sum(-1)), rel=1e-4)
        assert trace["polarisation"][t] == pytest.approx(c.max(-1).mean(), rel=1e-5)
    np.testing.assert_allclose(trace["lengths"][-1], np.linalg.norm(poses, axis=-1), atol=1e-5)


def test_iterations_polarise(rng):
    layer = layer_on(rng, 20, 4, 5, 8)
    trace = diagnostics.trace_routing(layer, rng.normal(size=(3, 20, 4)), DynamicRouting(100))
    assert trace["entropy"][0] == pytest.approx(np.log(5), rel=1e-6)
    assert trace["polarisation"][0] == pytest.approx(0.2, rel=1e-6)
    assert trace["polarisation"][-1] > 0.99 and trace["entropy"][-1] < 0.02


@pytest.mark.parametrize("name", ROUTINGS)
def test_every_routing_can_be_traced(rng, name):
    layer = layer_on(rng, 6, 3, 5, 4, routing=name)
    capsules = rng.normal(size=(4, 6, 3)).astype("float32")
    trace = diagnostics.trace_routing(layer, capsules)
    iterations = getattr(layer.routing, "num_iterations", 1)
    for key in ("objective", "entropy", "polarisation"):
        assert trace[key].shape == (iterations,) and np.isfinite(trace[key]).all()
    lengths = ops.convert_to_numpy(CapsuleLength()(layer(capsules)))
    np.testing.assert_allclose(trace["lengths"][-1], lengths, atol=1e-5)


class MeanRouting(Routing):
    def call(self, inputs, kernel):
        return ops.mean(self.votes(inputs, kernel), axis=1)


def test_errors(rng):
    layer, capsules = layer_on(rng, 6, 3, 5, 4), np.zeros((2, 6, 3))
    with pytest.raises(ValueError, match="`layer` must be a built kcaps.layers.DigitCaps"):
        diagnostics.trace_routing(DigitCaps(5, 4), capsules)
    with pytest.raises(ValueError, match=r"`inputs` must have the shape \(batch, 6, 3\)"):
        diagnostics.trace_routing(layer, np.zeros((2, 6, 4)))
    for routing in ("l2", layer_on(rng, 6, 3, 5, 4, routing="em").routing):
        with pytest.raises(ValueError, match="`routing` must have no weights"):
            diagnostics.trace_routing(layer, capsules, routing)
    with pytest.raises(NotImplementedError, match="MeanRouting must implement"):
        diagnostics.trace_routing(layer_on(rng, 6, 3, 5, 4, MeanRouting()), capsules)


@pytest.mark.tensorflow
def test_callback_logs_to_tensorboard(rng, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    image = keras.Input((6, 6, 1))
    capsules = DigitCaps(6, 4, name="hidden_caps", routing="l2")(PrimaryCaps(4, 4, 3)(image))
    poses = DigitCaps(3, 4, name="digit_caps", routing="l2")(capsules)
    model = CapsNet(image, CapsuleLength()(poses))
    x, y = rng.uniform(size=(8, 6, 6, 1)).astype("float32"), rng.integers(3, size=8)
    model.compile("adam")
    callback = diagnostics.RoutingTensorBoard(x[:4], tmp_path / "logs")
    history = model.fit(x, y, epochs=2, callbacks=[callback], verbose=0).history
    network = keras.Model(model.input, model.get_layer("digit_caps").input)
    last = diagnostics.trace_routing(model.get_layer("digit_caps"), network(x[:4]))
    assert history["digit_caps/entropy_1"][-1] == pytest.approx(last["entropy"][0], rel=1e-4)
    events = EventAccumulator(str(tmp_path / "logs" / "train"), size_guidance={"tensors": 0})
    events.Reload()
    for layer in ("hidden_caps", "digit_caps"):
        for name in ("objective", "entropy", "polarisation"):
            logged = events.Tensors(f"epoch_{layer}/{name}_1")
            assert [event.step for event in logged] == [0, 1]
    with pytest.raises(ValueError, match="needs a model with DigitCaps"):
        callback.set_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="MeanRouting in layer"):
        layer = DigitCaps(3, 4, routing=MeanRouting())
        callback.set_model(keras.Sequential([keras.Input((5, 2)), layer]))
