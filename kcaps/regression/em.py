"""The two steps of EM for capsule regression, as pure functions of arrays or tensors.

On PyTorch, `keras.ops.matmul` and `maximum` make float32 of float64: products are written with `@`.
"""

from typing import NamedTuple

from kcaps.regression.arrays import namespace
from kcaps.regression.posterior import Expectations


class Statistics(NamedTuple):
    """What an M-step needs to know of the examples.

    Attributes:
        gradient: `Σ w (g_i - 1) μ_i xᵀ`, the gradient of the conditional log-likelihood by the
            kernel, `(n, p, c, d)`.
        weights: Sum of the weights of each problem's examples, `(n,)`.
    """

    gradient: object
    weights: object


class Answers(NamedTuple):
    """What the problems say of a batch.

    Attributes:
        probabilities: `(b, n, c)`.
        right: Probability of the true class, `(b, n)`; 1 where a problem is not concerned.
        wrong: Largest probability of another class, `(b, n)`.
    """

    probabilities: object
    right: object
    wrong: object

    @property
    def losses(self):
        """Negative conditional log-likelihood of each example, summed over problems, `(b,)`."""
        ops = namespace(self.right)
        return -ops.sum(ops.log(self.right), axis=-1)


def means(features, kernel):
    """Means of the capsules: features `(b, p)` and kernel `(n, p, c, d)` to `(b, n, c, d)`."""
    ops, (n, p, c, d) = namespace(features, kernel), kernel.shape
    columns = ops.reshape(ops.transpose(kernel, (1, 0, 2, 3)), (p, n * c * d))
    return ops.reshape(features @ columns, (-1, n, c, d))


def expectation(features, targets, weights, kernel, dims, threshold):
    """E-step: statistics of a batch, and how well the model does on it.

    Args:
        features: Tensor `(b, p)`.
        targets: One-hot targets of the problems, `(b, n, c)`; zeros where a problem is not
            concerned with the class.
        weights: Weights of the examples, `(b,)`.
        kernel: Weights of the capsules, `(n, p, c, d)`.
        dims: Tensor or array of the capsules' numbers of components, `(n, c)`.
        threshold: Examples with `max_{j≠y} P(j|x) / P(y|x)` at most this count as learned and do
            not enter the gradient. 0 keeps all.

    Returns:
        `Statistics`, and an `Answers`.
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
    return statistics, Answers(probabilities, right, wrong)


def class_expectation(features, classes, weights, layer, kernel, threshold):
    """E-step of a batch of any classes, and how well the architecture does on it.

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
    # Ties are errors: nothing was told apart.
    return statistics, answers.losses, ops.cast(wrong >= right, classes.dtype), outputs


def maximisation(kernel, velocity, statistics, factor, ridge, momentum, rate):
    """M-step: the least-squares update of the kernel, with momentum.

    `V ← γV + η (A/w - r W) (S/w + r I)⁻¹`, `W ← W + V`: plain EM at γ = 0 and η = 1.

    Args:
        kernel: W, `(n, p, c, d)`.
        velocity: V, of the same shape.
        statistics: `Statistics` of all examples: A and w.
        factor: R with `R Rᵀ = (S/w + r I)⁻¹`, `(n, p, p)` or `(1, p, p)`.
        ridge: r, the precision of a Gaussian prior on the weights by example; `(n,)` or a number.
        momentum: γ.
        rate: η.

    Returns:
        The new kernel and velocity.
    """
    ops, (n, p, c, d) = namespace(kernel, statistics.gradient), kernel.shape
    share = 1.0 / (statistics.weights + 1e-30)[:, None, None, None]  # 0 without examples
    ascent = statistics.gradient * share - ops.reshape(ridge, (-1, 1, 1, 1)) * kernel
    ascent = ops.reshape(ascent, (n, p, c * d))
    step = factor @ (ops.transpose(factor, (0, 2, 1)) @ ascent)
    velocity = momentum * velocity + rate * ops.reshape(step, kernel.shape)
    return kernel + velocity, velocity
