import numpy as np
import pytest
from keras import ops

from kcaps.initializers import PartialIdentity, VoteScaling
from kcaps.layers import DigitCaps


def unit_half(rng, shape):
    capsules = rng.normal(size=shape)
    return (0.5 * capsules / np.linalg.norm(capsules, axis=-1, keepdims=True)).astype("float32")


@pytest.mark.parametrize("num_inputs", [16, 144, 1152])
def test_first_weighted_sums_have_the_wanted_length(rng, num_inputs):
    kernel = ops.convert_to_numpy(VoteScaling(scale=1.0, seed=0)((num_inputs, 8, 10, 16)))
    sums = np.einsum("bik,ikjd->bjd", unit_half(rng, (32, num_inputs, 8)), kernel) / 10
    # mean of 32 · 10 lengths of 16 components, each length within about 18 %
    assert np.linalg.norm(sums, axis=-1).mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("routing", ["dynamic", "l1", "l2"])
def test_capsules_start_neither_dead_nor_saturated(rng, routing):
    poses = DigitCaps(10, 16, routing=routing)(unit_half(rng, (8, 200, 8)))
    lengths = np.linalg.norm(ops.convert_to_numpy(poses), axis=-1)
    assert 0.2 < lengths.min() and lengths.max() < 0.95


def test_config_round_trip_and_seed():
    initializer = VoteScaling(scale=2.0, seed=3)
    copy = VoteScaling.from_config(initializer.get_config())
    draws = [initializer, copy, VoteScaling(), VoteScaling()]
    same, again, one, other = (ops.convert_to_numpy(draw((4, 3, 2, 5))) for draw in draws)
    np.testing.assert_array_equal(same, again)
    assert np.any(one != other)


def test_errors():
    with pytest.raises(ValueError, match="`scale` must be positive and finite. Received: scale=0"):
        VoteScaling(scale=0)
    with pytest.raises(ValueError, match=r"kernels of shape .* Received: shape=\(3, 4\)"):
        VoteScaling()((3, 4))


@pytest.mark.parametrize("shape", [(3, 3, 5, 8), (3, 3, 8, 5), (1, 2, 4, 4), (2, 5, 1, 3)])
def test_partial_identity_hands_channels_on(rng, shape):
    kernel = ops.convert_to_numpy(PartialIdentity(seed=0)(shape))
    height, width, channels, filters = shape
    same = min(channels, filters)
    maps = rng.normal(size=(2, 6, 7, channels)).astype("float32")
    result = ops.convert_to_numpy(ops.conv(maps, kernel, padding="same"))
    np.testing.assert_allclose(result[..., :same], maps[..., :same], atol=1e-6)
    drawn, limit = kernel[..., same:], (height * width * channels) ** -0.5
    assert np.abs(drawn).max(initial=0) <= limit
    if drawn.size > 100:
        assert drawn.std() == pytest.approx(limit / 3**0.5, rel=0.1)


def test_partial_identity_round_trip_and_errors():
    initializer = PartialIdentity(seed=3)
    same = PartialIdentity.from_config(initializer.get_config())
    first, second = (ops.convert_to_numpy(x((3, 3, 2, 9))) for x in (initializer, same))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="`PartialIdentity` is for kernels of shape"):
        initializer((3, 3, 2))
