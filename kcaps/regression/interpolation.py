"""Inference: the functions that interpolate between certain and uncertain capsules, and the
probabilities and means that follow, all of them pure, stable and exact."""

import types
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kcaps.backend.arrays import maxima
from kcaps.labels import k_hot, one_hot
from kcaps.validation import one_of

# With so many levels, the relative error of the continued fraction is below that of the rounding,
# for all dimensions from 2 on and all β.
_LEVELS = {"float32": 12, "float64": 34}

# Means are at most so long in computations: λ0 is then 1 to rounding, and 1/β², which is part of
# gradients, a normal number.
_LONGEST = {"float32": 1e9, "float64": 1e75}

# NumPy's functions have here the names of `keras.ops`; there are as many as the formulas need.
_NUMPY = types.SimpleNamespace(
    **{
        name: getattr(np, name)
        for name in "abs log max reshape sign square squeeze sum transpose".split()
    },
    cast=lambda x, dtype: np.asarray(x, dtype),
    stop_gradient=lambda x: x,
)


def namespace(*values):
    """Returns the functions that compute with some values: NumPy's own for arrays alone.

    On small arrays NumPy takes a microsecond for a function, a backend ten to a hundred; and NumPy
    has float64 where the backend may not.

    Args:
        *values: Arrays or tensors that a formula is about.

    Returns:
        `keras.ops`, or an object with functions of its names that take and return arrays.
    """
    return _NUMPY if all(isinstance(value, np.ndarray) for value in values) else keras.ops


def lambda_0(beta, total_dim: float | np.ndarray):
    """Returns the weight of the means in the prediction of capsule regression.

    `λ0(β) = β ∫₀¹ t^{D/2} e^{β(t-1)} dt`, which rises from 0 to 1 with β: for
    `h ~ N(μ, I)` in D dimensions and `β = ‖μ‖²/2`, the expected share of capsule `j` in `‖h‖²` is
    `λ0 ‖μ_j‖²/‖μ‖² + (1 - λ0) d_j/D`.

    Args:
        beta: Tensor of floats >= 0.
        total_dim: Number of components of all capsules together, D >= 2; a number or an array
            that broadcasts against `beta`.

    Returns:
        Tensor of the shape of `beta`, its relative error about that of its dtype: float64 where
        `beta` is, and float32 otherwise.

    Raises:
        ValueError: if `total_dim` is below 2.

    Example:

    >>> np.asarray(lambda_0([0.0, 1.0, 1e6], total_dim=20)).round(4)
    array([0.    , 0.0839, 1.    ], dtype=float32)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), equation (2.13).
    """
    beta = at_least_float32(beta)
    outer, _ = continued_fraction(beta, _checked(total_dim))
    return beta / outer


def lambda_1(beta, total_dim: float | np.ndarray):
    """Returns the weight of the means in the posterior means of capsule regression.

    `λ1(β) = β ∫₀¹ t^{D/2+1} e^{β(t-1)} dt = 1 - (D/2 + 1) λ0(β) / β`.

    Args:
        beta: Tensor of floats >= 0.
        total_dim: Number of components of all capsules together, D >= 2; a number or an array
            that broadcasts against `beta`.

    Returns:
        Tensor of the shape of `beta`, as exact as `lambda_0`.

    Raises:
        ValueError: if `total_dim` is below 2.

    Example:

    >>> np.asarray(lambda_1([0.0, 1.0, 1e6], total_dim=20)).round(4)
    array([0.    , 0.0774, 1.    ], dtype=float32)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), equation (2.14).
    """
    beta = at_least_float32(beta)
    outer, inner = continued_fraction(beta, _checked(total_dim))
    return beta / outer * (1.0 - 1.0 / inner)


def continued_fraction(beta, total_dim):
    """Returns the two outermost denominators of a continued fraction for the integral.

    With `s = D/2`:

        ∫₀¹ t^s e^{β(t-1)} dt = 1 / T_0,    T_k = s + 1 + k + β - (k + 1) β / T_{k+1}

    which converges within a few levels for any s and β. All that the model needs follows without
    cancellation: `λ0 = β/T_0`, `λ1 = λ0 (1 - 1/T_1)`, `1 - λ0 = (s + 1 - β/T_1) / T_0`,
    `1 - λ1 = (s + 1) / T_0`.

    Args:
        beta: Float32 or float64 tensor or array, >= 0.
        total_dim: Number of components, D >= 2: a number, array or tensor that broadcasts.

    Returns:
        `T_0` and `T_1`, tensors of the shape of `beta`; arrays if `beta` is one.
    """
    dtype = one_of("beta.dtype", keras.backend.standardize_dtype(beta.dtype), _LEVELS)
    first = namespace(beta).cast(total_dim, dtype) / 2 + 1
    levels = _LEVELS[dtype]
    outer = beta + (first + levels)
    for level in reversed(range(levels)):
        inner = outer
        outer = beta + (first + level) - (level + 1) * (beta / inner)
    return outer, inner


def _checked(total_dim):
    """Returns `total_dim`, or raises a `ValueError` where it is no number from 2 on."""
    try:
        dims = np.asarray(total_dim, "float64")
    except (TypeError, ValueError, OverflowError):
        dims = np.nan
    if not np.all((dims >= 2) & (dims < np.inf)):
        raise ValueError(f"`total_dim` must be at least 2. Received: total_dim={total_dim!r}.")
    return total_dim


def at_least_float32(x):
    """Returns `x` as a tensor: float64 where it is, and float32 otherwise."""
    x = ops.convert_to_tensor(x)
    double = keras.backend.standardize_dtype(x.dtype) == "float64"
    return x if double else ops.cast(x, "float32")


def class_probabilities(means, capsule_dims: Sequence[int] | None = None):
    """Returns the probability that each capsule is the one that explains the input.

    The capsules are Gaussian vectors `h_i ~ N(μ_i, I)`, and class `j` has the probability
    `‖h_j‖² / Σ_i ‖h_i‖²`. Its expectation is

        P(y = j | x) = λ0(β) ‖μ_j‖²/‖μ‖² + (1 - λ0(β)) d_j/D,    β = ‖μ‖²/2

    Args:
        means: Means μ of the capsules, a float tensor `(..., num_capsules, capsule_dim)`.
        capsule_dims: Number of components d of each capsule, where some have fewer than
            `capsule_dim` and zeros in their last ones. Defaults to None: all the same.

    Returns:
        Tensor `(..., num_capsules)` that sums to 1: float64 where `means` is, float32 otherwise.

    Raises:
        ValueError: if `capsule_dims` does not fit the means.

    Example:

    >>> np.asarray(class_probabilities([[[3.0, 4.0], [0.0, 0.0]]])).round(3)
    array([[0.926, 0.074]], dtype=float32)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), equation (2.16).
    """
    means = at_least_float32(means)
    return Expectations(squared_lengths(means), _checked_dims(means, capsule_dims)).probabilities


def posterior_means(means, labels, capsule_dims: Sequence[int] | None = None):
    """Returns the expected capsules, given the class.

        E[h_i | x, y = j] = g_ij μ_i
        g_ij = [λ1(β) ‖μ_j‖²/‖μ‖² + (1 - λ1(β)) (d_j + 2δ_ij)/(D + 2)] / P(y = j | x)

    Args:
        means: Means μ of the capsules, a float tensor `(batch, num_capsules, capsule_dim)`.
        labels: Classes, integers `(batch,)` or one-hot `(batch, num_capsules)`.
        capsule_dims: As in `class_probabilities`.

    Returns:
        Tensor of the shape of `means`: the right capsule is lengthened, the others shortened.

    Raises:
        ValueError: if `capsule_dims` does not fit the means.

    Example:

    >>> np.asarray(posterior_means([[[3.0, 4.0], [0.0, 1.0]]], [0])).round(3)
    array([[[3.024, 4.032],
            [0.   , 0.934]]], dtype=float32)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), equation (2.19).
    """
    means = at_least_float32(means)
    labels, num_classes = ops.convert_to_tensor(labels), means.shape[-2]
    # Labels of a single capsule are its number still, not whether it is there.
    targets = (one_hot if len(labels.shape) == 1 else k_hot)(labels, num_classes)
    targets = ops.cast(targets, means.dtype)
    expected = Expectations(squared_lengths(means), _checked_dims(means, capsule_dims))
    return means * (1.0 + expected.corrections(targets))[..., None]


def _checked_dims(means, capsule_dims):
    """Returns the components of each capsule as an array, or raises an error for a wrong number."""
    if capsule_dims is None:
        return np.full(means.shape[-2], means.shape[-1])
    dims = np.asarray(capsule_dims)
    if dims.shape != (means.shape[-2],) or dims.min() < 1 or dims.max() > means.shape[-1]:
        raise ValueError(
            "`capsule_dims` must be one number for each of the "
            f"{means.shape[-2]} capsules, from 1 to {means.shape[-1]}. Received: {capsule_dims!r}."
        )
    return dims


class Expectations:
    """Expected values of capsules, which depend on their means through their lengths alone.

    Args:
        squared: Squared lengths of the means, `(..., c)`; of an array, all attributes are arrays.
        dims: Array or tensor of the capsules' numbers of components, `(..., c)`.
    """

    def __init__(self, squared, dims):
        ops = namespace(squared)
        dims = ops.cast(dims, squared.dtype)
        total = ops.sum(dims, axis=-1, keepdims=True)  # (..., 1)
        self.share = dims / total
        self.next_share = dims / (total + 2.0)
        self.own_share = 2.0 / (total + 2.0)
        half = total[..., 0] / 2 + 1
        beta = ops.sum(squared, axis=-1) / 2  # (...)
        outer, inner = continued_fraction(beta, total[..., 0])
        scaled = squared * (0.5 / outer)[..., None]  # λ0 ‖μ_j‖²/‖μ‖²
        self.probabilities = scaled + ((half - beta / inner) / outer)[..., None] * self.share
        self.pulled = scaled * (1.0 - 1.0 / inner)[..., None]  # λ1 ‖μ_j‖²/‖μ‖²
        self.spread = (half / outer)[..., None]  # 1 - λ1

    def corrections(self, targets):
        """Returns `g - 1` for one-hot targets `(..., c)`, and 0 where no target is set."""
        ops = namespace(targets, self.probabilities)
        given = ops.sum(targets, axis=-1, keepdims=True)
        probability = ops.sum(targets * self.probabilities, axis=-1, keepdims=True) + (1.0 - given)
        pulled = self.pulled + self.spread * self.next_share
        others = ops.sum(targets * pulled, axis=-1, keepdims=True)
        own = targets * (self.spread * self.own_share)
        return (others + own) / probability - given


def squared_lengths(means):
    """Returns the squared lengths of means `(..., c, d)`, scaled where these would overflow.

    Capsules beyond a certain length compete as they would at that length: their shares of the
    joint length are all that counts.
    """
    ops = namespace(means)
    num_capsules, capsule_dim = means.shape[-2:]
    longest = _LONGEST[keras.backend.standardize_dtype(means.dtype)]
    # The bound is of the largest component, so that the joint length cannot exceed it.
    bound = longest / (num_capsules * capsule_dim) ** 0.5
    largest = maxima(ops.abs(means), (-2, -1), bound)  # (..., 1, 1)
    scale = ops.stop_gradient(bound / largest)
    return ops.sum(ops.square(means * scale), axis=-1)
