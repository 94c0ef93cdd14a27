"""Functions and layers as one compiled program of the backend."""

import contextvars
import json
import weakref
from collections.abc import Callable

import keras

# Compiled forms live beside the layers, not on them: a `tf.function` held as an attribute would
# be traced into every SavedModel of the layer and would forbid copying it.
_COMPILED = weakref.WeakKeyDictionary()

# Whether a layer is being traced for `call_compiled`.
_IS_TRACED = contextvars.ContextVar("is_traced", default=False)


def compiled(function: Callable) -> Callable:
    """Returns a pure function of tensors as one program of the backend; unchanged on torch."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def is_compiled(training: bool | None) -> bool:
    """Returns whether a layer's call is to be compiled by XLA: on TensorFlow, in training.

    Where nobody says whether the model trains, direct eager calls are compiled.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.executing_eagerly() if training is None else training


def prefers_components_first() -> bool:
    """Returns whether `kcaps.routing.Votes` are faster with components first outside of XLA."""
    return keras.backend.backend() == "tensorflow"


def product_dtype(dtype) -> str:
    """Returns the dtype in which to multiply matrices of a dtype that may be half precision.

    XLA on a CPU has no products of half precision: it converts each operand of each product to
    float32, and each result back. Where it compiles, to convert them once takes less time, and
    rounds less. Everywhere else the dtype stays.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype not in ("bfloat16", "float16") or not _is_xla_on_cpu():
        return dtype
    return "float32"


def _is_xla_on_cpu():
    """Returns whether XLA compiles, for a CPU, the operations that are called now."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    if not _IS_TRACED.get():
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


def call_compiled(layer: keras.layers.Layer, *inputs, training: bool | None = None):
    """Returns what a layer gives for tensors, computed by XLA; for TensorFlow alone.

    Args:
        layer: Built layer with a config. Variables that its call assigns are assigned after it.
        *inputs: Tensors that the layer takes.
        training: Whether the model trains.
    """
    import tensorflow as tf

    if layer not in _COMPILED:
        reference = weakref.ref(layer)  # The dictionary must not keep its key alive.
        _COMPILED[layer] = tf.function(
            lambda config, *args: _stateless_call(reference(), *args), jit_compile=True
        )
    variables = layer.variables
    outputs, updates = _COMPILED[layer](
        # Python values, each of which has a trace of its own: settings may change.
        json.dumps(layer.get_config(), default=str),
        training,
        [variable.value for variable in variables],
        *inputs,
    )
    for index, value in updates.items():
        variables[index].assign(value)
    return outputs


def _stateless_call(layer, training, values, *inputs):
    """Returns outputs, and the new values of variables that the call assigned, by their index."""
    variables = layer.variables
    token = _IS_TRACED.set(True)
    try:
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
            before = [scope.get_current_value(variable) for variable in variables]
            outputs = keras.layers.Layer.__call__(layer, *inputs, training=training)
        after = [scope.get_current_value(variable) for variable in variables]
    finally:
        _IS_TRACED.reset(token)
    pairs = enumerate(zip(before, after, strict=True))
    return outputs, {index: new for index, (old, new) in pairs if new is not old}
