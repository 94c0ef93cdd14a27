"""Checks of arguments, with one form of message for the whole library."""

import math
import numbers
from collections.abc import Collection

import keras
import numpy as np

_LARGEST_SIZE = 2**31  # Keras' backends count with 32 bits


def positive_int(name: str, value) -> int:
    """Returns `value` as an int, or raises a `ValueError` that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    if value >= _LARGEST_SIZE:
        raise ValueError(f"`{name}` must be below 2³¹. Received: {name}={value!r}.")
    return int(value)


def positive_pair(name: str, value) -> tuple[int, int]:
    """Returns `value`, an integer or two, as a pair, or raises a `ValueError` as above."""
    if not is_sequence(value):
        return (positive_int(name, value),) * 2
    if len(value) != 2:
        raise ValueError(
            f"`{name}` must be a positive integer, or two of them. Received: {name}={value!r}."
        )
    return tuple(positive_int(name, size) for size in value)


def non_negative(name: str, value) -> float:
    """Returns `value` as a float, or raises a `ValueError` that names the argument."""
    if not 0 <= _as_float(value) < math.inf:
        raise ValueError(f"`{name}` must be a finite number >= 0. Received: {name}={value!r}.")
    return float(value)


def positive(name: str, value) -> float:
    """Returns `value` as a float, or raises a `ValueError` that names the argument."""
    if not 0 < _as_float(value) < math.inf:
        raise ValueError(f"`{name}` must be positive and finite. Received: {name}={value!r}.")
    return float(value)


def fraction(name: str, value) -> float:
    """Returns `value` as a float in [0, 1], or raises a `ValueError` that names the argument."""
    if not 0 <= _as_float(value) <= 1:
        raise ValueError(f"`{name}` must be a number from 0 to 1. Received: {name}={value!r}.")
    return float(value)


def boolean(name: str, value) -> bool:
    """Returns `value` as a bool, or raises a `ValueError` that names the argument."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}.")
    return bool(value)


def one_of(name: str, value, choices: Collection[str]) -> str:
    """Returns `value`, or raises a `ValueError` that names the argument and lists the choices."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {name}={value!r}.")
    return value


def is_sequence(value) -> bool:
    """Returns whether a value holds others in order; an array of no axis does not."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def from_config(name: str, value):
    """Returns the object that a config describes, and any other value as it is."""
    if not isinstance(value, dict):
        return value
    try:
        return keras.saving.deserialize_keras_object(value)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"`{name}` cannot be made from its config: {error}") from error


def agree(shape, other) -> bool:
    """Returns whether two shapes are the same as far as they are known."""
    return len(shape) == len(other) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shape, other, strict=True)
    )


def _as_float(value):
    """Returns a real number as a float, infinite if it is too large; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
