"""The cross-entropy of classes whose logits are scaled lengths of capsules."""

import keras
from keras import ops

from kcaps.labels import targets
from kcaps.losses.classification import log
from kcaps.validation import fraction, positive


@keras.saving.register_keras_serializable(package="kcaps")
class LengthCrossEntropy(keras.losses.Loss):
    """Asks the capsule of the class that is present to be the longest one.

        p = softmax(scale · ‖v‖)
        L = -Σ_j t_j ln p_j,  t_j = (1 - α) T_j / Σ_k T_k + α / num_classes

    Lengths lie between 0 and 1: the scale bounds how sure a prediction can be. Against the margin
    loss, classes compete, and the gradient does not end where a class is far enough ahead, which
    networks that train for many passes need. Label smoothing α keeps the longest capsules from
    saturating. Where several classes are present, they share the target.

    Args:
        scale: Positive float, the factor of the lengths. Defaults to 12.
        label_smoothing: Share α of the target that all classes have in common, from 0 to 1.
            Defaults to 0.
        reduction: As for any Keras loss. Defaults to `"sum_over_batch_size"`.
        name: Name of the loss. Defaults to `"length_cross_entropy"`.
        dtype: As for any Keras loss.

    Call arguments:
        y_true: Integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix of
            shape `(batch, num_classes)`.
        y_pred: Capsule lengths of shape `(batch, num_classes)`.

    Raises:
        ValueError: if the scale is not positive, the smoothing is no share, or the shape of the
            labels does not fit.

    Example:

    >>> loss = LengthCrossEntropy(scale=10)(np.array([1]), np.array([[0.4, 0.8]]))
    >>> round(float(loss), 4)  # ln(1 + exp(-4))
    0.0181

    Reference:

    - [Szegedy et al., 2016](https://arxiv.org/abs/1512.00567), section 7 (label smoothing).
    """

    def __init__(
        self,
        scale: float = 12.0,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "length_cross_entropy",
        dtype=None,
    ):
        scale = positive("scale", scale)
        label_smoothing = fraction("label_smoothing", label_smoothing)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.scale = scale
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        present = targets(y_true, y_pred)  # (b, j)
        # An example without a class asks for equal lengths.
        total = ops.sum(present, axis=-1, keepdims=True)
        shares = present / ops.where(total == 0, 1.0, total)
        return log(shares, self.scale * y_pred, label_smoothing=self.label_smoothing)  # (b,)

    def get_config(self):
        return {
            **super().get_config(),
            "scale": self.scale,
            "label_smoothing": self.label_smoothing,
        }
