"""Initial scale of the kernels that map capsules to votes."""

import keras

from kcaps.validation import positive


@keras.saving.register_keras_serializable(package="kcaps")
class VoteScaling(keras.initializers.Initializer):
    """Random kernel that starts a capsule layer at useful lengths.

    Keras' own variance-scaling initializers take the leading axes of a rank-4 kernel for the
    receptive field of a convolution and start the votes about ten times too short; a squashed
    vector that short has almost no gradient. This one draws `W ~ N(0, stddev²)` with

        stddev = scale · num_outputs / sqrt(0.25 · num_inputs · output_dim)

    so that, with input capsules of length about one half and the equal couplings
    `1 / num_outputs` from which most routings start, the weighted sum of the votes has a length
    of about `scale` before squash.

    Args:
        scale: Positive float, the expected length of the weighted sum. Defaults to 1.
        seed: Integer or `keras.random.SeedGenerator`, or None for Keras' global seed.

    Raises:
        ValueError: if `scale` is not positive, or the kernel's shape has not four axes.

    Example:

    >>> kernel = VoteScaling(seed=0)((1152, 8, 10, 16))
    >>> round(float(np.std(kernel)), 3)
    0.147
    """

    def __init__(self, scale: float = 1.0, seed=None):
        self.scale = positive("scale", scale)
        self.seed = seed

    def __call__(self, shape, dtype=None):
        if len(shape) != 4:
            raise ValueError(
                "`VoteScaling` is for kernels of shape (num_inputs, input_dim, num_outputs, "
                f"output_dim). Received: shape={tuple(shape)}."
            )
        if 0 in shape:
            raise ValueError(
                f"`shape` must have no axis of size 0. Received: shape={tuple(shape)}."
            )
        num_inputs, _, num_outputs, output_dim = shape
        stddev = self.scale * num_outputs / (0.25 * num_inputs * output_dim) ** 0.5
        return keras.initializers.RandomNormal(stddev=stddev, seed=self.seed)(shape, dtype=dtype)

    def get_config(self):
        return {"scale": self.scale, "seed": keras.saving.serialize_keras_object(self.seed)}
