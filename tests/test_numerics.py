"""Ten thousand random steps of each routing, in each precision, without NaN or infinity."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import CapsuleLength, DigitCaps
from kcaps.models import CapsNet
from kcaps.routing import ROUTINGS

STEPS, BATCH, CAPSULES, DIM, CLASSES = 10_000, 8, 6, 3, 4
# Decimal exponents of the longest input capsules. The votes of longer ones than in float16's row
# leave its range, 65,504; capsules that a squash made are shorter than one.
LONGEST = {"float32": 4, "mixed_bfloat16": 4, "mixed_float16": 2}


def random_steps(rng, longest):
    """Inputs of all lengths from 1e-20 on within a batch and from step to step, and zeros."""
    x = rng.normal(size=(STEPS, BATCH, CAPSULES, DIM))
    x *= 10 ** rng.uniform(-20, longest, size=(STEPS, BATCH, 1, 1))
    x[::3] = 10 ** rng.uniform(-1, longest, size=(len(x[::3]), 1, 1, 1)) * rng.normal(
        size=x[::3].shape
    )
    x *= rng.random((STEPS, BATCH, CAPSULES, 1)) > 0.1
    x[rng.random(STEPS) < 0.05] = 0.0
    labels = rng.integers(CLASSES, size=STEPS * BATCH)
    return x.astype("float32").reshape(-1, CAPSULES, DIM), labels


@pytest.mark.long
@pytest.mark.parametrize("policy", LONGEST)
@pytest.mark.parametrize("name", ROUTINGS)
def test_training_stays_finite(rng, name, policy):
    """A value that is not finite stays so: in the moments, the weights, or the mean loss."""
    keras.config.set_dtype_policy(policy)
    capsules = keras.Input((CAPSULES, DIM))
    poses = DigitCaps(CLASSES, 4, routing=name)(capsules)
    model = CapsNet(capsules, CapsuleLength(dtype="float32")(poses))
    # Plain steps may diverge, as `compile` says: the objective of the coefficients is unbounded.
    model.compile("adam", routing_optimizer="adam", steps_per_execution=500)
    x, y = random_steps(rng, LONGEST[policy])
    history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    optimizers = [model.optimizer, *[model.routing_optimizer] * bool(model.routing_variables)]
    for variable in (*model.variables, *(v for each in optimizers for v in each.variables)):
        assert np.isfinite(ops.convert_to_numpy(variable)).all(), variable.path
    assert np.isfinite(model.predict(x[:1000], verbose=0)).all()
    for optimizer in optimizers:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        # Loss scaling leaves out the steps by which it finds its scale.
        assert int(ops.convert_to_numpy(inner.iterations)) > 0.99 * STEPS
