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

# The most entries of votes that are stored, in training and at inference, by backend and device.
_MOST_STORED = {
    ("jax", "cpu"): (100e6, 2e6),
    ("jax", "gpu"): (21e6, 6e6),
    ("torch", "cpu"): (2e6, 100e6),
    ("torch", "cuda"): (24e6, 100e6),
}


def compiled(function: Callable) -> Callable:
    """Returns a pure function of tensors as one program of the backend; unchanged on torch."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Without AutoGraph, which would rewrite functions that work on every backend as they are.
        return tf.function(function, autograph=False, jit_compile=True)
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


def prefers_stored_votes(inputs, kernel, training: bool | None) -> bool:
    """Returns whether `kcaps.routing.Votes` are faster built once than in factored form.

    Times of dynamic routing with stored votes, by those with factored ones, in float32, for 8 to
    10 × 16 components and 0.2 to 94 million (M) entries of the votes:

        device                      in training                   at inference
        JAX, two CPU cores          0.21 to 0.50                  0.16 to 0.67 up to 1.5 M, then
                                                                  0.65 to 1.54
        JAX, H200                   0.68 to 0.90 up to 21 M,      0.83 to 0.98 up to 5.9 M, then
                                    then 1.00 and 1.12            1.17 to 1.98
        PyTorch, two CPU cores      0.51 to 0.82 up to 1.5 M,     0.56 to 1.00
                                    then 0.85 to 1.19
        PyTorch, H200               0.69 to 0.73 up to 24 M,      0.62 to 0.76
                                    0.97 at 94 M
        TensorFlow, two CPU cores   0.85 to 2.06, at a batch      1.18 to 1.64, at a batch of
                                    of one 0.37                   one 0.51 and 1.04

    Stored votes of 94 M entries take half of the memory of factored ones in training on JAX, and
    1.25 times as much on PyTorch. TensorFlow has factored votes always, but for the one example
    of a graph that is exported for one image (`kcaps.routing.votes_of`). So have half precision,
    in which stored votes would be rounded; votes of more than twice the components of the inputs,
    which took up to 2.1 times as long; and all that was not measured: more entries, other devices,
    and batches of a size that is not known.

    Args:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`, as a tensor.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`, as a tensor.
        training: Whether the model trains, or None where nobody says; this counts as inference.
    """
    limits = _MOST_STORED.get(_device_of(inputs))
    dtype = product_dtype(keras.backend.result_type(inputs.dtype, kernel.dtype))
    if limits is None or dtype != "float32" or not isinstance(inputs.shape[0], int):
        return False
    num_inputs, input_dim, num_outputs, output_dim = kernel.shape
    entries = inputs.shape[0] * num_inputs * num_outputs * output_dim
    return output_dim <= 2 * input_dim and entries <= limits[0 if training else 1]


def _device_of(tensor):
    """Returns the backend and the kind of device that computes with a tensor, None if any."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return backend, jax.default_backend()
    return backend, tensor.device.type if backend == "torch" else None


def product_dtype(dtype) -> str:
    """Returns the dtype in which to multiply matrices of a dtype that may be half precision.

    XLA on a CPU has no products of half precision: it converts each operand of each product to
    float32, and each result back. Where it compiles, to convert them once takes less time, and
    rounds less. Everywhere else the dtype stays.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype not in ("bfloat16", "float16") or not is_xla_on_cpu():
        return dtype
    return "float32"


def is_xla_on_cpu() -> bool:
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
    if layer not in _COMPILED:
        reference = weakref.ref(layer)  # The dictionary must not keep its key alive.
        _COMPILED[layer] = compiled(lambda config, *args: _stateless_call(reference(), *args))
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
