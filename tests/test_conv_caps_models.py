"""Capsule maps in a CapsNet: routing variables, the chain rule, saving; and their diagnostics."""

import keras
import numpy as np
import pytest
from keras import ops

import references
from kcaps import diagnostics
from kcaps.layers import CapsuleLength, ConvCaps2D, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.models.architectures import decoder
from kcaps.routing import ROUTINGS, DiscriminativeRouting, DynamicRouting, Routing


def graph(routing="l2", maps="l2"):
    """A network on 8 × 8 images with a layer of capsule maps: input and output tensors."""
    image = keras.Input((8, 8, 1), name="image")
    x = PrimaryCaps(3, 4, kernel_size=3, as_map=True, name="primary_caps")(image)
    x = ConvCaps2D(2, 4, 3, strides=2, padding="same", routing=maps, name="conv_caps")(x)
    poses = DigitCaps(3, 4, routing=routing, name="digit_caps")(x)
    return image, CapsuleLength(name="class_lengths")(poses)


@pytest.fixture
def batch(rng):
    return rng.uniform(size=(8, 8, 8, 1)).astype("float32"), rng.integers(3, size=8)


def values(variables):
    return [ops.convert_to_numpy(v).copy() for v in variables]


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_coefficients_of_maps_follow_by_the_chain_rule(batch, penalty):
    """Against central differences of the class capsules' objective less the maps' penalty.

    The objective is computed here from windows, in float64 and without the layers' calls.
    """
    x, y = batch
    model = CapsNet(*graph("l2", DiscriminativeRouting(penalty, proximal=False)))
    layer, last = model.get_layer("conv_caps"), model.get_layer("digit_caps")
    network = keras.Model(model.input, [layer.input, layer.output])
    capsules, _ = network.predict(x, verbose=0)
    windows = ops.convert_to_numpy(layer.routed(ops.convert_to_tensor(capsules)))
    votes = np.einsum("wik,ikjd->wijd", windows.astype("float64"), *values([layer.kernel]))
    (b,), (final,), (kernel,) = map(
        values, ([layer.routing.coefficients], [last.routing.coefficients], [last.kernel])
    )
    delta = np.where(y[:, None] == np.arange(3), 1, -1)

    def objective(coefficients):
        sums = np.einsum("ij,wijd->wjd", coefficients, votes)
        poses = np.array([[references.squash(s) for s in window] for window in sums])
        poses = poses.reshape(len(x), -1, 4)  # The maps as the class capsules read them.
        s = np.einsum("ij,bik,ikjd->bjd", final, poses, kernel)
        size = np.abs(coefficients).sum() if penalty == "l1" else (coefficients**2).sum()
        return (delta * (s**2).sum(-1)).sum() - 0.001 * size

    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=1.0)
    assert [id(v) for v in model.routing_variables] == [
        id(layer.routing.coefficients),
        id(last.routing.coefficients),
    ]
    model.train_on_batch(x, y)
    moved = values([layer.routing.coefficients])[0] - b
    for index in ((2, 1), (13, 0), (26, 1)):
        shift = np.zeros(b.shape)
        shift[index] = 1e-4
        slope = (objective(b + shift) - objective(b - shift)) / 2e-4
        assert moved[index] == pytest.approx(slope, rel=1e-3, abs=1e-5)
    assert np.abs(moved).max() > 1e-3


def test_weight_steps_leave_coefficients_of_maps(batch):
    """They are the routing optimizer's, though an ordinary variable of the layer's model."""
    model = CapsNet(*graph())
    model.compile(keras.optimizers.SGD(0.1), routing_learning_rate=0.0)
    before, kernel = values(model.routing_variables), values([model.get_layer("conv_caps").kernel])
    model.train_on_batch(*batch)
    for old, new in zip(before, values(model.routing_variables), strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.any(kernel[0] != values([model.get_layer("conv_caps").kernel])[0])


@pytest.mark.compiled
@pytest.mark.parametrize("update", ["alternating", "joint"])
def test_maps_train_and_are_saved_with_a_decoder(batch, tmp_path, update):
    x, y = batch
    model = CapsNet(*graph(), decoder=decoder(3, 4, (8, 8, 1), (16,)))
    model.compile(keras.optimizers.Adam(0.01), routing_learning_rate=1e-3, update=update)
    losses = model.fit(x, y, epochs=30, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert len(loaded.routing_variables) == 2
    again = [m.fit(x, y, batch_size=8, verbose=0).history["loss"] for m in (model, loaded)]
    assert again[0] == pytest.approx(again[1], rel=1e-5)


def test_maps_with_an_objective_need_class_capsules():
    image, _ = graph()
    maps = PrimaryCaps(3, 4, kernel_size=3, as_map=True)(image)
    lengths = CapsuleLength()(ConvCaps2D(2, 4, 3, routing="l2")(maps))
    with pytest.raises(ValueError, match="In a keras.Model, coefficients follow the loss"):
        CapsNet(image, lengths).compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="must use a routing with an objective"):
        CapsNet(*graph("dynamic", "l2")).compile("sgd")
    model = keras.Model(image, lengths)
    model.compile("sgd", loss="mse")
    before = values([model.layers[-2].routing.coefficients])[0]
    model.fit(np.ones((4, 8, 8, 1)), np.ones((4, 4, 4, 2)), verbose=0)
    assert np.any(values([model.layers[-2].routing.coefficients])[0] != before)


@pytest.mark.parametrize("name", ROUTINGS)
def test_every_routing_of_maps_can_be_traced(rng, name):
    layer = ConvCaps2D(5, 4, (2, 3), (2, 1), "same", routing=name)
    maps = rng.normal(size=(4, 5, 4, 2, 3)).astype("float32")
    lengths = ops.convert_to_numpy(CapsuleLength()(layer(maps, training=False)))
    trace = diagnostics.trace_routing(layer, maps)
    iterations = getattr(layer.routing, "num_iterations", 1)
    for key in ("objective", "entropy", "polarisation"):
        assert trace[key].shape == (iterations,) and np.isfinite(trace[key]).all()
    assert trace["lengths"].shape == (iterations, 4, 3, 4, 5)
    np.testing.assert_allclose(trace["lengths"][-1], lengths, atol=1e-5)


def test_the_trace_of_maps_is_that_of_their_windows(rng):
    layer = ConvCaps2D(5, 4, 2)
    layer.build((None, 3, 4, 2, 3))
    maps = rng.normal(size=(2, 3, 4, 2, 3)).astype("float32")
    windows = [
        maps[b, y : y + 2, x : x + 2].reshape(-1, 3)
        for b in range(2)
        for y in range(2)
        for x in range(3)
    ]
    kernel = ops.convert_to_numpy(layer.kernel)
    trace = diagnostics.trace_routing(layer, maps, DynamicRouting(4))
    _, couplings = references.dynamic(np.array(windows), kernel, {}, num_iterations=4)
    for t, c in enumerate(couplings):
        assert trace["entropy"][t] == pytest.approx(-np.mean((c * np.log(c)).sum(-1)), rel=1e-4)
        assert trace["polarisation"][t] == pytest.approx(c.max(-1).mean(), rel=1e-5)


def test_errors_of_traces(rng):
    layer = ConvCaps2D(5, 4, 2)
    with pytest.raises(ValueError, match="`layer` must be a built .*ConvCaps2D"):
        diagnostics.trace_routing(layer, np.zeros((2, 3, 4, 2, 3)))
    layer.build((None, 3, 4, 2, 3))
    for shape in ((2, 6, 3), (2, 3, 4, 2, 4)):
        with pytest.raises(ValueError, match=r"the shape \(batch, None, None, 2, 3\)"):
            diagnostics.trace_routing(layer, np.zeros(shape))


class Opaque(Routing):
    def call(self, inputs, kernel):
        return ops.mean(self.votes(inputs, kernel), axis=1)


@pytest.mark.tensorflow
def test_the_callback_logs_maps(batch, tmp_path):
    x, y = batch
    model = CapsNet(*graph())
    model.compile("adam")
    callback = diagnostics.RoutingTensorBoard(x[:4], tmp_path / "logs")
    history = model.fit(x, y, epochs=1, callbacks=[callback], verbose=0).history
    maps = keras.Model(model.input, model.get_layer("conv_caps").input)(x[:4])
    trace = diagnostics.trace_routing(model.get_layer("conv_caps"), maps)
    assert history["conv_caps/entropy_1"][-1] == pytest.approx(trace["entropy"][0], rel=1e-4)
    assert "digit_caps/entropy_1" in history
    with pytest.raises(ValueError, match="Opaque in layer 'conv_caps'"):
        callback.set_model(CapsNet(*graph("dynamic", Opaque())))
