"""Concurrent inverted attention against loops over layers, examples and capsules."""

import keras
import numpy as np
import pytest
from keras import ops

import references
from kcaps.layers import ConcurrentCaps, DigitCaps
from kcaps.routing import InvertedAttentionRouting


def numpy_step(below, kernel, poses, scale, offset):
    """Procedure 1 of Tsai et al. for one example."""
    num_inputs, _, num_outputs, dim = kernel.shape
    votes = np.einsum("ik,ikjd->ijd", below, kernel)
    couplings = [
        references.softmax([votes[i, j] @ poses[j] / np.sqrt(dim) for j in range(num_outputs)])
        for i in range(num_inputs)
    ]
    sums = [
        sum(couplings[i][j] * votes[i, j] for i in range(num_inputs)) for j in range(num_outputs)
    ]
    return np.array([references.layer_norm(s, scale, offset) for s in sums])


def numpy_stack(capsules, weights, num_iterations):
    """Procedure 2 for one example: sequential first, then all layers at once."""
    poses = [capsules] + [np.zeros(kernel.shape[2:]) for kernel, _, _ in weights]
    for n, (kernel, *affine) in enumerate(weights):
        poses[n + 1] = numpy_step(poses[n], kernel, poses[n + 1], *affine)
    for _ in range(num_iterations - 1):
        before = list(poses)
        for n, (kernel, *affine) in enumerate(weights):
            poses[n + 1] = numpy_step(before[n], kernel, before[n + 1], *affine)
    return poses[-1]


def stack(num_iterations=2):
    layers = [DigitCaps(n, 4, routing="inverted_attention") for n in (6, 5, 3)]
    return ConcurrentCaps(layers, num_iterations)


@pytest.mark.parametrize("num_iterations", [1, 2, 4])
def test_equals_the_procedures(rng, num_iterations):
    layer = stack(num_iterations)
    layer.build((None, 8, 3))
    for variable in layer.weights:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    weights = [
        [
            ops.convert_to_numpy(v).astype("float64")
            for v in (x.kernel, x.routing.scale, x.routing.offset)
        ]
        for x in layer.layers
    ]
    capsules = rng.normal(size=(3, 8, 3)).astype("float32")
    expected = [numpy_stack(c.astype("float64"), weights, num_iterations) for c in capsules]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(capsules)), expected, atol=1e-5)


def test_config_can_be_used_again():
    config = stack(3).get_config()
    copies = [ConcurrentCaps.from_config(config) for _ in range(2)]
    assert [copy.num_iterations for copy in copies] == [3, 3]
    assert copies[0].layers[0] is not copies[1].layers[0]


def test_one_layer_is_the_routing_alone(rng):
    alone = DigitCaps(5, 4, routing=InvertedAttentionRouting(3))
    layer = ConcurrentCaps([alone], 3)
    capsules = rng.normal(size=(2, 6, 3)).astype("float32")
    poses = ops.convert_to_numpy(layer(capsules))
    np.testing.assert_allclose(poses, ops.convert_to_numpy(alone(capsules)), atol=1e-6)


def test_trains_saves_and_loads(rng, tmp_path):
    model = keras.Sequential([keras.Input((8, 3)), stack(3), keras.layers.Flatten()])
    assert model.output_shape == (None, 12)
    model.compile("adam", loss="mse")
    capsules = rng.normal(size=(10, 8, 3)).astype("float32")
    losses = model.fit(capsules, np.zeros((10, 12)), epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert len(model.trainable_variables) == 9
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    outputs = (m.predict(capsules, verbose=0) for m in (loaded, model))
    np.testing.assert_array_equal(*outputs)


def test_errors():
    with pytest.raises(ValueError, match="`layers` must be DigitCaps with routing='inverted_att"):
        ConcurrentCaps([DigitCaps(3, 4, routing="dynamic")])
    with pytest.raises(ValueError, match="at least one layer"):
        ConcurrentCaps([])
    with pytest.raises(ValueError, match="`num_iterations` must be a positive integer"):
        ConcurrentCaps([DigitCaps(3, 4, routing="inverted_attention")], 0)
