"""The two steps of EM, as pure functions of arrays or tensors, and EM on small data by NumPy alone.

On PyTorch, `keras.ops.matmul` and `maximum` make float32 of float64: products are written with `@`.
"""

from typing import NamedTuple

import numpy as np

from kcaps.regression.interpolation import Expectations, namespace, squared_lengths
from kcaps.regression.moments import SecondMoments, first_kernel, inverse_factors


def means(features, kernel):
    """Returns the means of all capsules `(b, n, c, d)`, given a kernel `(n, p, c, d)`."""
    ops, (n, p, c, d) = namespace(features, kernel), kernel.shape
    columns = ops.reshape(ops.transpose(kernel, (1, 0, 2, 3)), (p, n * c * d))
    return ops.reshape(features @ columns, (-1, n, c, d))


class Statistics(NamedTuple):
    """Sums over examples that an M-step needs.

    Attributes:
        gradient: `Σ w (g_i - 1) μ_i xᵀ`, the gradient of the conditional log-likelihood by the
            kernel, `(n, p, c, d)`.
        weights: Sum of the weights of each problem's examples, `(n,)`.
    """

    gradient: object
    weights: object


class Answers(NamedTuple):
    """Probabilities that the problems give a batch.

    Attributes:
        probabilities: `(b, n, c)`.
        right: Probability of the true class, `(b, n)`; 1 where a problem is not concerned.
        wrong: Largest probability of another class, `(b, n)`.
        losses: Negative conditional log-likelihood of each example, summed over problems, `(b,)`.
    """

    probabilities: object
    right: object
    wrong: object
    losses: object


def expectation(features, targets, weights, kernel, dims, threshold):
    """Runs the E-step on a batch; returns its `Statistics`, and an `Answers`.

    Args:
        features: Tensor `(b, p)`.
        targets: One-hot targets `(b, n, c)`; zeros for problems not concerned with the class.
        weights: Weights of the examples, `(b,)`.
        kernel: Weights of the capsules, `(n, p, c, d)`.
        dims: Tensor or array of the capsules' numbers of components, `(n, c)`.
        threshold: Examples with `max_{j≠y} P(j|x) / P(y|x)` at most this count as learned and do
            not enter the gradient. 0 keeps all.
    """
    ops, (n, p, c, d) = namespace(features, kernel), kernel.shape
    mu = means(features, kernel)  # (b, n, c, d)
    expected = Expectations(ops.sum(ops.square(mu), axis=-1), dims)
    probabilities = expected.probabilities  # (b, n, c)
    concerned = ops.sum(targets, axis=-1)  # (b, n)
    right = ops.sum(targets * probabilities, axis=-1) + (1.0 - concerned)
    wrong = ops.max((1.0 - targets) * probabilities, axis=-1)
    entering = ops.cast(wrong > threshold * right, right.dtype) * weights[:, None]  # (b, n)
    scales = expected.corrections(targets) * entering[..., None]  # (b, n, c)
    errors = ops.reshape(mu * scales[..., None], (-1, n * c * d))
    gradient = ops.reshape(ops.transpose(features) @ errors, (p, n, c, d))
    statistics = Statistics(
        ops.transpose(gradient, (1, 0, 2, 3)), ops.sum(concerned * weights[:, None], axis=0)
    )
    losses = -ops.sum(ops.log(right), axis=-1)
    return statistics, Answers(probabilities, right, wrong, losses)


def class_expectation(features, classes, weights, layer, kernel, threshold):
    """Runs the E-step on a batch of any classes, and combines the answers of the problems.

    Args:
        features: Tensor or array `(b, p)`.
        classes: One-hot classes `(b, m)`.
        weights: Weights of the examples, `(b,)`.
        layer: The `Competition`, for its problems and dimensions.
        kernel: Weights of its capsules, `(n, p, c, d)`.
        threshold: As for `expectation`.

    Returns:
        `Statistics`, losses `(b,)`, errors `(b,)` and class probabilities `(b, m)`.
    """
    ops, problems = namespace(features, kernel), layer.problems
    n, c = layer.dims.shape
    targets = classes[:, None, :]  # (b, n, c)
    if n > 1:
        flat = ops.cast(problems.targets.reshape(-1, n * c), classes.dtype)
        targets = ops.reshape(classes @ flat, (-1, n, c))
    statistics, answers = expectation(features, targets, weights, kernel, layer.dims, threshold)
    outputs = problems.combine(answers.probabilities)
    right, wrong = answers.right[:, 0], answers.wrong[:, 0]
    if n > 1:
        right = ops.sum(classes * outputs, axis=-1)
        wrong = ops.max((1.0 - classes) * outputs, axis=-1)
    # Ties are errors, because nothing was told apart.
    return statistics, answers.losses, ops.cast(wrong >= right, classes.dtype), outputs


def maximisation(kernel, velocity, statistics, factor, ridge, momentum, rate):
    """Runs the M-step, a least-squares update with momentum; returns the new kernel and velocity.

    `V ← γV + η (A/w - r W) (S/w + r I)⁻¹`, `W ← W + V`: plain EM at γ = 0 and η = 1.

    Args:
        kernel: W, `(n, p, c, d)`.
        velocity: V, of the same shape.
        statistics: `Statistics` of all examples: A and w.
        factor: R with `R Rᵀ = (S/w + r I)⁻¹`, `(n, p, p)` or `(1, p, p)`.
        ridge: r, the precision of a Gaussian prior on the weights by example; `(n,)` or a number.
        momentum: γ.
        rate: η.
    """
    ops, (n, p, c, d) = namespace(kernel, statistics.gradient), kernel.shape
    share = 1.0 / (statistics.weights + 1e-30)[:, None, None, None]  # 0 without examples
    ascent = statistics.gradient * share - ops.reshape(ridge, (-1, 1, 1, 1)) * kernel
    ascent = ops.reshape(ascent, (n, p, c * d))
    step = factor @ (ops.transpose(factor, (0, 2, 1)) @ ascent)
    velocity = momentum * velocity + rate * ops.reshape(step, kernel.shape)
    return kernel + velocity, velocity


# So few components of capsules are computed at once that the temporary arrays stay in the cache,
# and below the size from which on each of them is memory that the system has to clear.
_BLOCK = 2**13

# From so many operations an iteration on, Keras' loop is faster than NumPy, its start-up of two to
# seven seconds included. On two cores, at 6e7 NumPy takes 23 to 46 ms and Keras 7 to 65, at 2.6e8
# it is 1,000 against 24 to 80.
_LARGE = 10**8
# So many operations on a squared length do not depend on the features: the continued fraction.
_OWN_OPERATIONS = 500


class _Part(NamedTuple):
    """Examples that meet the same problems: all, or those of the one class that they have."""

    features: np.ndarray  # (b, p)
    classes: np.ndarray  # one-hot, (b, m)
    weights: np.ndarray  # (b,)
    problems: slice | np.ndarray


class NumPyTraining:
    """EM as `CapsuleRegression.fit` runs it, on arrays in memory and by the same functions.

    Keras' loop takes a second or more to start and a millisecond for each epoch, whatever the size
    of the data; NumPy takes a tenth of a millisecond for an iteration on a hundred examples.
    Callbacks find here what they use of a `CapsuleRegression`: `kernel`, `threshold`, `restart` and
    `stop_training`.

    Args:
        layer: The `Competition`, for its problems and the dimensions of its capsules.
        data: Features `(b, p)` of float32 or float64, which is what EM is computed in; labels,
            integers `(b,)` among which each class must occur; and weights `(b,)` or None.
        kernel: Weights to start from `(n, p, c, d)`, or None for the directions of the classes.
        momentum: γ.
        threshold: ν.
        ridge: Precision of the prior of the weights.
    """

    def __init__(
        self,
        layer,
        data: tuple,
        kernel: np.ndarray | None = None,
        momentum: float = 0.0,
        threshold: float = 0.0,
        ridge: float = 0.0,
    ):
        features, labels, weights = data
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
        self.restart()
        self.stop_training = False
        self._parts = list(_parts(layer, features, labels, weights.astype(dtype)))

    def restart(self) -> None:
        """Sets the velocity to rest, as at the start of a round."""
        self.velocity = np.zeros_like(self.kernel)

    def iterate(self) -> dict[str, float]:
        """Makes one iteration; returns the `loss` and the `error` of the weights before it."""
        gradient = np.zeros_like(self.kernel)
        weights = np.zeros(len(gradient), gradient.dtype)
        totals = np.zeros(3)  # These are of weights, losses and errors.
        with np.errstate(all="ignore"):
            for part in self._parts:
                statistics, losses, errors = self._expect(part)
                gradient[part.problems] += statistics.gradient
                weights[part.problems] += statistics.weights
                totals += part.weights.sum(), part.weights @ losses, part.weights @ errors
            sums, values = Statistics(gradient, weights), (self.kernel, self.velocity)
            kernel, velocity = maximisation(
                *values, sums, self._factors, self._ridges, self.momentum, 1.0
            )
        if not np.isfinite(kernel).all():
            raise ValueError(
                "A step was not finite: `x`, `sample_weight` or `ridge` are too large for "
                f"{kernel.dtype}. Scale `x`, e.g. to unit variance."
            )
        self.kernel, self.velocity = kernel, velocity
        return {"loss": totals[1] / totals[0], "error": totals[2] / totals[0]}

    def fit(self, max_iter: int, callbacks: list, validation: tuple | None = None) -> int:
        """Iterates until a callback sets `stop_training`, and returns how many iterations it took.

        Args:
            max_iter: Most iterations.
            callbacks: List of Keras callbacks, of which those of training and of epochs are called.
            validation: `(features, labels, weights or None)` for `val_error` in the logs, or None.
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

    def error(self, features: np.ndarray, labels: np.ndarray, weights=None) -> float:
        """Returns the share of wrong classes among some examples; ties are wrong."""
        outputs = probabilities(self.layer, self.kernel, features)
        is_own = np.arange(self.layer.num_classes) == labels[:, None]
        wrong = np.where(is_own, -np.inf, outputs).max(1) >= outputs[is_own]
        return float(np.average(wrong, weights=weights))

    def _expect(self, part):
        """Returns the statistics, losses and errors of a part."""
        features, classes, weights, problems = part
        if isinstance(problems, slice):
            *found, _ = class_expectation(
                features, classes, weights, self.layer, self.kernel, self.threshold
            )
            return found
        kernel, dims = self.kernel[problems], self.layer.dims[problems]
        targets = self.layer.problems.targets[classes[0].argmax(), problems][None]
        statistics, answers = expectation(
            features, targets.astype(kernel.dtype), weights, kernel, dims, self.threshold
        )
        return statistics, answers.losses, (answers.wrong >= answers.right).any(-1)


def _parts(layer, features, labels, weights):
    """Cuts examples into parts of a size that the cache holds, of one class where that saves."""
    groups = [(np.arange(len(labels)), slice(None))]
    if hasattr(layer.problems, "problems_of"):
        numbered = enumerate(layer.problems.problems_of)
        groups = [(np.flatnonzero(labels == k), numbers) for k, numbers in numbered]
    one_hot = np.eye(layer.num_classes, dtype=features.dtype)
    for members, numbers in groups:
        size = layer.dims[numbers].size * layer.dims.max()  # So many components has an example.
        for rows in np.array_split(members, -(-len(members) * size // _BLOCK)):
            yield _Part(features[rows], one_hot[labels[rows]], weights[rows], numbers)


def probabilities(layer, kernel: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns class probabilities `(b, m)` by NumPy, of a kernel and features of one dtype."""
    with np.errstate(all="ignore"):
        squared = squared_lengths(means(features, kernel))
        return layer.problems.combine(Expectations(squared, layer.dims).probabilities)


def is_small(layer, features: np.ndarray) -> bool:
    """Returns whether NumPy is faster than Keras' loop, with the start-up of that one."""
    met = layer.dims.size
    if hasattr(layer.problems, "problems_of"):  # An example meets the problems of its class.
        met = met * 2 // layer.num_classes
    return len(features) * met * (features.shape[1] * layer.dims.max() + _OWN_OPERATIONS) < _LARGE
