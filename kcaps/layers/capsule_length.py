"""Lengths of capsules."""

import keras

from kcaps.activations import safe_norm


@keras.saving.register_keras_serializable(package="kcaps")
class CapsuleLength(keras.layers.Layer):
    """Length of each capsule's pose: how sure the network is that its entity is there.

    `length_j = ‖v_j‖`, computed in float32, with a zero gradient at a zero vector. The lengths of
    squashed class capsules lie in [0, 1) and need not sum to one: several classes may be present.

    Args:
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Input shape:
        Poses `(batch, num_capsules, capsule_dim)`, or maps of them `(batch, height, width,
        num_capsules, capsule_dim)`.

    Output shape:
        Lengths of the shape of the poses but for their last axis, `(batch, num_capsules)` or
        `(batch, height, width, num_capsules)`, always float32.

    Example:

    >>> np.asarray(CapsuleLength()(np.array([[[3.0, 4.0], [0.0, 0.0]]])))
    array([[5., 0.]], dtype=float32)

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 3.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(min_ndim=3)

    def call(self, inputs):
        return safe_norm(inputs)

    def compute_output_spec(self, inputs):
        # Lengths keep float32 under mixed precision: the margins of the loss are compared there.
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[:-1])
