import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest


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
    import tensorflow as tf

    def compute(fn, x):
        x = tf.Variable(x)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(fn(x))
        return tape.gradient(total, x).numpy()

    return compute
