"""Errors in the loops of Keras' trainer: `fit`, `evaluate` and `predict`."""

import contextlib

import keras

# How TensorFlow says that a batch has another shape: of a tensor, and of a generator's values.
_TEXTS = "is not compatible with expected shape", "was expected"


@contextlib.contextmanager
def failing_well(model: keras.Model):
    """Keeps a model's weights, and says sizes, where a loop of Keras ends in an error.

    On JAX, Keras takes the values of the variables out of the model while it loops, and does not
    put them back after an error. On TensorFlow, the error that `arrays.ensure_shape` has a running
    program raise becomes a `ValueError`.

    Args:
        model: The model whose `fit`, `evaluate` or `predict` runs in this context.

    Raises:
        ValueError: on TensorFlow, for a batch of another shape.
    """
    contexts = {"jax": _keeping_values, "tensorflow": _saying_sizes}
    with contexts.get(keras.backend.backend(), contextlib.nullcontext)(model):
        yield


@contextlib.contextmanager
def _keeping_values(model):
    """Gives the variables the values of the last step, or those from the start, after an error."""
    values = [(variable, variable.value) for variable in _variables(model)]
    try:
        yield
    except BaseException:
        model.jax_state_sync()  # This gives the values of the last step, if there was one.
        for variable, value in values:
            try:
                _ = variable.value
            except TypeError:  # Keras has taken the value out.
                variable.assign(value)
        raise


def _variables(model):
    """Returns the variables that Keras takes the values of while it loops."""
    if not model.built:
        return []
    variables = model.trainable_variables + model.non_trainable_variables
    return variables + (model.metrics_variables if model.compiled else [])


@contextlib.contextmanager
def _saying_sizes(model):
    """Turns TensorFlow's error for a batch of another shape into a `ValueError`."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        lines = [line for line in str(error).splitlines() if any(part in line for part in _TEXTS)]
        if not lines:
            raise
        raise ValueError(
            f"`x` must have the shape of the model's inputs in each batch. Received: {lines[0]}"
        ) from error
