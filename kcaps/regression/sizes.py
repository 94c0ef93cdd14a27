"""Shapes of inputs: a model takes those that it was built for, on the first call and on later ones.

TensorFlow traces a function for one shape and, when another one comes, for any. With the sizes
unknown, a reshape would make a batch of another size of inputs that do not fit, without an error.
"""

import contextlib
import math

import keras

from kcaps.validation import agree

# How TensorFlow says that a batch has another shape: of a tensor, and of a generator's values.
_TEXTS = "is not compatible with expected shape", "was expected"


def check_shape(shape: tuple, expected: tuple, is_flat: bool, name: str = "inputs") -> None:
    """Raises an error for a shape of inputs that is not a model's.

    Args:
        shape: The shape, with the axis of examples.
        expected: The model's, likewise.
        is_flat: Whether inputs are flattened, so that only the number of their values counts;
            otherwise axes of one element may be missing or added.
        name: What the argument is called.

    Raises:
        ValueError: if the shapes do not agree.
    """
    shape, own = tuple(shape), tuple(expected[1:])
    given = shape[1:]
    if shape and agree(given, own):
        return
    if shape and None not in (*given, *own):
        if is_flat and math.prod(given) == math.prod(own):
            return
        if not is_flat and _without_ones(given) == _without_ones(own):
            return
    count = "" if None in own else f", {math.prod(own)} numbers an example"
    sizes = ", ".join(map(str, ("n", *own)))
    raise ValueError(
        f"`{name}` must have the shape ({sizes}) of the model's inputs{count}. "
        f"Received: {name} of shape {shape}."
    )


def with_shape(inputs, expected: tuple, is_flat: bool):
    """Returns a tensor whose shape is known to be a model's, or raises as `check_shape` does.

    Args:
        inputs: Tensor, whose sizes are perhaps not known while TensorFlow traces.
        expected: Shape of the model's inputs, with the axis of examples.
        is_flat: As for `check_shape`.
    """
    unknown = keras.backend.backend() == "tensorflow" and not _is_known(inputs.shape, expected)
    if unknown:
        import tensorflow as tf

        return tf.ensure_shape(inputs, (None, *expected[1:]))
    check_shape(inputs.shape, expected, is_flat)
    return inputs


@contextlib.contextmanager
def failing_well(model):
    """Keeps a model's weights, and says sizes, where a loop of Keras ends in an error.

    On JAX, Keras takes the values of the variables out of the model while it loops, and does not
    put them back after an error. On TensorFlow, the error that `with_shape` has a running program
    raise becomes a `ValueError`.

    Args:
        model: The model whose `fit`, `evaluate` or `predict` runs in this context.
    """
    if keras.backend.backend() == "jax":
        before = [(variable, variable.value) for variable in _variables(model)]
        try:
            yield
        except BaseException:
            model.jax_state_sync()  # to the values of the last step, if there was one
            for variable, value in before:
                try:
                    _ = variable.value
                except TypeError:  # the value is not there
                    variable.assign(value)
            raise
        return
    if keras.backend.backend() != "tensorflow":
        yield
        return
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


def _variables(model):
    if not model.built:
        return []
    variables = model.trainable_variables + model.non_trainable_variables
    return variables + (model.metrics_variables if model.compiled else [])


def _is_known(shape, expected):
    """Whether a static shape tells as much as is expected of it."""
    if getattr(shape, "rank", 0) is None:
        return False
    pairs = zip(tuple(shape)[1:], expected[1:], strict=False)
    return all(size is not None or own is None for size, own in pairs)


def _without_ones(sizes):
    return [size for size in sizes if size != 1]
