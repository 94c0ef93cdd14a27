"""The margin loss of capsule networks."""

import keras
from keras import ops

from kcaps.labels import targets
from kcaps.validation import non_negative


@keras.saving.register_keras_serializable(package="kcaps")
class MarginLoss(keras.losses.Loss):
    """Asks present classes for long capsules and absent ones for short ones, each on its own.

        L = Σ_j T_j max(0, m⁺ - ‖v_j‖)² + λ (1 - T_j) max(0, ‖v_j‖ - m⁻)²

    summed over the classes and averaged over the batch. Classes do not compete, so several may be
    present in one image.

    Args:
        present_margin: Length m⁺ above which a present class costs nothing. Defaults to 0.9.
        absent_margin: Length m⁻ below which an absent class costs nothing. Defaults to 0.1.
        absent_weight: Weight λ of absent classes, which keeps the first steps from shrinking all
            capsules. Defaults to 0.5.
        reduction: As for any Keras loss. Defaults to `"sum_over_batch_size"`.
        name: Name of the loss. Defaults to `"margin"`.
        dtype: As for any Keras loss.

    Call arguments:
        y_true: Integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix of
            shape `(batch, num_classes)`.
        y_pred: Capsule lengths of shape `(batch, num_classes)`.

    Raises:
        ValueError: if a margin or the weight is negative, or the shape of the labels does not fit.

    Example:

    >>> loss = MarginLoss()(np.array([1]), np.array([[0.0, 0.8]]))
    >>> round(float(loss), 4)  # (0.9 - 0.8)²
    0.01

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), equation (4).
    """

    def __init__(
        self,
        present_margin: float = 0.9,
        absent_margin: float = 0.1,
        absent_weight: float = 0.5,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "margin",
        dtype=None,
    ):
        present_margin = non_negative("present_margin", present_margin)
        absent_margin = non_negative("absent_margin", absent_margin)
        absent_weight = non_negative("absent_weight", absent_weight)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.present_margin = present_margin
        self.absent_margin = absent_margin
        self.absent_weight = absent_weight

    def call(self, y_true, y_pred):
        present = targets(y_true, y_pred)  # (b, j)
        too_short = ops.square(ops.relu(self.present_margin - y_pred))
        too_long = ops.square(ops.relu(y_pred - self.absent_margin))
        losses = present * too_short + self.absent_weight * (1.0 - present) * too_long
        return ops.sum(losses, axis=-1)  # (b,)

    def get_config(self):
        return {
            **super().get_config(),
            "present_margin": self.present_margin,
            "absent_margin": self.absent_margin,
            "absent_weight": self.absent_weight,
        }
