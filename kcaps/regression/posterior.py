"""Inference in capsule regression: predictions and posterior means, as pure functions."""

import keras
import numpy as np
from keras import ops

from kcaps.labels import k_hot, one_hot
from kcaps.regression.arrays import namespace
from kcaps.regression.interpolation import at_least_float32, continued_fraction

# Longest means that are computed with: λ0 is 1 to rounding, and 1/β², which is part of gradients,
# a normal number.
_LONGEST = {"float32": 1e9, "float64": 1e75}


def class_probabilities(means, capsule_dims=None):
    """Probability that each capsule is the one that explains the input.

    The capsules are Gaussian vectors `h_i ~ N(μ_i, I)`, and class `j` has the probability
    `‖h_j‖² / Σ_i ‖h_i‖²`. Its expectation is

        P(y = j | x) = λ0(β) ‖μ_j‖²/‖μ‖² + (1 - λ0(β)) d_j/D,    β = ‖μ‖²/2

    Args:
        means: Means μ of the capsules, a float tensor `(..., num_capsules, capsule_dim)`.
        capsule_dims: Number of components d of each capsule, where some have fewer than
            `capsule_dim` and zeros in their last ones. Defaults to None: all the same.

    Returns:
        Tensor `(..., num_capsules)` that sums to 1: float64 where `means` is, float32 otherwise.

    Example:

    >>> probabilities = class_probabilities([[[3.0, 4.0], [0.0, 0.0]]])  # [[0.923, 0.077]]

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), equation (2.16).
    """
    means = at_least_float32(means)
    return Expectations(squared_lengths(means), _dims(means, capsule_dims)).probabilities


def posterior_means(means, labels, capsule_dims=None):
    """Expected capsules, given the class.

        E[h_i | x, y = j] = g_ij μ_i
        g_ij = [λ1(β) ‖μ_j‖²/‖μ‖² + (1 - λ1(β)) (d_j + 2δ_ij)/(D + 2)] / P(y = j | x)

    Args:
        means: Means μ of the capsules, a float tensor `(batch, num_capsules, capsule_dim)`.
        labels: Classes, integers `(batch,)` or one-hot `(batch, num_capsules)`.
        capsule_dims: As in `class_probabilities`.

    Returns:
        Tensor of the shape of `means`: the right capsule is lengthened, the others shortened.

    Example:

    >>> expected = posterior_means([[[3.0, 4.0], [0.0, 1.0]]], [0])

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), equation (2.19).
    """
    means = at_least_float32(means)
    labels, num_classes = ops.convert_to_tensor(labels), means.shape[-2]
    # Of a single capsule, labels are its number still, not whether it is there.
    targets = (one_hot if len(labels.shape) == 1 else k_hot)(labels, num_classes)
    targets = ops.cast(targets, means.dtype)
    expected = Expectations(squared_lengths(means), _dims(means, capsule_dims))
    return means * (1.0 + expected.corrections(targets))[..., None]


class Expectations:
    """What the model expects of capsules with given lengths.

    Everything depends on the means through their squared lengths alone.

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
        """`g - 1` for classes given as one-hot targets `(..., c)`; 0 where no target is set."""
        ops = namespace(targets, self.probabilities)
        given = ops.sum(targets, axis=-1, keepdims=True)
        probability = ops.sum(targets * self.probabilities, axis=-1, keepdims=True) + (1.0 - given)
        pulled = self.pulled + self.spread * self.next_share
        others = ops.sum(targets * pulled, axis=-1, keepdims=True)
        own = targets * (self.spread * self.own_share)
        return (others + own) / probability - given


def squared_lengths(means):
    """Squared lengths of means `(..., c, d)`, which are scaled where these would overflow.

    Capsules beyond a certain length compete as they would at that length: their shares of the
    joint length are all that counts.
    """
    ops = namespace(means)
    num_capsules, capsule_dim = means.shape[-2:]
    longest = _LONGEST[keras.backend.standardize_dtype(means.dtype)]
    # of the largest component, so that the joint length cannot exceed it
    bound = longest / (num_capsules * capsule_dim) ** 0.5
    largest = ops.max(ops.abs(means), axis=(-2, -1), keepdims=True, initial=bound)  # (..., 1, 1)
    scale = ops.stop_gradient(bound / largest)
    return ops.sum(ops.square(means * scale), axis=-1)


def _dims(means, capsule_dims):
    if capsule_dims is None:
        return np.full(means.shape[-2], means.shape[-1])
    dims = np.asarray(capsule_dims)
    if dims.shape != (means.shape[-2],) or dims.min() < 1 or dims.max() > means.shape[-1]:
        raise ValueError(
            "`capsule_dims` must be one number for each of the "
            f"{means.shape[-2]} capsules, from 1 to {means.shape[-1]}. Received: {capsule_dims!r}."
        )
    return dims
