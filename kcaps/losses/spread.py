"""The spread loss of capsule networks."""

import keras
from keras import ops

from kcaps.labels import targets
from kcaps.validation import non_negative


@keras.saving.register_keras_serializable(package="kcaps")
class SpreadLoss(keras.losses.Loss):
    """Asks the class that is present to be ahead of each other class by a margin.

        L = Σ_{i absent} max(0, m - (a_t - a_i))²,    t the class that is present

    Where several classes are present, each must be ahead, and the terms are added.

    Args:
        margin: Margin m. The paper raises it from 0.2 to 0.9 in the course of training, which
            keeps capsules from dying early: compile again with a greater margin between epochs.
            Defaults to 0.9.
        reduction: As for any Keras loss. Defaults to `"sum_over_batch_size"`.
        name: Name of the loss. Defaults to `"spread"`.
        dtype: As for any Keras loss.

    Call arguments:
        y_true: Integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix of
            shape `(batch, num_classes)`.
        y_pred: Activations or capsule lengths of shape `(batch, num_classes)`.

    Raises:
        ValueError: if the margin is negative, or the shape of the labels does not fit.

    Example:

    >>> loss = SpreadLoss(margin=0.5)(np.array([1]), np.array([[0.4, 0.8]]))
    >>> round(float(loss), 4)  # (0.5 - 0.4)²
    0.01

    Reference:

    - [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), equation (3).
    """

    def __init__(
        self,
        margin: float = 0.9,
        reduction: str | None = "sum_over_batch_size",
        name="spread",
        dtype=None,
    ):
        margin = non_negative("margin", margin)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.margin = margin

    def call(self, y_true, y_pred):
        present = targets(y_true, y_pred)
        lead = y_pred[:, :, None] - y_pred[:, None, :]  # (b, t, i): of class t over class i
        pairs = present[:, :, None] * (1.0 - present[:, None, :])
        return ops.sum(pairs * ops.square(ops.relu(self.margin - lead)), axis=(1, 2))  # (b,)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}
