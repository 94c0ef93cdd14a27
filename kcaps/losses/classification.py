"""The twelve classification losses that Janocha and Czarnecki compare, as functions.

Each takes labels and predictions of shape `(batch, num_classes)` and returns one value an example,
`(batch,)`. `kcaps.losses.classification_loss` has the same as Keras losses.

Notation: y one-hot label, ŷ = 2y - 1, o prediction, σ(o) probabilities.

Labels are integers of shape `(batch,)` or `(batch, 1)`, or a one-hot or k-hot matrix of shape
`(batch, num_classes)`.

Arguments that several of them have:

- `from_logits`: Whether predictions are logits o, or the probabilities σ(o) already. Defaults to
  `True`.
- `activation`: σ of logits, `"softmax"` (the default) or `"sigmoid"`.
- `label_smoothing`: Number α in [0, 1]: labels become (1 - α) y + α / num_classes. Defaults to 0.

Reference: [Janocha and Czarnecki, 2017](https://arxiv.org/abs/1702.05659), Table 1.
"""

import keras
from keras import ops

from kcaps.backend.arrays import maxima
from kcaps.labels import targets
from kcaps.validation import boolean, fraction, one_of

ACTIVATIONS = ("softmax", "sigmoid")
HINGE_MARGIN = 0.5

_register = keras.saving.register_keras_serializable(package="kcaps")


def _tensors(y_true, y_pred, label_smoothing=0.0):
    """Returns smoothed labels as a matrix of the predictions' dtype, and the predictions."""
    label_smoothing = fraction("label_smoothing", label_smoothing)
    y_pred = ops.convert_to_tensor(y_pred)
    classes = targets(y_true, y_pred)
    if label_smoothing:
        classes = (1.0 - label_smoothing) * classes + label_smoothing / y_pred.shape[-1]
    return classes, y_pred


def _probabilities(y_pred, from_logits, activation):
    """Returns σ(o)."""
    one_of("activation", activation, ACTIVATIONS)
    if not boolean("from_logits", from_logits):
        return y_pred
    return ops.softmax(y_pred) if activation == "softmax" else ops.sigmoid(y_pred)


def _log_probabilities(y_pred, from_logits, activation):
    """Returns log σ(o), exact where σ(o) itself would be rounded to zero."""
    one_of("activation", activation, ACTIVATIONS)
    if not boolean("from_logits", from_logits):
        return ops.log(ops.maximum(y_pred, keras.config.epsilon()))
    if activation == "softmax":
        return ops.log_softmax(y_pred)
    return ops.negative(ops.softplus(ops.negative(y_pred)))


def _loss_of(transform):
    """Decorates a formula of one-hot labels and transformed predictions, which becomes a loss."""

    def decorate(formula):
        def loss(
            y_true,
            y_pred,
            from_logits: bool = True,
            activation: str = "softmax",
            label_smoothing: float = 0.0,
        ):
            classes, y_pred = _tensors(y_true, y_pred, label_smoothing)
            return formula(classes, transform(y_pred, from_logits, activation))

        for name in ("__name__", "__qualname__", "__doc__"):
            setattr(loss, name, getattr(formula, name))
        return _register(loss)

    return decorate


def _absolute(x):
    """Returns |x| with derivative 0 at 0 on every backend, unlike `ops.abs` on JAX."""
    return ops.relu(x) + ops.relu(ops.negative(x))


@_register
def l1(y_true, y_pred, label_smoothing: float = 0.0):
    """Returns the L1 loss of the outputs themselves: ‖y - o‖₁.

    Its derivatives are ±1 whatever the error, so that deep networks do not learn from it.

    Example:

    >>> loss = kcaps.losses.l1(np.array([1]), np.array([[0.25, 2.0]]))
    >>> round(float(loss[0]), 4)  # 0.25 + 1
    1.25
    """
    classes, outputs = _tensors(y_true, y_pred, label_smoothing)
    return ops.sum(_absolute(classes - outputs), axis=-1)


@_register
def l2(y_true, y_pred, label_smoothing: float = 0.0):
    """Returns the L2 loss of the outputs themselves: ‖y - o‖₂². Its derivatives are linear.

    Example:

    >>> loss = kcaps.losses.l2(np.array([1]), np.array([[0.5, 2.0]]))
    >>> round(float(loss[0]), 4)  # 0.25 + 1
    1.25
    """
    classes, outputs = _tensors(y_true, y_pred, label_smoothing)
    return ops.sum(ops.square(classes - outputs), axis=-1)


@_loss_of(_probabilities)
def expectation(classes, probabilities):
    """Returns the expectation loss: ‖y - σ(o)‖₁.

    With softmax it is twice the probability that a class drawn from σ(o) is wrong. Its derivatives
    vanish where an example is heavily misclassified: slow to learn, robust against wrong labels.

    Example:

    >>> loss = kcaps.losses.expectation(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # 0.5 + 0.5
    1.0
    """
    return ops.sum(_absolute(classes - probabilities), axis=-1)


@_loss_of(_probabilities)
def regularised_expectation(classes, probabilities):
    """Returns the regularised expectation loss: ‖y - σ(o)‖₂², the plain one plus ‖σ(o)‖₂² - 1.

    Example:

    >>> loss = kcaps.losses.regularised_expectation(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # 0.5
    0.5
    """
    return ops.sum(ops.square(classes - probabilities), axis=-1)


@_loss_of(_probabilities)
def chebyshev(classes, probabilities):
    """Returns the Chebyshev loss: max_j |σ(o)_j - y_j|; by softmax, half the expectation loss.

    Example:

    >>> loss = kcaps.losses.chebyshev(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # 0.5
    0.5
    """
    return maxima(_absolute(classes - probabilities), -1, 0.0, keepdims=False)


def _shortfall(y_true, y_pred):
    """Returns max(0, ½ - ŷ o) of each class, `(b, j)`."""
    classes, outputs = _tensors(y_true, y_pred)
    return ops.relu(HINGE_MARGIN - (2.0 * classes - 1.0) * outputs)


@_register
def hinge(y_true, y_pred):
    """Returns the hinge loss: Σ_j max(0, ½ - ŷ_j o_j).

    Keras' loss of this name has a margin of 1 and takes the mean over the classes.

    Example:

    >>> loss = kcaps.losses.hinge(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # 0.5 + 0.5
    1.0
    """
    return ops.sum(_shortfall(y_true, y_pred), axis=-1)


@_register
def squared_hinge(y_true, y_pred):
    """Returns the squared hinge loss, of linear derivatives: Σ_j max(0, ½ - ŷ_j o_j)².

    Keras' loss of this name has a margin of 1 and takes the mean over the classes.

    Example:

    >>> loss = kcaps.losses.squared_hinge(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # 0.25 + 0.25
    0.5
    """
    return ops.sum(ops.square(_shortfall(y_true, y_pred)), axis=-1)


@_register
def cubed_hinge(y_true, y_pred):
    """Returns the cubed hinge loss: Σ_j max(0, ½ - ŷ_j o_j)³.

    Example:

    >>> loss = kcaps.losses.cubed_hinge(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # 0.125 + 0.125
    0.25
    """
    shortfall = _shortfall(y_true, y_pred)
    return ops.sum(shortfall * ops.square(shortfall), axis=-1)


@_loss_of(_log_probabilities)
def log(classes, logs):
    """Returns the log loss, or cross entropy: -Σ_j y_j log σ(o)_j.

    With sigmoid, nothing in it holds down classes that are absent; for several classes in one
    image, `keras.losses.BinaryCrossentropy` does.

    Example:

    >>> loss = kcaps.losses.log(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # log 2
    0.6931
    """
    return ops.negative(ops.sum(classes * logs, axis=-1))


@_loss_of(_log_probabilities)
def squared_log(classes, logs):
    """Returns the squared log loss: Σ_j [y_j log σ(o)_j]².

    The paper prints it with a minus sign, with which it would have no lower bound.

    Example:

    >>> loss = kcaps.losses.squared_log(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # (log 2)²
    0.4805
    """
    return ops.sum(ops.square(classes * logs), axis=-1)


@_loss_of(_probabilities)
def tanimoto(classes, probabilities):
    """Returns -⟨σ(o), y⟩ / (‖σ(o)‖₂² + ‖y‖₂² - ⟨σ(o), y⟩), the Tanimoto loss: -1 (right) to 0.

    Example:

    >>> loss = kcaps.losses.tanimoto(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # -0.5 / (0.5 + 1 - 0.5)
    -0.5
    """
    common = ops.sum(probabilities * classes, axis=-1)
    union = ops.sum(ops.square(probabilities) + ops.square(classes), axis=-1) - common
    # The union is at least three quarters of ‖y‖²: zero only for an example of no class.
    return ops.negative(common) / ops.maximum(union, keras.config.epsilon())


@_loss_of(_log_probabilities)
def cauchy_schwarz(classes, logs):
    """Returns the Cauchy-Schwarz divergence: -log(⟨σ(o), y⟩ / (‖σ(o)‖₂ ‖y‖₂)).

    For one-hot labels it is log loss less half of Rényi's quadratic entropy,
    -log ‖σ(o)‖₂² / 2: it rewards uncertainty. (The paper prints this relation with a plus.)
    Each example must have a class.

    Example:

    >>> loss = kcaps.losses.cauchy_schwarz(np.array([1]), np.array([[0.0, 0.0]]))
    >>> round(float(loss[0]), 4)  # log 2 / 2
    0.3466
    """
    present = classes > 0
    log_classes = ops.log(ops.where(present, classes, ops.ones_like(classes)))
    # Logarithms of sums of exponentials: the sums themselves may be rounded to zero.
    common = ops.logsumexp(ops.where(present, logs + log_classes, -1e30), axis=-1)
    norms = ops.logsumexp(2.0 * logs, axis=-1) + ops.log(ops.sum(ops.square(classes), axis=-1))
    return 0.5 * norms - common
