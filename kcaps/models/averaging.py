"""Averages of weights, at the end of Keras' `fit`, where two optimizers share a model."""

import contextlib
from collections.abc import Iterator

import keras

from kcaps.models.training import other_variables


@contextlib.contextmanager
def own_averages(model: keras.Model) -> Iterator[None]:
    """Context of Keras' `fit`, after which weights have the averages of their own optimizer.

    At the end of `fit`, Keras tells the model's optimizer to set all trainable variables to their
    averages (`use_ema=True`). In a model with routing variables it has none of these, whose own
    optimizer may average them.

    Args:
        model: A compiled `CapsNet`.
    """
    optimizer = model.optimizer
    if optimizer is None:
        yield
        return

    def finalize(variables):
        own = [(optimizer, other_variables(model))]
        if model.routing_variables:
            own.append((model.routing_optimizer, model.routing_variables))
        for each, changed in own:
            type(each).finalize_variable_values(each, changed)
            _part_from_averages(each, changed)

    optimizer.finalize_variable_values = finalize
    try:
        yield
    finally:
        del optimizer.finalize_variable_values


def _part_from_averages(optimizer, variables):
    """Gives variables arrays of their own on JAX.

    They share those of the averages there, and a step of the next `fit` may not have one array
    twice: Keras' own models fail in it.
    """
    averages = getattr(optimizer, "inner_optimizer", optimizer).use_ema
    if averages and keras.backend.backend() == "jax":
        for variable in variables:
            variable.assign(keras.ops.convert_to_numpy(variable))
