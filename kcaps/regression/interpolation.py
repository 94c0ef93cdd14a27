"""The functions that interpolate between certain and uncertain capsules: pure, stable, exact."""

import keras
import numpy as np
from keras import ops

from kcaps.regression.arrays import namespace
from kcaps.validation import one_of

# Levels of the continued fraction: its relative error is then below that of the rounding, for all
# dimensions from 2 and all β.
_LEVELS = {"float32": 12, "float64": 34}


def lambda_0(beta, total_dim):
    """Weight of the means in the prediction of capsule regression.

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

    >>> weights = lambda_0([0.0, 1.0, 1e6], total_dim=20)  # 0, 0.0845, 0.99999

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), equation (2.13).
    """
    beta = at_least_float32(beta)
    outer, _ = continued_fraction(beta, _checked(total_dim))
    return beta / outer


def lambda_1(beta, total_dim):
    """Weight of the means in the posterior means of capsule regression.

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

    >>> weights = lambda_1([0.0, 1.0, 1e6], total_dim=20)  # 0, 0.0777, 0.99999

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), equation (2.14).
    """
    beta = at_least_float32(beta)
    outer, inner = continued_fraction(beta, _checked(total_dim))
    return beta / outer * (1.0 - 1.0 / inner)


def continued_fraction(beta, total_dim):
    """The two outermost denominators of a continued fraction for the integral.

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
    try:
        dims = np.asarray(total_dim, "float64")
    except (TypeError, ValueError, OverflowError):
        dims = np.nan
    if not np.all((dims >= 2) & (dims < np.inf)):
        raise ValueError(f"`total_dim` must be at least 2. Received: total_dim={total_dim!r}.")
    return total_dim


def at_least_float32(x):
    """`x` as a tensor: float64 where it is, and float32 otherwise."""
    x = ops.convert_to_tensor(x)
    double = keras.backend.standardize_dtype(x.dtype) == "float64"
    return x if double else ops.cast(x, "float32")
