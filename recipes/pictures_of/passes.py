"""Endless shuffled passes over a data set."""

import numpy as np
import tensorflow as tf


def shuffled(count, batch_size, seed, start=0):
    """Batches of indices without end; the same ones for the same seed.

    Each pass has every index once, in an order of its own. Batches go on from pass to pass.

    Args:
        count: Number of examples.
        batch_size: Positive integer.
        seed: Integer from 0 to 2³² - 1.
        start: Number of the first batch.

    Returns:
        `tf.data.Dataset` of numbers of batches, and indices `(batch_size,)`.
    """

    def one_pass(number):
        order = tf.range(count)
        order = tf.random.experimental.stateless_shuffle(order, tf.stack([seed, number]))
        return tf.data.Dataset.from_tensor_slices(order)

    seed = tf.constant(seed, tf.int64)
    passes = tf.data.Dataset.range(np.iinfo("int64").max).flat_map(one_pass)
    return passes.batch(batch_size, drop_remainder=True).enumerate().skip(start)
