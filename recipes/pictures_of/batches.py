"""Batches without end, in shuffled passes over a data set, which depend on seed and step alone."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def shuffled(count: int, batch_size: int, seed: int, start: int = 0) -> tf.data.Dataset:
    """Returns batches of indices without end; the same ones for the same seed.

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


def stream(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    augment: Callable | None = None,
) -> tf.data.Dataset:
    """Returns shuffled batches without end; their order depends on the seed and the step only.

    A resumed run therefore sees the batches that an uninterrupted one would have seen.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        labels: Integer array `(n,)`.
        batch_size: At most n. Images that fill no batch are left out of a pass.
        seed: Integer from 0 to 2³² - 1.
        first_step: Number of the first batch.
        augment: Optional function `(images, seed)` of each batch, `seed` being a pair of integers
            for TensorFlow's stateless random operations.

    Returns:
        `tf.data.Dataset` of batches of float32 images, and labels.
    """
    steps = len(images) // batch_size
    images, labels = tf.constant(images), tf.constant(labels)

    def epoch_batches(epoch):
        order = tf.stack([tf.cast(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), order)
        order = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)
        return order.enumerate(epoch * steps)

    def read(step, indices):
        batch = tf.cast(tf.gather(images, indices), tf.float32)
        if augment is not None:
            batch = augment(batch, tf.stack([tf.cast(seed, tf.int64), step]))
        return batch, tf.gather(labels, indices)

    epochs = tf.data.Dataset.range(first_step // steps, np.iinfo("int64").max)
    batches = epochs.flat_map(epoch_batches).skip(first_step % steps)
    return batches.map(read, num_parallel_calls=2).prefetch(2)
