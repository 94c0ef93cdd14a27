"""The reconstruction loss of capsule networks."""

import keras
from keras import ops

from kcaps.validation import agree, non_negative


@keras.saving.register_keras_serializable(package="kcaps")
class ReconstructionLoss(keras.losses.Loss):
    """Weighted sum of squared pixel errors of a reconstructed image.

        L = weight · Σ_pixels (x - x̂)²

    averaged over the batch. Published implementations differ by a factor of about 1,500 in the
    effective weight, because some take the mean over the pixels; here it is the sum.

    Args:
        weight: Number >= 0. The original's is 0.0005 for pixels in [0, 1], thus 0.0005 / 255²
            for pixels in [0, 255]. Defaults to 0.0005.
        reduction: As for any Keras loss. Defaults to `"sum_over_batch_size"`.
        name: Name of the loss. Defaults to `"reconstruction"`.
        dtype: As for any Keras loss.

    Call arguments:
        y_true: Images `(batch, ...)`.
        y_pred: Reconstructions of the same shape.

    Raises:
        ValueError: if the weight is negative, or the shapes differ.

    Example:

    >>> images, decoded = np.array([[0.0, 2.0]]), np.array([[1.0, 2.0]])
    >>> float(ReconstructionLoss(weight=0.5)(images, decoded))
    0.5

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 4.1.
    """

    def __init__(
        self,
        weight: float = 0.0005,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "reconstruction",
        dtype=None,
    ):
        weight = non_negative("weight", weight)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.weight = weight

    def call(self, y_true, y_pred):
        if not agree(y_true.shape, y_pred.shape):
            raise ValueError(
                "`y_pred` must have the shape of `y_true`. "
                f"Received: {tuple(y_pred.shape)} and {tuple(y_true.shape)}."
            )
        errors = ops.square(y_true - y_pred)
        return self.weight * ops.sum(errors, axis=tuple(range(1, len(errors.shape))))

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}
