"""Dynamic routing as capsule libraries write it: the yardstick of the benchmark."""

import keras
from keras import ops

from kcaps.initializers import VoteScaling


def squash(x):
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return squared / (1.0 + squared) * x / ops.sqrt(squared + keras.config.epsilon())


class TextbookCaps(keras.layers.Layer):
    """Computes the same as `DigitCaps(routing="dynamic")`, by broadcast multiply-and-reduce.

    All votes are built, through a product `(batch, num_inputs, input_dim, num_capsules,
    capsule_dim)`, and every iteration multiplies and reduces them. This is a plain layer and no
    `kcaps.routing.Routing`, because kcaps would run that in XLA.
    """

    def __init__(self, num_capsules, capsule_dim, num_iterations=3, **kwargs):
        super().__init__(**kwargs)
        self.num_capsules = num_capsules
        self.capsule_dim = capsule_dim
        self.num_iterations = num_iterations

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(*input_shape[1:], self.num_capsules, self.capsule_dim),
            initializer=VoteScaling(),
            name="kernel",
        )
        self.built = True

    def call(self, inputs):
        kernel = ops.expand_dims(self.kernel, 0)  # (1, i, k, j, d)
        votes = ops.sum(inputs[:, :, :, None, None] * kernel, axis=2)  # (b, i, j, d)
        logits = ops.zeros_like(votes[..., :1])  # (b, i, j, 1)
        for iteration in range(self.num_iterations):
            couplings = ops.softmax(logits, axis=2)
            poses = squash(ops.sum(couplings * votes, axis=1, keepdims=True))  # (b, 1, j, d)
            if iteration < self.num_iterations - 1:
                logits = logits + ops.sum(votes * poses, axis=-1, keepdims=True)
        return ops.squeeze(poses, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_capsules, self.capsule_dim)
