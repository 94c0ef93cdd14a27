"""Arrays, lists, tensors and tables as NumPy arrays, with errors that name the argument."""

import keras
import numpy as np


def is_array(values) -> bool:
    """Whether values are the numbers themselves, and not batches of them to come."""
    return hasattr(values, "shape") or isinstance(values, list)


def as_array(name: str, values) -> np.ndarray | None:
    """Returns values in any form that Keras users hold them as a NumPy array; None stays None.

    Args:
        name: What the argument is called, for the error.
        values: Array, list, tensor of any framework, or a pandas Series or DataFrame.

    Raises:
        ValueError: if they are no array, such as rows of different lengths.
    """
    if values is None:
        return None
    if hasattr(values, "detach"):  # of torch, perhaps on a GPU and with a gradient
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
        try:
            array = np.array(array.tolist())
        except ValueError:  # rows of different lengths, which `_classes` describes
            pass
    return array


def numbers(name, values):
    """`values` as an array, or a `ValueError` that names the argument; None stays None."""
    array = as_array(name, values)
    if array is None:
        return None
    if array.dtype.kind in "OSUMmc":
        raise ValueError(f"`{name}` must hold numbers. Received: an array of {array.dtype}.")
    return array


def rows(name, values):
    """`values` as an array with an axis of examples, or an error as of `numbers`."""
    return _with_rows(name, numbers(name, values))


def label_rows(name: str, values) -> np.ndarray | None:
    """Labels as an array with an axis of examples, or an error as of `labels_of`."""
    return _with_rows(name, labels_of(name, values))


def _with_rows(name, array):
    if array is not None and not array.ndim:
        raise ValueError(f"`{name}` must be an array. Received: {name}={array.item()!r}.")
    return array
