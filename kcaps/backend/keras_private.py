"""Names that are private to Keras and that kcaps cannot do without, each with a test.

`kcaps.backend.replicas` overrides further ones, and tests/test_backend.py tests them all.
"""

import keras
from keras.src.backend.common import global_state


def is_writing_legacy_format() -> bool:
    """Returns whether Keras writes or reads its old HDF5 format, for which it opens a scope."""
    return bool(global_state.get_global_attribute("use_legacy_config", False))


def origin(tensor: keras.KerasTensor) -> tuple:
    """Returns the layer or operation that a tensor came of, and its call.

    Args:
        tensor: Tensor of a functional model's graph.

    Returns:
        The operation, and the node that has the `input_tensors` and `outputs` of its call; None
        and None for a tensor that came of no operation.
    """
    operation, index, _ = tensor._keras_history
    return (None, None) if operation is None else (operation, operation._inbound_nodes[index])


def mark_as_called(model: keras.Model) -> None:
    """Marks a model as one that was called, without which Keras exports no ONNX file of it.

    Args:
        model: The model, of which only the inner networks were called.
    """
    model._called = True


def is_validation_of_fit(options: dict) -> bool:
    """Returns whether `evaluate` was called by Keras' own `fit`, whose data have been checked.

    Args:
        options: Keyword arguments of `evaluate`.
    """
    return bool(options.get("_use_cached_eval_dataset"))
