"""Metrics of images with several classes."""

import keras
from keras import ops

from kcaps.labels import targets
from kcaps.validation import positive_int


@keras.saving.register_keras_serializable(package="kcaps")
class ExactMatch(keras.metrics.Mean):
    """Share of images whose classes are all found, and no other: both digits of MultiMNIST.

    An image counts where the `num_active` longest capsules are those of its classes.

    Args:
        num_active: Positive integer, how many classes each image has. Defaults to 2.
        name: Name of the metric. Defaults to `"exact_match"`.
        dtype: As for any Keras metric.

    Call arguments:
        y_true: k-hot matrix `(batch, num_classes)`, or, for one class an image, integers.
        y_pred: Capsule lengths `(batch, num_classes)`.

    Raises:
        ValueError: if `num_active` is not a positive integer, or the shape of the labels does not
            fit.

    Example:

    >>> metric = kcaps.metrics.ExactMatch()
    >>> metric.update_state(np.array([[1, 0, 1]]), np.array([[0.9, 0.2, 0.8]]))
    >>> float(metric.result())
    1.0

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 6.
    """

    def __init__(self, num_active: int = 2, name="exact_match", dtype=None):
        num_active = positive_int("num_active", num_active)
        super().__init__(name=name, dtype=dtype)
        self.num_active = num_active

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = ops.convert_to_tensor(y_pred)
        present = targets(y_true, y_pred) > 0  # (b, j)
        if self.num_active > y_pred.shape[-1]:
            raise ValueError(
                "`num_active` must not exceed the number of classes. Received: "
                f"num_active={self.num_active}, y_pred of shape {tuple(y_pred.shape)}."
            )
        _, longest = ops.top_k(y_pred, self.num_active)  # (b, num_active)
        found = ops.sum(ops.one_hot(longest, y_pred.shape[-1], dtype="float32"), axis=1) > 0
        matches = ops.all(ops.equal(present, found), axis=-1)
        return super().update_state(ops.cast(matches, self.dtype), sample_weight)

    def get_config(self):
        return {**super().get_config(), "num_active": self.num_active}
