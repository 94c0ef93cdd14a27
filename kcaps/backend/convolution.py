"""Convolutions with strides in training, where TensorFlow computes them without a GPU."""

import functools

import keras
from keras import ops

from kcaps.backend.compiling import compiled

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"

if IS_TENSORFLOW:
    import tensorflow as tf


def convolve_in_training(conv: keras.layers.Conv2D, inputs):
    """Returns `conv(inputs)`, computed by XLA, with TensorFlow's own gradients.

    XLA takes three quarters of TensorFlow's time for the forward pass, and fifty times as much for
    the gradients. Where it saves no time (without strides, in other precisions than float32, on a
    GPU and on other backends), and outside of `tf.function`, this is the plain call.

    Args:
        conv: Built `keras.layers.Conv2D` with a bias and without an activation.
        inputs: Features as `conv` takes them.

    Returns:
        Features as `conv` gives them.
    """
    is_plain = (
        not IS_TENSORFLOW
        or tf.executing_eagerly()
        or max(conv.strides) == 1
        or conv.compute_dtype != "float32"
        or conv.data_format != "channels_last"
        or tf.config.list_physical_devices("GPU")
    )
    if is_plain:
        return conv(inputs)
    plain = functools.partial(
        ops.conv, strides=conv.strides, padding=conv.padding, data_format=conv.data_format
    )
    forward = compiled(plain)

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradients(upstream):
            with tf.GradientTape() as tape:
                tape.watch([inputs, kernel])
                outputs = plain(inputs, kernel)  # TensorFlow prunes this from the graph.
            return tape.gradient(outputs, [inputs, kernel], upstream)

        return forward(inputs, kernel), gradients

    return convolve(inputs, conv.kernel) + conv.bias
