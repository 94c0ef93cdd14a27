"""Names that are private to Keras and that kcaps cannot do without, each with a test.

`kcaps.backend.replicas` overrides further ones, and tests/test_backend.py tests them all.
"""

import keras
from keras.src.backend.common import global_state
from keras.src.saving import saving_lib
from keras.src.utils import module_utils


def is_writing_legacy_format() -> bool:
    """Returns whether Keras writes or reads its old HDF5 format, for which it opens a scope."""
    return bool(global_state.get_global_attribute("use_legacy_config", False))


def keep_skipped_attributes() -> None:
    """Tells Keras which attributes of optimizers it does not save; call it before each save.

    Keras 3.15 looks for them under another name than it keeps them, and finds them in an optimizer
    that it makes at each save, of which TensorFlow never frees 70 kB.
    """
    skipped = saving_lib.get_attr_skipset("Optimizer")
    global_state.set_global_attribute("saving_attr_skiplist_Optimizer", skipped)


def origin(tensor: keras.KerasTensor) -> tuple:
    """Returns the layer or operation that a graph's tensor came of, and the node of its call.

    The node has `input_tensors`, `outputs` and, in `arguments.kwargs`, keyword arguments. Both are
    None for a tensor of no operation.
    """
    operation, index, _ = tensor._keras_history
    return (None, None) if operation is None else (operation, operation._inbound_nodes[index])


def mark_as_called(model: keras.Model) -> None:
    """Marks a model as one that was called, without which Keras exports no ONNX file of it."""
    model._called = True


def is_validation_of_fit(options: dict) -> bool:
    """Returns whether keyword arguments of `evaluate` are those of Keras' own `fit`."""
    return bool(options.get("_use_cached_eval_dataset"))


def leave_tensorflow_out() -> None:
    """Tells Keras on another backend that TensorFlow is not installed.

    Wherever it is, Keras imports it to seed it too, which takes seconds, and on a GPU its memory.
    """
    if keras.backend.backend() != "tensorflow":
        module_utils.tensorflow._available = False
