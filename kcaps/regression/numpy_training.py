"""EM on small data by NumPy alone, without the start-up of a backend's compiled loop."""

from typing import NamedTuple

import numpy as np

from kcaps.regression import em
from kcaps.regression.adaptation import first_kernel, inverse_factors
from kcaps.regression.moments import SecondMoments
from kcaps.regression.posterior import Expectations, squared_lengths

# Components of capsules that are computed at once: so few that the temporary arrays stay in the
# cache, and below the size from which on each of them is memory that the system has to clear.
_BLOCK = 2**13

# So many operations an iteration that Keras' loop is faster than NumPy, with its start-up of two to
# seven seconds shared among a few hundred iterations. Measured on two cores with TensorFlow and
# JAX: at 6e7 NumPy takes 23 to 46 ms and Keras 7 to 65, at 2.6e8 it is 1,000 against 24 to 80.
_LARGE = 10**8
# Operations on a squared length that do not depend on the features: mostly the continued fraction.
_OWN_OPERATIONS = 500


class _Part(NamedTuple):
    """Examples that meet the same problems."""

    features: np.ndarray  # (b, p)
    classes: np.ndarray  # one-hot, (b, m)
    weights: np.ndarray  # (b,)
    problems: slice | np.ndarray  # all, or those of the one class that these examples have


class NumPyTraining:
    """EM as `CapsuleRegression.fit` runs it, on arrays in memory and by the same functions.

    Keras' loop takes a second or more to start and a millisecond for each epoch, whatever the size
    of the data; NumPy takes a tenth of a millisecond for an iteration on a hundred examples.

    Callbacks find here what they use of a `CapsuleRegression`: `kernel`, `threshold`, `restart` and
    `stop_training`.

    Args:
        layer: The built `Competition`, for its problems and the dimensions of its capsules.
        features: Array `(b, p)` of float32 or float64, which is what EM is computed in.
        labels: Integers `(b,)`; each class must occur.
        weights: Weights of the examples `(b,)`, or None.
        kernel: Weights to start from `(n, p, c, d)`, or None for the directions of the classes.
        momentum: γ.
        threshold: ν.
        ridge: Precision of the prior of the weights.

    Attributes:
        kernel: The weights, `(n, p, c, d)`.
        velocity: The last step.

    Raises:
        ValueError: for a class without examples, and for features that are zero, too large or too
            small.

    Example:

    >>> layer = CapsuleRegression(3, capsule_dim=2).competition
    >>> layer.build((None, 5))
    >>> x = np.random.default_rng(0).normal(size=(60, 5))
    >>> training = NumPyTraining(layer, x, np.arange(60) % 3, momentum=0.9)
    >>> logs = [training.iterate() for _ in range(10)]

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336).
    """

    def __init__(
        self,
        layer,
        features: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        *,
        kernel: np.ndarray | None = None,
        momentum: float = 0.0,
        threshold: float = 0.0,
        ridge: float = 0.0,
    ):
        dtype = features.dtype
        weights = np.ones(len(features)) if weights is None else weights
        moments = SecondMoments(layer.num_classes)
        moments.add(features, labels, weights)
        moments.check(str(dtype))
        targets = layer.problems.targets
        factors, ridges = inverse_factors(moments, targets, ridge, str(dtype))
        self.layer, self.momentum, self.threshold = layer, momentum, threshold
        self._factors, self._ridges = factors.astype(dtype), ridges.astype(dtype)
        kernel = first_kernel(moments, targets, layer.dims) if kernel is None else kernel
        self.kernel = np.asarray(kernel, dtype)
        self.velocity = np.zeros_like(self.kernel)
        self.stop_training = False
        self._parts = list(_parts(layer, features, labels, weights.astype(dtype)))

    def restart(self) -> None:
        """Sets the velocity to rest, as at the start of a round."""
        self.velocity = np.zeros_like(self.kernel)

    def iterate(self) -> dict[str, float]:
        """Makes one iteration of EM.

        Returns:
            Dict of the `loss` and the `error` of the weights before it.

        Raises:
            ValueError: if the step is not finite; the weights are then those before it.
        """
        gradient = np.zeros_like(self.kernel)
        weights = np.zeros(len(gradient), gradient.dtype)
        totals = np.zeros(3)  # of weights, losses and errors
        with np.errstate(all="ignore"):
            for part in self._parts:
                statistics, losses, errors = self._expect(part)
                gradient[part.problems] += statistics.gradient
                weights[part.problems] += statistics.weights
                totals += part.weights.sum(), part.weights @ losses, part.weights @ errors
            kernel, velocity = em.maximisation(
                self.kernel,
                self.velocity,
                em.Statistics(gradient, weights),
                self._factors,
                self._ridges,
                self.momentum,
                1.0,
            )
        if not np.isfinite(kernel).all():
            raise ValueError(
                "A step was not finite: `x`, `sample_weight` or `ridge` are too large for "
                f"{kernel.dtype}. Scale `x`, e.g. to unit variance."
            )
        self.kernel, self.velocity = kernel, velocity
        return {"loss": totals[1] / totals[0], "error": totals[2] / totals[0]}

    def fit(self, max_iter: int, callbacks: list, validation: tuple | None = None) -> int:
        """Iterates until a callback sets `stop_training`, at most `max_iter` times.

        Args:
            max_iter: Positive integer.
            callbacks: List of Keras callbacks, of which those of training and of epochs are called.
            validation: `(features, labels, weights or None)` whose error is logged as `val_error`,
                or None.

        Returns:
            The number of iterations.
        """
        for callback in callbacks:
            callback.set_model(self)
            callback.on_train_begin()
        for epoch in range(max_iter):
            for callback in callbacks:
                callback.on_epoch_begin(epoch)
            logs = self.iterate()
            if validation is not None:
                logs["val_error"] = self.error(*validation)
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        for callback in callbacks:
            callback.on_train_end()
        return epoch + 1

    def error(
        self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
    ) -> float:
        """Returns the share of wrong classes among some examples; ties are wrong."""
        outputs = probabilities(self.layer, self.kernel, features)
        is_own = np.arange(self.layer.num_classes) == labels[:, None]
        wrong = np.where(is_own, -np.inf, outputs).max(1) >= outputs[is_own]
        return float(np.average(wrong, weights=weights))

    def _expect(self, part):
        """E-step of a part: statistics, losses and errors."""
        features, classes, weights, problems = part
        if isinstance(problems, slice):
            *found, _ = em.class_expectation(
                features, classes, weights, self.layer, self.kernel, self.threshold
            )
            return found
        kernel, dims = self.kernel[problems], self.layer.dims[problems]
        targets = self.layer.problems.targets[classes[0].argmax(), problems][None]
        statistics, answers = em.expectation(
            features, targets.astype(kernel.dtype), weights, kernel, dims, self.threshold
        )
        return statistics, answers.losses, (answers.wrong >= answers.right).any(-1)


def _parts(layer, features, labels, weights):
    """Cuts examples into parts of a size that the cache holds, of one class where that saves."""
    problems = layer.problems
    groups = [(np.arange(len(labels)), slice(None))]
    if hasattr(problems, "problems_of"):
        own = enumerate(problems.problems_of)
        groups = [(np.flatnonzero(labels == k), numbers) for k, numbers in own]
    one_hot = np.eye(layer.num_classes, dtype=features.dtype)
    for members, numbers in groups:
        size = layer.dims[numbers].size * layer.dims.max()  # components of an example
        for rows in np.array_split(members, -(-len(members) * size // _BLOCK)):
            yield _Part(features[rows], one_hot[labels[rows]], weights[rows], numbers)


def probabilities(layer, kernel: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns class probabilities by NumPy.

    Args:
        layer: The `Competition`, for its problems and the dimensions of its capsules.
        kernel: Weights of its capsules `(n, p, c, d)`, an array.
        features: Array `(b, p)` of the same dtype.

    Returns:
        Array `(b, num_classes)` of that dtype, which sums to 1.
    """
    with np.errstate(all="ignore"):
        squared = squared_lengths(em.means(features, kernel))
        return layer.problems.combine(Expectations(squared, layer.dims).probabilities)


def is_faster(layer, features: np.ndarray) -> bool:
    """Returns whether NumPy is faster than Keras' loop, with the start-up of that one.

    Args:
        layer: The `Competition` that is trained or asked.
        features: Array `(b, p)`.
    """
    met = layer.dims.size
    if hasattr(layer.problems, "problems_of"):  # an example meets those of its class
        met = met * 2 // layer.num_classes
    return len(features) * met * (features.shape[1] * layer.dims.max() + _OWN_OPERATIONS) < _LARGE
