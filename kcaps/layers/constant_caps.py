"""A capsule that is the same for every example, and gives the next capsules biases."""

import math

import keras
import numpy as np
from keras import ops

from kcaps.validation import positive


@keras.saving.register_keras_serializable(package="kcaps")
class ConstantCaps(keras.layers.Layer):
    """Adds a capsule that is the same for every example: its votes are biases of the next layer.

        u_{I+1} = (length, 0, …, 0),   s_j = Σ_{i ≤ I} c_ij û_j|i + c_{I+1,j} û_j|I+1

    Without a bias, a class capsule is long in whichever direction its votes add up: examples of
    one class that start in different directions are drawn further apart, and nothing can shorten
    it below zero. A bias `b` gives all examples of a class one direction, along which the length
    ‖b + s‖ ≈ ‖b‖ + s·b/‖b‖ is a linear function, so that votes count for and against the class.
    It is a capsule and not a weight, so that every routing takes it as it is.

    Args:
        length: Positive float, the length of the capsule. Defaults to None: `√I / 2` for `I` input
            capsules, whose votes, with the initial kernel of `DigitCaps`, are about as long as
            the sum of all others.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Input shape:
        Capsules `(batch, num_inputs, input_dim)`, both sizes known.

    Output shape:
        Capsules `(batch, num_inputs + 1, input_dim)`, the added one last.

    Raises:
        ValueError: if `length` is not positive, or a size of the input is not known.

    Example:

    >>> np.asarray(ConstantCaps(length=2.0)(np.zeros((1, 2, 3)))).tolist()
    [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]
    >>> capsules = ConstantCaps()(np.ones((5, 32, 8)))
    >>> tuple(kcaps.layers.DigitCaps(10, 16)(capsules).shape)
    (5, 10, 16)

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), whose published program adds such
      biases to the sums of the votes.
    """

    def __init__(self, length: float | None = None, **kwargs):
        length = None if length is None else positive("length", length)
        super().__init__(**kwargs)
        self.length = length
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        if not all(input_shape[1:]):
            raise ValueError(
                "`ConstantCaps` needs a known number of capsules and of components, of 1 or more. "
                f"Received: inputs of shape {tuple(input_shape)}."
            )
        self.input_spec = keras.layers.InputSpec(ndim=3, axes=dict(enumerate(input_shape[1:], 1)))
        self.built = True

    def call(self, inputs):
        _, num_inputs, input_dim = inputs.shape
        poses = np.zeros((num_inputs + 1, input_dim), "float32")
        poses[-1, 0] = math.sqrt(num_inputs) / 2 if self.length is None else self.length
        inputs = ops.cast(inputs, self.compute_dtype)  # Booleans and integers have no such pose.
        return ops.pad(inputs, ((0, 0), (0, 1), (0, 0))) + ops.cast(poses, inputs.dtype)

    def compute_output_shape(self, input_shape):
        batch, num_inputs, input_dim = input_shape
        return (batch, num_inputs + 1, input_dim)

    def get_config(self):
        return {**super().get_config(), "length": self.length}
