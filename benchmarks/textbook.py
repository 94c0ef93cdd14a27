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

    def votes(self, inputs):
        kernel = ops.expand_dims(self.kernel, 0)  # (1, i, k, j, d)
        return ops.sum(inputs[:, :, :, None, None] * kernel, axis=2)  # (b, i, j, d)

    def call(self, inputs):
        votes = self.votes(inputs)
        logits = ops.zeros_like(votes[..., :1])  # (b, i, j, 1)
        for iteration in range(self.num_iterations):
            couplings = ops.softmax(logits, axis=2)
            poses = squash(ops.sum(couplings * votes, axis=1, keepdims=True))  # (b, 1, j, d)
            if iteration < self.num_iterations - 1:
                logits = logits + ops.sum(votes * poses, axis=-1, keepdims=True)
        return ops.squeeze(poses, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_capsules, self.capsule_dim)


class ProductCaps(TextbookCaps):
    """Computes the same, the votes by a product of matrices for each input capsule."""

    def votes(self, inputs):
        return ops.einsum("bik,ikjd->bijd", inputs, self.kernel)


class TextbookMaps(keras.layers.Layer):
    """Computes the same as `ConvCaps2D(routing="dynamic")` with valid padding.

    Windows are cut out by Keras' own function, and each is an example of a layer above.
    """

    def __init__(self, caps, kernel_size, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.caps, self.kernel_size, self.strides = caps, kernel_size, strides

    def build(self, input_shape):
        *_, types, input_dim = input_shape
        self.caps.build((None, self.kernel_size**2 * types, input_dim))
        self.kernel = self.caps.kernel
        self.built = True

    def call(self, inputs):
        _, height, width, types, input_dim = inputs.shape
        maps = ops.reshape(inputs, (-1, height, width, types * input_dim))
        windows = ops.image.extract_patches(maps, self.kernel_size, self.strides, padding="valid")
        poses = self.caps(ops.reshape(windows, (-1, self.kernel.shape[0], input_dim)))
        return ops.reshape(poses, (-1, *windows.shape[1:3], *poses.shape[1:]))

    def compute_output_shape(self, input_shape):
        batch, *sizes, _, _ = input_shape
        sizes = [(size - self.kernel_size) // self.strides + 1 for size in sizes]
        return (batch, *sizes, self.caps.num_capsules, self.caps.capsule_dim)
