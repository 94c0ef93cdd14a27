"""Checks of arguments, with one form of message for the whole library."""

import numbers


def positive_int(name, value):
    """Returns `value` as an int, or raises a `ValueError` that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)


def non_negative(name, value):
    """Returns `value` as a float, or raises a `ValueError` that names the argument."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not 0 <= value < float("inf")
    ):
        raise ValueError(f"`{name}` must be a finite number >= 0. Received: {name}={value!r}.")
    return float(value)


def one_of(name, value, choices):
    """Returns `value`, or raises a `ValueError` that names the argument and lists the choices."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {name}={value!r}.")
    return value


def fraction(name, value):
    """Returns `value` as a float in [0, 1], or raises a `ValueError` that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number from 0 to 1. Received: {name}={value!r}.")
    return float(value)
