"""Second moments of features, in float64, and what EM takes from them before its first step."""

import warnings

import numpy as np

# Second moments below this share of the largest one count as rounding.
_SMALLEST = {"float32": 1e-10, "float64": 1e-13}
_FALLBACK_RIDGE = 1e-6
# Up to these mean squared lengths, their reciprocals and products with weights of the inverse size
# are normal numbers.
_LARGEST = {"float32": 1e60, "float64": 1e200}
# Between these mean squared lengths of features, first weights of unit length are neither without
# effect nor certain of everything.
_LENGTHS = 1e-2, 1e3


class SecondMoments:
    """Sums of `w x xᵀ` over the examples of each class.

    Args:
        num_classes: Number of classes; 1 where they do not matter.
    """

    def __init__(self, num_classes: int = 1):
        self.num_classes = num_classes
        self.weights = np.zeros(num_classes)
        self.sums = None  # (num_classes, p, p)

    def add(self, features, classes=None, weights=None):
        """Adds a batch: features `(b, p)`, classes `(b,)` and weights `(b,)`."""
        features = np.asarray(features, "float64")
        if self.sums is None:
            self.sums = np.zeros((self.num_classes, *features.shape[1:] * 2))
        weights = np.ones(len(features)) if weights is None else np.asarray(weights, "float64")
        scaled = features * np.sqrt(weights)[:, None]
        for k in range(self.num_classes) if classes is None else np.unique(classes):
            rows = slice(None) if classes is None else classes == k
            with np.errstate(over="ignore", invalid="ignore"):  # The caller looks at the sums.
                self.sums[k] += scaled[rows].T @ scaled[rows]
            self.weights[k] += weights[rows].sum()

    @property
    def mean_squared_length(self):
        """Mean of `‖x‖²` over all examples."""
        return np.trace(self.sums.sum(0)) / self.weights.sum()

    def check(self, dtype: str) -> None:
        """Raises a `ValueError` for data that EM cannot be run on in a dtype."""
        missing = np.flatnonzero(self.weights == 0)
        if len(missing):
            raise ValueError(
                "Every class needs an example of a weight above 0. Received: none of class "
                f"{', '.join(map(str, missing[:10]))}. Lower `num_classes`, or add examples."
            )
        if not np.any(self.sums):
            raise ValueError("`x` must not be zero in all examples. Received: features that are.")
        if not np.isfinite(self.sums).all():
            raise ValueError("`x` is too large for its squares. Scale it, e.g. to unit variance.")
        largest, length = _LARGEST[dtype], self.mean_squared_length
        if not 1 / largest <= length <= largest:
            raise ValueError(
                f"The size of features must be from {largest**-0.5:g} to {largest**0.5:g}. "
                f"Received: about {length**0.5:.1g}. Scale `x`, e.g. to unit variance."
            )


def principal_directions(
    moment: np.ndarray, count: int, background: np.ndarray | None = None
) -> np.ndarray:
    """Returns the `count` leading singular vectors of data with a second moment, as columns.

    The largest component of each is positive, which makes them the same everywhere. Where the
    data have fewer directions, the leading ones of `background`, a larger moment, follow them.
    """
    values, vectors = np.linalg.eigh(moment)
    if background is not None and values[-count:].min() <= _SMALLEST["float64"] * values[-1]:
        _, vectors = np.linalg.eigh(moment + 1e-6 * background)
    vectors = vectors[:, ::-1][:, :count]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    return vectors * signs


def first_kernel(moments: SecondMoments, targets: np.ndarray, dims: np.ndarray) -> np.ndarray:
    """Returns the first weights of capsules: the directions in which their classes' data lie.

    Args:
        moments: The `SecondMoments` of the features.
        targets: Which classes each capsule stands for, `(m, n, c)` of zeros and ones.
        dims: Number of components of each capsule, `(n, c)`.

    Returns:
        Array `(n, p, c, d)`.
    """
    total = moments.sums.sum(0)
    kernel = np.zeros((dims.shape[0], len(total), dims.shape[1], dims.max()))
    found = {}  # Capsules that stand for the same classes have the same directions.
    for n, c in np.ndindex(dims.shape):
        classes, count = np.flatnonzero(targets[:, n, c]), dims[n, c]
        key = classes.tobytes(), count
        if key not in found:
            moment = moments.sums[classes].sum(0)
            found[key] = principal_directions(moment, count, total)
        kernel[n, :, c, : found[key].shape[1]] = found[key]
    length = moments.mean_squared_length
    return kernel * np.sqrt(np.clip(length, *_LENGTHS) / length)


def inverse_factor(
    moment: np.ndarray, ridge: float, dtype: str = "float32"
) -> tuple[np.ndarray, float]:
    """Returns a matrix `R` with `R Rᵀ = (moment + ridge I)⁻¹`, and the ridge that was used.

    Applied in two steps, `R (Rᵀ A)`, it loses half the digits that the inverse would. Where the
    moment is singular to the precision of `dtype`, a small ridge is used, with a warning; for a
    moment of zero a `ValueError` is raised.
    """
    values, vectors = np.linalg.eigh(moment)
    top = values[-1]
    if not top > 0:
        raise ValueError("`x` must not be zero in all examples. Received: features that are.")
    if values[0] + ridge <= _SMALLEST[dtype] * top:
        ridge = _FALLBACK_RIDGE * top
        rank = int(np.sum(values > _SMALLEST[dtype] * top))
        warnings.warn(
            f"the inputs are linearly dependent (rank {rank} of {len(values)}): a ridge of "
            f"{_FALLBACK_RIDGE:g} of their largest second moment is used. Give a `ridge`, or fewer "
            "features, e.g. by SubspaceProjection.",
            stacklevel=2,
        )
    return vectors / np.sqrt(np.maximum(values, 0) + ridge), ridge


def inverse_factors(
    moments: SecondMoments, targets: np.ndarray, ridge: float, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the matrices and numbers that the M-step multiplies by, for each problem.

    Args:
        moments: The `SecondMoments` of the features.
        targets: Which classes each capsule stands for, `(m, n, c)` of zeros and ones.
        ridge: Precision of the prior of the weights.
        dtype: Name of the dtype that the products will be computed in.

    Returns:
        Factors as of `inverse_factor`, `(n, p, p)`, and ridges by example, `(n,)`; of a length of
        1 where all problems see the same examples.
    """
    concerned = targets.max(-1).T  # (n, m)
    if concerned.all():
        concerned = concerned[:1]
    factors, ridges = [], []
    for classes in concerned:
        weight = classes @ moments.weights
        moment = moments.sums[classes > 0].sum(0) / weight
        factor, used = inverse_factor(moment, ridge / weight, dtype)
        factors.append(factor)
        ridges.append(used)
    return np.stack(factors), np.array(ridges)
