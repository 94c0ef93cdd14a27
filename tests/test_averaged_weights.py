"""Averages of weights beside routing variables, against a loop over the steps."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet

MOMENTUM = 0.7


def network(**options):
    """A small compiled network with l2 routing, always with the same weights."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1), name="image")
    capsules = PrimaryCaps(4, 4, kernel_size=3)(image)
    poses = DigitCaps(3, 4, routing="l2")(capsules)
    model = CapsNet(image, CapsuleLength()(poses))
    model.compile(**{"routing_learning_rate": 1e-3, **options})
    return model


def averaging(**options):
    return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=MOMENTUM, **options)


@pytest.fixture
def data(rng):
    return rng.uniform(size=(40, 6, 6, 1)).astype("float32"), rng.integers(3, size=40)


class Steps(keras.callbacks.Callback):
    """Keeps the weights after each step."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.kept.append([ops.convert_to_numpy(v).copy() for v in self.model.trainable_variables])


def averages_of(steps):
    average = steps[0]
    for values in steps[1:]:
        pairs = zip(average, values, strict=True)
        average = [MOMENTUM * old + (1 - MOMENTUM) * new for old, new in pairs]
    return average


@pytest.mark.parametrize(("update", "routing_too"), [("alternating", False), ("joint", True)])
def test_fit_ends_with_the_averages_of_each_optimizer(data, update, routing_too):
    plain, steps = network(optimizer=keras.optimizers.SGD(0.1), update=update), Steps()
    plain.fit(*data, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[steps])
    routing = {"routing_learning_rate": 1e-3}
    if routing_too:
        optimizer = keras.optimizers.SGD(1e-3, use_ema=True, ema_momentum=MOMENTUM)
        routing = {"routing_learning_rate": None, "routing_optimizer": optimizer}
    model = network(optimizer=averaging(), update=update, **routing)
    model.fit(*data, batch_size=8, epochs=2, shuffle=False, verbose=0)
    averages, last = averages_of(steps.kept), steps.kept[-1]
    for n, variable in enumerate(model.trainable_variables):
        is_routing = variable.name == "coefficients"
        expected = last[n] if is_routing and not routing_too else averages[n]
        np.testing.assert_allclose(ops.convert_to_numpy(variable), expected, rtol=2e-4, atol=1e-6)
        assert is_routing or np.abs(expected - last[n]).max() > 1e-5


def test_validation_with_averages_by_keras_own_callback(data):
    held_out = data[0][:20], data[1][:20]
    model = network(optimizer=averaging())
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    history = model.fit(
        *data, batch_size=8, epochs=2, verbose=0, validation_data=held_out, callbacks=[swap]
    )
    last = model.evaluate(*held_out, verbose=0, return_dict=True)["loss"]
    assert history.history["val_loss"][-1] == pytest.approx(last, rel=1e-5)


def test_overwritten_weights_and_a_second_fit(data):
    model = network(optimizer=averaging(ema_overwrite_frequency=2))
    for _ in range(2):
        model.fit(*data, batch_size=8, verbose=0)
    assert all(np.isfinite(ops.convert_to_numpy(v)).all() for v in model.trainable_variables)
    assert "finalize_variable_values" not in vars(model.optimizer)


def test_saved_and_trained_on(data, tmp_path):
    model = network(optimizer=averaging())
    model.fit(*data, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for trained in (model, loaded):
        trained.fit(*data, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_loss_scaling_beside_averages(data):
    scaled = keras.optimizers.LossScaleOptimizer(averaging())
    model = network(optimizer=scaled)
    model.fit(*data, batch_size=8, verbose=0)
    inner = model.optimizer.inner_optimizer
    trained = [v for v in model.trainable_variables if v.name != "coefficients"]
    for variable, average in zip(trained, inner._model_variables_moving_average, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), ops.convert_to_numpy(average))
