import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

# Two devices, for tests of replicas; before TensorFlow starts.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def fresh_keras():
    """Each test starts from the same seed and the same global settings."""
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy(policy)
    keras.backend.clear_session()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def gradient():
    """Function `(fn, x) -> d sum(fn(x)) / dx` as an array."""

    def compute(fn, x):
        x = tf.Variable(x)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(fn(x))
        return tape.gradient(total, x).numpy()

    return compute
