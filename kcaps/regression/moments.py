"""Second moments of data that is streamed, in float64, and what follows from them."""

import warnings

import numpy as np

from kcaps.regression.conversion import is_array, label_rows, labels_of, numbers, rows

BATCH_SIZE = 4096
# Second moments below this share of the largest are taken for rounding.
_SMALLEST = {"float32": 1e-10, "float64": 1e-13}
_FALLBACK_RIDGE = 1e-6
# Mean squared lengths whose reciprocals and products with weights of the inverse size are normal
# numbers.
_LARGEST = {"float32": 1e60, "float64": 1e200}


def stream(x, y=None, sample_weight=None, batch_size=None, steps=None):
    """Batches of data in any form that Keras users hold it, as NumPy arrays.

    Args:
        x: Array, or an iterable of batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            torch `DataLoader`, a generator. A batch is `x`, `(x, y)` or `(x, y, sample_weight)`.
        y: Labels of an array.
        sample_weight: Weights of an array.
        batch_size: Examples in a batch of an array. Defaults to 4,096.
        steps: At most so many batches: an endless stream needs it.

    Yields:
        `(x, y, sample_weight)`, where `y` and `sample_weight` may be None.

    Raises:
        ValueError: for examples of different numbers, values that are no numbers or not finite,
            negative weights, examples that are not in batches, or no data.
    """
    if is_array(x):
        arrays = rows("x", x), label_rows("y", y), rows("sample_weight", sample_weight)
        sizes = [len(part) for part in arrays if part is not None]
        if len(set(sizes)) > 1:
            raise ValueError(f"`x`, `y` and `sample_weight` differ in length. Received: {sizes}.")
        size = batch_size or BATCH_SIZE
        batches = (
            tuple(None if part is None else part[start : start + size] for part in arrays)
            for start in range(0, sizes[0], size)
        )
    elif hasattr(x, "__getitem__") and hasattr(x, "__len__") and not isinstance(x, str | dict):
        # PyDataset
        batches = (x[index] for index in range(len(x)))
    elif not hasattr(x, "__iter__") or isinstance(x, str | dict):
        raise ValueError(
            "`x` must be an array, or batches (a dataset or generator of `(x, y)`). Received: "
            f"{type(x).__name__}."
        )
    else:
        batches = iter(x)
    count = 0
    for index, batch in enumerate(batches):
        if steps is not None and index == steps:
            break
        parts = batch if isinstance(batch, tuple | list) else (batch,)
        parts = (*parts, None, None)[:3]
        features, weights = numbers("x", parts[0]), numbers("sample_weight", parts[2])
        labels = labels_of("y", parts[1])
        if features.ndim < 2 or (labels is not None and labels.shape[:1] != features.shape[:1]):
            raise ValueError(
                "`x` must be batches of examples, with as many labels. Received: x of shape "
                f"{features.shape}, y of shape {None if labels is None else labels.shape}. Call "
                "`batch` on a dataset of single examples, `reshape` on an array."
            )
        if not np.isfinite(features).all():
            raise ValueError("`x` must be finite. Received: a batch with NaN or infinity.")
        if weights is not None and not (np.isfinite(weights).all() and np.min(weights) >= 0):
            raise ValueError(
                "`sample_weight` must be finite and >= 0. Received: a batch with other values."
            )
        weights = None if weights is None else weights.reshape(-1)
        count += len(features)
        yield features, labels, weights
    if not count:
        raise ValueError("`x` must hold at least one example. Received: none.")


class SecondMoments:
    """Sums of `w x xᵀ` over the examples of each class.

    Args:
        num_classes: Number of classes; 1 where they do not matter.
    """

    def __init__(self, num_classes=1):
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
            with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the sums
                self.sums[k] += scaled[rows].T @ scaled[rows]
            self.weights[k] += weights[rows].sum()

    @property
    def mean_squared_length(self):
        """Mean of `‖x‖²` over all examples."""
        return np.trace(self.sums.sum(0)) / self.weights.sum()

    def check(self, dtype):
        """Raises an error for data that EM cannot be run on in a dtype.

        Raises:
            ValueError: for a class without examples, features that are all zero, or values that
                are too large or too small.
        """
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


def principal_directions(moment, count, background=None):
    """The `count` leading singular vectors of data with this second moment, as columns.

    The largest component of each is positive, which makes them the same everywhere. Where the
    data have fewer directions, the leading ones of `background`, a larger moment, follow them.
    """
    values, vectors = np.linalg.eigh(moment)
    if background is not None and values[-count:].min() <= _SMALLEST["float64"] * values[-1]:
        _, vectors = np.linalg.eigh(moment + 1e-6 * background)
    vectors = vectors[:, ::-1][:, :count]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    return vectors * signs


def inverse_factor(moment, ridge, dtype="float32"):
    """A matrix `R` with `R Rᵀ = (moment + ridge I)⁻¹`.

    Applied in two steps, `R (Rᵀ A)`, it loses half the digits that the inverse would. Where the
    moment is singular to the precision of `dtype`, a small ridge is used, with a warning.

    Args:
        moment: Second moment `(p, p)`.
        ridge: Number >= 0.
        dtype: What the products will be computed in.

    Returns:
        The matrix `(p, p)`, and the ridge that was used.

    Raises:
        ValueError: if the moment is zero.
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
