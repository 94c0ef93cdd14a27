"""The model that is exported: one input, outputs with the names that users ask for."""

import keras

from kcaps.backend.keras_private import origin
from kcaps.layers import CapsuleLength, CapsuleMask


def inference_model(model: keras.Model, with_decoder: bool = False) -> keras.Model:
    """Returns the model that is exported: one input `image`, a dict of named outputs.

    It shares the weights of `model`. The first output that comes from `CapsuleLength`, or that
    with the name, is called `class_lengths`, and the capsules that it measures are added as
    `poses`; other outputs keep their names. A model whose last layer is a model has the outputs of
    that one.

    Args:
        model: A functional or built sequential Keras model with one input.
        with_decoder: Whether the decoder's image of the longest class capsule is added, as
            `reconstruction`.

    Raises:
        ValueError: if the model has no graph or several inputs, the input's size is not known, or
            a decoder is wanted of a model without one.
    """
    check_model(model)
    return _with_names(model, with_decoder)


def _with_names(model, with_decoder):
    """Returns `inference_model` of a model, which may be the last layer of another."""
    _check_graph(model)
    named = _named_outputs(model)
    (layer, node), *others = [origin(tensor) for tensor in named.values()]
    if isinstance(layer, keras.Model) and not others:  # a whole model is the last layer
        outputs = _with_names(layer, with_decoder)(node.input_tensors[0])
        return keras.Model(model.inputs, outputs, name=model.name)
    outputs = _with_poses(named)
    if with_decoder:
        decoder = getattr(model, "decoder", None)
        if decoder is None or "poses" not in outputs:
            raise ValueError(
                "`with_decoder` needs a CapsNet that was built with a decoder. Received: "
                f"{type(model).__name__} {model.name!r} without one."
            )
        outputs["reconstruction"] = decoder(CapsuleMask()(outputs["poses"]))
    return keras.Model(model.inputs, outputs, name=model.name)


def check_backend() -> None:
    """Raises a `ValueError` where Keras runs on another backend than TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Models are exported from Keras' TensorFlow backend. Set KERAS_BACKEND=tensorflow. "
            f"Received: backend {keras.backend.backend()!r}."
        )


def check_model(model: keras.Model) -> None:
    """Raises a `ValueError` for a model without one input of numbers and known sizes."""
    _check_graph(model)
    image = model.inputs[0]
    is_number = keras.backend.is_float_dtype(image.dtype) or keras.backend.is_int_dtype(image.dtype)
    if None in image.shape[1:] or not is_number:
        fix = " Give it one: keras.Sequential([keras.Input((height, width, channels)), model])."
        raise ValueError(
            "`model` must have an input of numbers, and of known sizes but for the batch. "
            f"Received: shape {tuple(image.shape)}, dtype {image.dtype}.{fix if is_number else ''}"
        )


def _check_graph(model):
    """Raises a `ValueError` for a model without a graph of one input."""
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ValueError(
            "`model` must be a functional or built sequential Keras model. "
            f"Received: {type(model).__name__} without a graph."
        )
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input, the image. Received: {len(model.inputs)} inputs."
        )


def _named_outputs(model):
    """Returns the outputs of a model as a dict of tensors."""
    named = None if isinstance(model, keras.Sequential) else model.output
    if not isinstance(named, dict):
        names = keras.Model(model.inputs, model.outputs).output_names
        # A layer that is called twice gives both of its outputs its name.
        names = [f"{x}_{names[:i].count(x)}" if x in names[:i] else x for i, x in enumerate(names)]
        named = dict(zip(names, model.outputs, strict=True))
    if not all(isinstance(x, keras.KerasTensor) for x in named.values()) or "image" in named:
        raise ValueError(
            "`model` must have a tensor, a list or a dict of tensors as its output, none of them "
            f"called 'image'. Received: {model.output!r:.200}"
        )
    return named


def _with_poses(named):
    """Returns outputs by name, the class lengths under that name and their poses after them."""
    lengths = [name for name, x in named.items() if isinstance(origin(x)[0], CapsuleLength)]
    chosen = next(iter(lengths), None)
    if "class_lengths" in named:
        chosen = "class_lengths" if "class_lengths" in lengths else None
    outputs = {}
    for name, tensor in named.items():
        outputs["class_lengths" if name == chosen else name] = tensor
        if name == chosen and "poses" not in named:
            outputs["poses"] = origin(tensor)[1].input_tensors[0]
    return outputs
