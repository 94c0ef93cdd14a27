"""Gradients that TensorFlow would not find, or not as fast."""

from collections.abc import Callable

import keras


def with_gradient_of(function: Callable, plain: Callable) -> Callable:
    """Returns a function whose gradient, on TensorFlow, is that of another one of equal values.

    The other one may have the faster gradient, or the only one: TensorFlow has none of the updates
    of slices that a loop makes.

    Args:
        function: Function of tensors that returns one tensor or a tuple of them.
        plain: Function of the same tensors with equal values, which TensorFlow differentiates. Of
            its values alone nothing is computed in a graph, which TensorFlow prunes.
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

        return function(*inputs), gradient

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
