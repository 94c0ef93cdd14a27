"""Gradients of functions that TensorFlow could not differentiate."""

from collections.abc import Callable

import keras


def with_gradient_of(function: Callable, plain: Callable) -> Callable:
    """Returns a function whose gradient, on TensorFlow, is that of another one of equal values.

    TensorFlow has no gradient of the updates of slices that a loop makes. Where a persistent tape
    records, it asks for second derivatives even if nobody takes them.

    Args:
        function: Function of tensors that returns a tuple of tensors.
        plain: Function of the same tensors with equal values, which TensorFlow differentiates.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    @tf.custom_gradient
    def call(*inputs):
        def gradient(*upstream):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = plain(*inputs)
            return tape.gradient(outputs, inputs, output_gradients=upstream)

        return function(*map(unfollowed, inputs)), gradient

    return call


def unfollowed(tensor):
    """Returns a tensor of 32-bit floats behind which TensorFlow looks for no gradients.

    Behind its `stop_gradient` there are none either, but second derivatives, for which each
    persistent tape asks, prepare those of all loops that come after it. Other backends look for
    second derivatives where somebody takes them; there the tensor stays as it is.
    """
    if keras.backend.backend() != "tensorflow":
        return tensor
    import tensorflow as tf

    return tf.bitcast(tf.bitcast(tensor, tf.int32), tensor.dtype)
