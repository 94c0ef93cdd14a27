"""Data in the forms in which Keras users hold them: checked, as arrays and batches of arrays."""

import contextlib
import math
import numbers
from typing import NamedTuple

import keras
import numpy as np

from kcaps.backend.arrays import batched, ensure_shape, has_unknown_sizes, needs_batches
from kcaps.validation import agree, non_negative, positive


def is_array(values) -> bool:
    """Returns whether values are the numbers themselves, and not batches of them to come."""
    return hasattr(values, "shape") or isinstance(values, list)


def as_array(name: str, values) -> np.ndarray | None:
    """Returns a list, tensor or table as a NumPy array, or a `ValueError`; None stays None."""
    if values is None:
        return None
    if hasattr(values, "detach"):  # Tensors of torch may be on a GPU and have a gradient.
        values = values.detach().cpu()
    try:
        if keras.ops.is_tensor(values):
            return keras.ops.convert_to_numpy(values)
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array. Received: {type(values).__name__}, of which none can be "
            f"made: {error}"
        ) from error


def labels_of(name: str, values) -> np.ndarray | None:
    """Returns labels as an array, or an error as of `as_array`; integers among objects count."""
    array = as_array(name, values)
    if array is not None and array.dtype.kind == "O":
        with contextlib.suppress(ValueError):  # Rows of different lengths stay objects.
            array = np.array(array.tolist())
    return array


def numbers_of(name: str, values) -> np.ndarray | None:
    """Returns values as an array, or a `ValueError` that names the argument; None stays None."""
    array = as_array(name, values)
    if array is not None and array.dtype.kind in "OSUMmc":
        raise ValueError(f"`{name}` must hold numbers. Received: an array of {array.dtype}.")
    return array


def rows(name: str, values, convert=numbers_of) -> np.ndarray | None:
    """Returns values as an array with an axis of examples, or a `ValueError`; None stays None."""
    array = convert(name, values)
    if array is not None and not array.ndim:
        raise ValueError(f"`{name}` must be an array. Received: {name}={array.item()!r}.")
    return array


def triple(x, y, sample_weight, prefix: str = "") -> tuple:
    """Returns examples, labels and weights as arrays with an axis of examples; None stays None."""
    labels = rows(f"{prefix}y", y, labels_of)
    return rows(f"{prefix}x", x), labels, rows(f"{prefix}sample_weight", sample_weight)


def are_weights(values):
    """Returns whether all values are finite and not negative."""
    return np.isfinite(values).all() and np.min(values) >= 0


class Form(NamedTuple):
    """The form of the data that a model takes, with the checks of its arguments.

    Attributes:
        num_classes: Number of classes.
        input_shape: Shape of inputs, with the axis of examples; None before the model is built.
        is_flat: Whether inputs are flattened, so that only the number of their values counts;
            otherwise axes of one element may be missing or added.
    """

    num_classes: int
    input_shape: tuple | None
    is_flat: bool

    def check_shape(self, shape: tuple, name: str = "inputs") -> None:
        """Raises a `ValueError` for a shape of inputs that is not the model's."""
        shape, expected = tuple(shape), tuple(self.input_shape[1:])
        given = shape[1:]
        if shape and agree(given, expected):
            return
        if shape and None not in (*given, *expected):
            reduced = math.prod if self.is_flat else _without_ones
            if reduced(given) == reduced(expected):
                return
        count = "" if None in expected else f", {math.prod(expected)} numbers an example"
        sizes = ", ".join(map(str, ("n", *expected)))
        raise ValueError(
            f"`{name}` must have the shape ({sizes}) of the model's inputs{count}. "
            f"Received: {name} of shape {shape}."
        )

    def tensor(self, inputs):
        """Returns a tensor whose shape is known to be the model's, or raises a `ValueError`.

        With the sizes unknown, as TensorFlow traces a second shape, a reshape would make a batch of
        another size of inputs that do not fit.
        """
        if has_unknown_sizes(inputs, self.input_shape):
            return ensure_shape(inputs, (None, *self.input_shape[1:]))
        self.check_shape(inputs.shape)
        return inputs

    def inputs(self, x, name: str = "x") -> np.ndarray:
        """Returns an array of inputs in the model's shape, or an error that names the argument."""
        x = rows(name, x)
        if self.input_shape is None:
            return x
        self.check_shape(x.shape, name)
        sizes = self.input_shape[1:]
        return x if None in sizes else x.reshape(len(x), *sizes)

    def classes(self, labels: np.ndarray | None, name: str = "y") -> np.ndarray:
        """Returns labels as integers `(b,)`, or raises a `ValueError` for those of no class."""
        if labels is None:
            raise ValueError(f"`{name}` must be the labels of the examples. Received: {name}=None.")
        if labels.ndim == 2 and labels.shape[1] == self.num_classes:
            if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
                raise ValueError(f"`{name}` must be integers, or one-hot. Received: other rows.")
            return labels.argmax(1)
        classes = labels.reshape(-1)
        wrong = ~np.isin(classes, np.arange(self.num_classes))
        if len(classes) != len(labels) or wrong.any():
            raise ValueError(
                f"`{name}` must be integers from 0 to {self.num_classes - 1}, or one-hot rows of "
                f"{self.num_classes}. Received: shape {labels.shape}, values such as "
                f"{list(classes[wrong][:3])}."
            )
        return classes.astype("int64")

    def arrays(self, x, y, weights=None, class_weight=None, prefix: str = "") -> tuple:
        """Returns examples, labels and weights, or raises a `ValueError` if they do not fit."""
        x, y, weights = triple(x, y, weights, prefix)
        if y is None:
            raise ValueError(f"`{prefix}y` must be the labels of the examples. Received: None.")
        x = self.inputs(x, f"{prefix}x")
        sizes = [len(part) for part in (x, y, weights) if part is not None]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"`{prefix}x`, `y` and `sample_weight` differ in length. Received: {sizes}."
            )
        classes = self.classes(y, f"{prefix}y")
        if weights is not None and not are_weights(weights):
            raise ValueError(
                f"`{prefix}sample_weight` must be finite and >= 0. Received: other values."
            )
        if class_weight is not None:
            factors = _weights_of(classes, class_weight)
            weights = factors if weights is None else weights * factors
        return x, y, weights


def _without_ones(sizes):
    return [size for size in sizes if size != 1]


def _weights_of(classes, class_weight):
    """Returns the weight of each example, by its class."""
    if not isinstance(class_weight, dict):
        raise ValueError(
            "`class_weight` must be a dict from classes to weights. Received: "
            f"class_weight={class_weight!r}."
        )
    factors = {k: non_negative("class_weight", value) for k, value in class_weight.items()}
    return np.array([factors.get(k, 1.0) for k in classes])


def class_factors(class_weight, classes, labels, weights) -> np.ndarray:
    """Returns the factor of each class that scikit-learn's `class_weight` gives it, `(m,)`."""
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
    names = classes.tolist()
    unknown = [label for label in given if label not in names]
    if unknown and any(label not in given for label in names):
        raise ValueError(
            f"`class_weight` must have keys among the labels, {names!r:.200}. "
            f"Received: the keys {unknown!r:.200}."
        )
    return np.array([given.get(label, 1.0) for label in names])


def refuse_beside_batches(arguments: dict) -> None:
    """Raises a `ValueError` if one of these arguments of `fit` is given besides batches."""
    arguments = arguments | {"validation_split": arguments["validation_split"] or None}
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(
            "Data that come in batches have their labels and weights in them, as "
            f"(x, y, sample_weight). Received besides: {', '.join(given)}."
        )


def validation_arrays(data):
    """Returns validation data with its arrays as such, a triple of them; a stream as it is."""
    if not isinstance(data, tuple | list):
        return data
    if len(data) not in (2, 3):
        raise ValueError(
            "`validation_data` must be (x, y), (x, y, sample_weight), or batches of these. "
            f"Received: {len(data)} parts."
        )
    return triple(*(*data, None)[:3], prefix="validation ")


def split(x, given: dict, validation) -> tuple:
    """Returns training and validation data as arrays: as given, or a share of the last examples."""
    if given["y"] is None:
        raise ValueError("`y` must be the labels of the examples. Received: y=None.")
    arrays, share = triple(x, given["y"], given["sample_weight"]), given["validation_split"]
    if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 <= share < 1:
        raise ValueError(
            "`validation_split` must be a number from 0 to below 1. Received: "
            f"validation_split={share!r}."
        )
    if not share or validation is not None:
        return arrays, validation
    size = len(arrays[0])
    cut = size - int(size * share)
    if cut in (0, size):
        raise ValueError(
            "`validation_split` must leave examples on both sides. Received: "
            f"validation_split={share!r} of {size} examples."
        )
    parts = (slice(cut), slice(cut, None))
    return tuple(tuple(None if a is None else a[part] for a in arrays) for part in parts)


def in_order(x, y, weights, batch_size: int):
    """Returns batches of arrays in order, or the arrays where Keras reads them as they are.

    Keras' own reading of arrays takes longer than the E-step; and it makes float32 of float64.
    """
    arrays = x, y, weights
    is_copied = needs_batches(keras.tree.flatten(x)[0])
    return batched(arrays, batch_size) if is_copied else arrays


def by_class(x, y, classes, weights, batch_size: int, divisor: int = 1) -> tuple:
    """Returns examples in batches of one class each, filled up with examples of weight zero.

    The size of the batches, which is the last result, is about `batch_size`, and a multiple of
    `divisor`.
    """
    most = np.bincount(classes).max()
    size = int(np.ceil(most / np.ceil(most / batch_size)))
    # The size is rounded up, so that similar data do not compile anew.
    step = math.lcm(2 ** max(size.bit_length() - 5, 0), divisor)
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


def with_ones(features: np.ndarray) -> np.ndarray:
    """Returns features `(n, p)` with a column of ones after them, `(n, p + 1)`."""
    return np.hstack([features, np.ones((len(features), 1), features.dtype)])
