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
    if optimizer is None or not model.routing_variables:
        yield
        return

    def finalize(variables):
        own = (
            (optimizer, other_variables(model)),
            (model.routing_optimizer, model.routing_variables),
        )
        for each, changed in own:
            type(each).finalize_variable_values(each, changed)

    optimizer.finalize_variable_values = finalize
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
