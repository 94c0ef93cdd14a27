"""Safe loading of checkpoint folders, and the model that is exported from them."""

import dataclasses
import json
import pathlib
import zipfile

import keras

from kcaps.layers import CapsuleLength

FIX = "Train one with `python recipes/digits.py --output ckpt/`."


class CheckpointError(ValueError):
    """A folder that is not a usable kcaps checkpoint."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint folder: the model, and what `run.json` says of it."""

    folder: pathlib.Path
    model: keras.Model
    run: dict


def load(folder):
    """Loads the checkpoint folder that a recipe wrote.

    The model is read with `safe_mode=True`: no Lambda layer and no pickled object is run.

    Args:
        folder: Path of the folder.

    Returns:
        A `Checkpoint`.

    Raises:
        CheckpointError: if the folder is missing or empty, holds no kcaps run, or its model
            cannot be read.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"checkpoint folder {folder} {state}. {FIX}")
    run = _read_run(folder / "run.json")
    path = folder / "model.keras"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds a run without model.keras: no epoch of it was finished. {FIX}"
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # damaged archives fail in many ways inside Keras
        kind = "is damaged" if not zipfile.is_zipfile(path) else "cannot be loaded safely"
        raise CheckpointError(f"{path} {kind}: {_first_line(error)}. {FIX}") from error
    return Checkpoint(folder, model, run)


def _read_run(path):
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is not a kcaps checkpoint: it has no run.json. {FIX}")
    try:
        run = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}. {FIX}") from error
    if not isinstance(run, dict) or "kcaps" not in run or not isinstance(run.get("data"), dict):
        raise CheckpointError(f"{path} was not written by a kcaps recipe. {FIX}")
    return run


def _first_line(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def inference_model(model):
    """The model that is exported: one input `image`, outputs with the names users ask for.

    Where an output of the model comes from `CapsuleLength`, it is called `class_lengths` and the
    capsules that it measures are added as `poses`; other outputs keep their names.

    Args:
        model: A functional Keras model with one input.

    Returns:
        A `keras.Model` that shares the layers of `model` and returns a dict of named outputs.

    Raises:
        ValueError: if the model is not functional or has several inputs, or Keras runs on a
            backend other than TensorFlow, or the input's size is not known.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Models are exported from Keras' TensorFlow backend. Set KERAS_BACKEND=tensorflow. "
            f"Received: backend {keras.backend.backend()!r}."
        )
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ValueError(
            "`model` must be a functional or built sequential Keras model. "
            f"Received: {type(model).__name__} without a graph."
        )
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input, the image. Received: {len(model.inputs)} inputs."
        )
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    image = model.inputs[0]
    is_number = keras.backend.is_float_dtype(image.dtype) or keras.backend.is_int_dtype(image.dtype)
    if None in image.shape[1:] or not is_number:
        raise ValueError(
            "`model` must have an input of numbers, and of known sizes but for the batch. "
            f"Received: shape {image.shape}, dtype {image.dtype}."
        )
    named = model.output
    if not isinstance(named, dict):
        named = dict(zip(model.output_names, model.outputs, strict=True))
    outputs = {}
    for name, tensor in named.items():
        layer, node, _ = tensor._keras_history
        if isinstance(layer, CapsuleLength) and "class_lengths" not in outputs:
            outputs["class_lengths"] = tensor
            outputs["poses"] = layer._inbound_nodes[node].input_tensors[0]
        else:
            outputs[name] = tensor
    return keras.Model(model.inputs, outputs, name=model.name)
