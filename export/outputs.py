"""The output of a model by which an image gets its class."""

import numpy as np

_SLACK = 1e-3  # of a sigmoid in half precision


def class_output(outputs: dict) -> str | None:
    """Returns the name of the output of classes, or None where there is none.

    It is `class_lengths`, or else the output that comes first, and a matrix.

    Args:
        outputs: Dict from names to arrays or Keras tensors.
    """
    name = "class_lengths" if "class_lengths" in outputs else next(iter(outputs))
    return name if len(outputs[name].shape) == 2 else None


def class_columns(values: np.ndarray) -> np.ndarray:
    """Returns the values of an output of classes with one column for each class.

    A single column of values from 0 to 1 tells how sure a model is of the second of two classes;
    the first gets what is left. Other values are returned as they are: a single column then gives
    every image the same class.

    Example:

    >>> class_columns(np.array([[0.25], [1.0]])).tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    """
    if values.shape[1] != 1 or not np.all(np.abs(values - 0.5) <= 0.5 + _SLACK):
        return values
    return np.concatenate([1 - values, values], axis=1)
