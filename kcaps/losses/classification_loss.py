"""The twelve classification losses that Janocha and Czarnecki compare, as Keras losses."""

import keras

from kcaps.losses import classification
from kcaps.validation import boolean, fraction, one_of

_register = keras.saving.register_keras_serializable(package="kcaps")


class ClassificationLoss(keras.losses.Loss):
    """Base of the twelve: a function of `kcaps.losses.classification` with its options.

    All of them take integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix
    `(batch, num_classes)`, and predictions `(batch, num_classes)`, and sum over the classes.

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

    function = None  # of each subclass, a static method

    def __init__(self, options, reduction, name, dtype):
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
    """Of outputs that are neither logits nor probabilities."""

    def __init__(self, label_smoothing=0.0, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__({"label_smoothing": label_smoothing}, reduction, name, dtype)


class _HingeLoss(ClassificationLoss):
    """Of signed margins."""

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__({}, reduction, name, dtype)


class _ProbabilityLoss(ClassificationLoss):
    """Of probabilities, or of the logits that they come from."""

    def __init__(
        self,
        from_logits=True,
        activation="softmax",
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        options = {
            "from_logits": boolean("from_logits", from_logits),
            "activation": activation,
            "label_smoothing": label_smoothing,
        }
        super().__init__(options, reduction, name, dtype)


@_register
class L1Loss(_OutputLoss):
    """L1 loss of the outputs themselves: Σ_j |y_j - o_j|.

    `kcaps.losses.l1` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.L1Loss()(np.array([1]), np.array([[0.25, 2.0]]))  # 1.25
    """

    function = staticmethod(classification.l1)


@_register
class L2Loss(_OutputLoss):
    """L2 loss of the outputs themselves: Σ_j (y_j - o_j)².

    `kcaps.losses.l2` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.L2Loss()(np.array([1]), np.array([[0.5, 2.0]]))  # 1.25
    """

    function = staticmethod(classification.l2)


@_register
class ExpectationLoss(_ProbabilityLoss):
    """Twice the expected misclassification: Σ_j |y_j - σ(o)_j|.

    `kcaps.losses.expectation` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.ExpectationLoss()(np.array([1]), np.array([[0.0, 0.0]]))  # 1
    """

    function = staticmethod(classification.expectation)


@_register
class RegularisedExpectationLoss(_ProbabilityLoss):
    """Expected misclassification, and confidence that costs: Σ_j (y_j - σ(o)_j)².

    `kcaps.losses.regularised_expectation` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.RegularisedExpectationLoss()([1], np.array([[0.0, 0.0]]))  # 0.5
    """

    function = staticmethod(classification.regularised_expectation)


@_register
class ChebyshevLoss(_ProbabilityLoss):
    """The largest error of a probability: max_j |σ(o)_j - y_j|.

    `kcaps.losses.chebyshev` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.ChebyshevLoss()(np.array([1]), np.array([[0.0, 0.0]]))  # 0.5
    """

    function = staticmethod(classification.chebyshev)


@_register
class HingeLoss(_HingeLoss):
    """Hinge loss with margin ½, summed over the classes: Σ_j max(0, ½ - ŷ_j o_j).

    `kcaps.losses.hinge` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.HingeLoss()(np.array([1]), np.array([[0.0, 0.0]]))  # 1
    """

    function = staticmethod(classification.hinge)


@_register
class SquaredHingeLoss(_HingeLoss):
    """Squared hinge loss with margin ½, summed over the classes: Σ_j max(0, ½ - ŷ_j o_j)².

    `kcaps.losses.squared_hinge` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.SquaredHingeLoss()(np.array([1]), np.array([[0.0, 0.0]]))  # 0.5
    """

    function = staticmethod(classification.squared_hinge)


@_register
class CubedHingeLoss(_HingeLoss):
    """Cubed hinge loss with margin ½, summed over the classes: Σ_j max(0, ½ - ŷ_j o_j)³.

    `kcaps.losses.cubed_hinge` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.CubedHingeLoss()(np.array([1]), np.array([[0.0, 0.0]]))  # 0.25
    """

    function = staticmethod(classification.cubed_hinge)


@_register
class LogLoss(_ProbabilityLoss):
    """Cross entropy: -Σ_j y_j log σ(o)_j.

    `kcaps.losses.log` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.LogLoss()(np.array([1]), np.array([[0.0, 0.0]]))  # log 2
    """

    function = staticmethod(classification.log)


@_register
class SquaredLogLoss(_ProbabilityLoss):
    """Squared log loss: Σ_j [y_j log σ(o)_j]².

    `kcaps.losses.squared_log` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.SquaredLogLoss()(np.array([1]), np.array([[0.0, 0.0]]))  # (log 2)²
    """

    function = staticmethod(classification.squared_log)


@_register
class TanimotoLoss(_ProbabilityLoss):
    """Similarity of probabilities and labels, negative: -⟨σ(o), y⟩ / (‖σ(o)‖² + ‖y‖² - ⟨σ(o), y⟩).

    `kcaps.losses.tanimoto` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.TanimotoLoss()(np.array([1]), np.array([[0.0, 0.0]]))  # -0.5
    """

    function = staticmethod(classification.tanimoto)


@_register
class CauchySchwarzLoss(_ProbabilityLoss):
    """Cauchy-Schwarz divergence of probabilities from labels: -log(⟨σ(o), y⟩ / (‖σ(o)‖ ‖y‖)).

    `kcaps.losses.cauchy_schwarz` as a Keras loss, where its options are explained.

    Example:

    >>> loss = kcaps.losses.CauchySchwarzLoss()([1], np.array([[0.0, 0.0]]))  # (log 2) / 2
    """

    function = staticmethod(classification.cauchy_schwarz)
