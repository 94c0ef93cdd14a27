"""The twelve functions of `kcaps.losses.classification` as Keras losses."""

from collections.abc import Callable

import keras

from kcaps.losses import classification
from kcaps.validation import boolean, fraction, one_of


class ClassificationLoss(keras.losses.Loss):
    """Base of the twelve: a function of `kcaps.losses.classification` with its options.

    The functions, such as `kcaps.losses.l1` of `L1Loss`, explain their options. All losses take
    integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix `(batch,
    num_classes)`, and predictions `(batch, num_classes)`, and sum over the classes.

    Args:
        options: Dict of the function's options.
        reduction: As for any Keras loss. Defaults to `"sum_over_batch_size"`.
        name: Name of the loss. Defaults to the one that `kcaps.losses.get` knows it by.
        dtype: As for any Keras loss.

    Raises:
        ValueError: if an option is not valid, or the shape of the labels does not fit.

    Reference:

    - [Janocha and Czarnecki, 2017](https://arxiv.org/abs/1702.05659), Table 1.
    """

    def __init_subclass__(cls, function: Callable | None = None):
        super().__init_subclass__()
        if function is not None:
            cls.function = staticmethod(function)
            keras.saving.register_keras_serializable(package="kcaps")(cls)

    def __init__(self, options, reduction: str | None, name, dtype):
        if "activation" in options:
            one_of("activation", options["activation"], classification.ACTIVATIONS)
        if "label_smoothing" in options:
            smoothing = fraction("label_smoothing", options["label_smoothing"])
            options = {**options, "label_smoothing": smoothing}
        name = self.function.__name__ if name is None else name
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self._options = options

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred, **self._options)

    def get_config(self):
        return {**super().get_config(), **self._options}


class _OutputLoss(ClassificationLoss):
    """Loss of outputs that are neither logits nor probabilities."""

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__({"label_smoothing": label_smoothing}, reduction, name, dtype)


class _HingeLoss(ClassificationLoss):
    """Loss of signed margins."""

    def __init__(self, reduction: str | None = "sum_over_batch_size", name=None, dtype=None):
        super().__init__({}, reduction, name, dtype)


class _ProbabilityLoss(ClassificationLoss):
    """Loss of probabilities, or of the logits that they come from."""

    def __init__(
        self,
        from_logits: bool = True,
        activation: str = "softmax",
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype=None,
    ):
        options = {
            "from_logits": boolean("from_logits", from_logits),
            "activation": activation,
            "label_smoothing": label_smoothing,
        }
        super().__init__(options, reduction, name, dtype)


class L1Loss(_OutputLoss, function=classification.l1):
    """L1 loss of the outputs themselves: Σ_j |y_j - o_j|.

    Example:

    >>> loss = kcaps.losses.L1Loss()(np.array([1]), np.array([[0.25, 2.0]]))
    >>> round(float(loss), 4)
    1.25
    """


class L2Loss(_OutputLoss, function=classification.l2):
    """L2 loss of the outputs themselves: Σ_j (y_j - o_j)².

    Example:

    >>> loss = kcaps.losses.L2Loss()(np.array([1]), np.array([[0.5, 2.0]]))
    >>> round(float(loss), 4)
    1.25
    """


class ExpectationLoss(_ProbabilityLoss, function=classification.expectation):
    """Twice the expected misclassification: Σ_j |y_j - σ(o)_j|.

    Example:

    >>> loss = kcaps.losses.ExpectationLoss()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    1.0
    """


class RegularisedExpectationLoss(_ProbabilityLoss, function=classification.regularised_expectation):
    """Expected misclassification, and confidence that costs: Σ_j (y_j - σ(o)_j)².

    Example:

    >>> loss = kcaps.losses.RegularisedExpectationLoss()([1], np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    0.5
    """


class ChebyshevLoss(_ProbabilityLoss, function=classification.chebyshev):
    """The largest error of a probability: max_j |σ(o)_j - y_j|.

    Example:

    >>> loss = kcaps.losses.ChebyshevLoss()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    0.5
    """


class HingeLoss(_HingeLoss, function=classification.hinge):
    """Hinge loss with margin ½, summed over the classes: Σ_j max(0, ½ - ŷ_j o_j).

    Example:

    >>> loss = kcaps.losses.HingeLoss()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    1.0
    """


class SquaredHingeLoss(_HingeLoss, function=classification.squared_hinge):
    """Squared hinge loss with margin ½, summed over the classes: Σ_j max(0, ½ - ŷ_j o_j)².

    Example:

    >>> loss = kcaps.losses.SquaredHingeLoss()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    0.5
    """


class CubedHingeLoss(_HingeLoss, function=classification.cubed_hinge):
    """Cubed hinge loss with margin ½, summed over the classes: Σ_j max(0, ½ - ŷ_j o_j)³.

    Example:

    >>> loss = kcaps.losses.CubedHingeLoss()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    0.25
    """


class LogLoss(_ProbabilityLoss, function=classification.log):
    """Cross entropy: -Σ_j y_j log σ(o)_j.

    Example:

    >>> loss = kcaps.losses.LogLoss()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)  # log 2
    0.6931
    """


class SquaredLogLoss(_ProbabilityLoss, function=classification.squared_log):
    """Squared log loss: Σ_j [y_j log σ(o)_j]².

    Example:

    >>> loss = kcaps.losses.SquaredLogLoss()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)  # (log 2)²
    0.4805
    """


class TanimotoLoss(_ProbabilityLoss, function=classification.tanimoto):
    """Similarity of probabilities and labels, negative: -⟨σ(o), y⟩ / (‖σ(o)‖² + ‖y‖² - ⟨σ(o), y⟩).

    Example:

    >>> loss = kcaps.losses.TanimotoLoss()(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    -0.5
    """


class CauchySchwarzLoss(_ProbabilityLoss, function=classification.cauchy_schwarz):
    """Cauchy-Schwarz divergence of probabilities from labels: -log(⟨σ(o), y⟩ / (‖σ(o)‖ ‖y‖)).

    Example:

    >>> loss = kcaps.losses.CauchySchwarzLoss()([1], np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)  # (log 2) / 2
    0.3466
    """


# In the order of the paper's Table 1.
CLASSIFICATION_LOSSES = {
    loss.function.__name__: loss
    for loss in (
        *(L1Loss, L2Loss, ExpectationLoss, RegularisedExpectationLoss, ChebyshevLoss, HingeLoss),
        *(SquaredHingeLoss, CubedHingeLoss, LogLoss, SquaredLogLoss, TanimotoLoss),
        CauchySchwarzLoss,
    )
}
