"""Masking of all capsules but those of the classes at hand."""

import keras
from keras import ops

from kcaps.activations import safe_norm
from kcaps.labels import k_hot
from kcaps.validation import positive_int


@keras.saving.register_keras_serializable(package="kcaps")
class CapsuleMask(keras.layers.Layer):
    """Sets all capsules to zero but those of the given classes, or the longest ones.

    With labels (in training) the capsules of the true classes stay; without (at inference) the
    `num_active` longest do. A decoder behind the mask then has to rebuild the image from the
    poses of its own classes.

    Args:
        num_active: Positive integer, how many of the longest capsules stay where no labels are
            given: 1 for one object in an image, 2 for MultiMNIST. Defaults to 1.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Call arguments:
        inputs: Poses of shape `(batch, num_capsules, capsule_dim)`.
        labels: Optional integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot
            matrix of shape `(batch, num_capsules)`, with as many ones as capsules shall stay.
            The poses of an example whose label is no class become NaN.

    Output shape:
        Masked poses `(batch, num_capsules, capsule_dim)`.

    Raises:
        ValueError: if `num_active` is not a positive integer or exceeds the number of capsules,
            or if the shape of `labels` fits neither form.

    Example:

    >>> poses = np.array([[[3.0, 4.0], [1.0, 0.0]]])
    >>> np.asarray(CapsuleMask()(poses)).tolist()
    [[[3.0, 4.0], [0.0, 0.0]]]
    >>> np.asarray(CapsuleMask()(poses, labels=np.array([1]))).tolist()
    [[[0.0, 0.0], [1.0, 0.0]]]

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), sections 4.1 and 6.
    """

    def __init__(self, num_active: int = 1, **kwargs):
        num_active = positive_int("num_active", num_active)
        super().__init__(**kwargs)
        self.num_active = num_active
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        self._check(input_shape)
        self.built = True

    def _check(self, shape):
        """Raises a `ValueError` for fewer capsules than are to stay."""
        if shape[1] is not None and self.num_active > shape[1]:
            raise ValueError(
                "`num_active` must not exceed the number of capsules. "
                f"Received: num_active={self.num_active}, inputs of shape {tuple(shape)}."
            )

    def call(self, inputs, labels=None):
        self._check(inputs.shape)  # They may differ from those of `build`.
        num_capsules = inputs.shape[1]
        if labels is not None:
            mask = k_hot(labels, num_capsules, inputs.shape[0], exact=True)  # (b, j)
        else:
            _, longest = ops.top_k(safe_norm(inputs), self.num_active)  # (b, num_active)
            mask = ops.sum(ops.one_hot(longest, num_capsules, dtype="float32"), axis=1)
        return inputs * ops.cast(ops.expand_dims(mask, -1), inputs.dtype)

    def compute_output_shape(self, inputs_shape, labels_shape=None):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "num_active": self.num_active}
