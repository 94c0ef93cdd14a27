"""Arrays as batches, in the order and form in which EM reads them fastest."""

import math
import numbers

import keras
import numpy as np

from kcaps.regression.conversion import label_rows, rows
from kcaps.validation import non_negative, positive


def in_memory(x, y, weights, batch_size):
    """Arguments of Keras' `fit` for batches in order; on TensorFlow, batches that are not copied.

    Keras' own reading of arrays takes longer than the E-step; and it makes float32 of float64.
    """
    if keras.backend.backend() != "tensorflow" and x.dtype == np.float64:
        return Slices((x, y, weights), batch_size), {"shuffle": False}
    if keras.backend.backend() != "tensorflow":
        options = {"y": y, "sample_weight": weights, "batch_size": batch_size, "shuffle": False}
        return x, options
    import tensorflow as tf

    arrays = tuple(part for part in (x, y, weights) if part is not None)
    batch_size = min(batch_size, len(x))
    whole = len(x) // batch_size * batch_size
    batches = tf.data.Dataset.from_tensor_slices(
        tuple(part[:whole].reshape(-1, batch_size, *part.shape[1:]) for part in arrays)
    )
    if whole < len(x):
        rest = tf.data.Dataset.from_tensors(tuple(part[whole:] for part in arrays))
        batches = batches.concatenate(rest)
    return batches, {"shuffle": False}


class Slices(keras.utils.PyDataset):
    """Batches of arrays in order, in the arrays' own dtype.

    Args:
        arrays: Tuple of arrays with the same number of rows; None is left out.
        batch_size: Rows of a batch.
    """

    def __init__(self, arrays, batch_size):
        super().__init__()
        self.arrays = tuple(part for part in arrays if part is not None)
        self.batch_size = batch_size

    def __len__(self):
        return math.ceil(len(self.arrays[0]) / self.batch_size)

    def __getitem__(self, index):
        start = index * self.batch_size
        return tuple(part[start : start + self.batch_size] for part in self.arrays)


def split(arrays, share, validation_data):
    """Training arrays, and the last examples as validation data if a share is asked for."""
    if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 <= share < 1:
        raise ValueError(
            "`validation_split` must be a number from 0 to below 1. Received: "
            f"validation_split={share!r}."
        )
    if not share or validation_data is not None:
        return arrays, validation_data
    size = len(arrays[0])
    cut = size - int(size * share)
    if cut in (0, size):
        raise ValueError(
            "`validation_split` must leave examples on both sides. Received: "
            f"validation_split={share!r} of {size} examples."
        )
    held_out = tuple(part[cut:] for part in arrays if part is not None)
    return tuple(None if part is None else part[:cut] for part in arrays), held_out


def of_validation(data):
    """Validation data with its arrays as such: `(x, y)` or `(x, y, sample_weight)`, or a stream."""
    if not isinstance(data, tuple | list):
        return data
    if len(data) not in (2, 3):
        raise ValueError(
            "`validation_data` must be (x, y), (x, y, sample_weight), or batches of these. "
            f"Received: {len(data)} parts."
        )
    x, y, *weights = data
    arrays = rows("validation x", x), label_rows("validation y", y)
    return (*arrays, *(rows("validation sample_weight", part) for part in weights))


def weights_of(classes, class_weight):
    """Weight of each example, by its class."""
    if not isinstance(class_weight, dict):
        raise ValueError(
            "`class_weight` must be a dict from classes to weights. Received: "
            f"class_weight={class_weight!r}."
        )
    factors = {k: non_negative("class_weight", value) for k, value in class_weight.items()}
    return np.array([factors.get(k, 1.0) for k in classes])


def class_factors(
    class_weight: dict | str | None, classes: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Returns the factor of each class that scikit-learn's `class_weight` gives it, `(m,)`.

    Args:
        class_weight: None, `"balanced"`, or a dict from labels to numbers above 0.
        classes: The labels of the classes, an array.
        labels: The class of each example, integers `(b,)`.
        weights: Weights of the examples, `(b,)`.

    Raises:
        ValueError: for another value, or keys that are no labels.
    """
    if class_weight is None:
        return np.ones(len(classes))
    if isinstance(class_weight, str) and class_weight == "balanced":
        totals = np.bincount(labels, weights)
        return totals.sum() / (len(classes) * totals)
    if not isinstance(class_weight, dict):
        raise ValueError(
            "`class_weight` must be None, 'balanced' or a dict from labels to weights. Received: "
            f"class_weight={class_weight!r}."
        )
    given = {label: positive("class_weight", value) for label, value in class_weight.items()}
    unknown = [label for label in given if label not in classes.tolist()]
    if unknown and any(label not in given for label in classes.tolist()):
        raise ValueError(
            f"`class_weight` must have keys among the labels, {classes.tolist()!r:.200}. "
            f"Received: the keys {unknown!r:.200}."
        )
    return np.array([given.get(label, 1.0) for label in classes.tolist()])


def by_class(x, y, classes, weights, batch_size, divisor=1):
    """Examples in batches of one class each, filled up with examples of weight zero.

    The size of the batches is about `batch_size`, and a multiple of `divisor`.
    """
    most = np.bincount(classes).max()
    size = int(np.ceil(most / np.ceil(most / batch_size)))
    # Rounded up, so that similar data do not compile anew.
    step = 2 ** max(size.bit_length() - 5, 0)
    step = math.lcm(step, divisor)
    size = -(-size // step) * step
    weights = np.ones(len(x)) if weights is None else weights
    order, real = [], []
    for k in np.unique(classes):
        members = np.flatnonzero(classes == k)
        padding = -len(members) % size
        order += [members, np.full(padding, members[0])]
        real += [np.ones(len(members)), np.zeros(padding)]
    order, real = np.concatenate(order), np.concatenate(real)
    return x[order], y[order], weights[order] * real, size
