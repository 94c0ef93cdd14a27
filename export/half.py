"""Models that compute in half precision: their copies in float32, and what these change."""

import dataclasses
import json
import math
import pathlib
import tempfile
import warnings

import keras
import numpy as np

from export.command import first_line
from kcaps.graph import calls

DTYPES = ("bfloat16", "float16")
_POLICIES = (*DTYPES, *(f"mixed_{name}" for name in DTYPES))
# The rounding of a constant that a layer made in half precision, which its copy makes in float32.
_ROUNDING = 0.01
# Points of accuracy that are nothing to speak of: what a float16 file may lose, too.
_FAIR_POINTS = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Half:
    """A model that computes in half precision, beside the float32 copy that was exported of it.

    Args:
        dtype: `"bfloat16"` or `"float16"`; with both in one model, `"bfloat16 and float16"`.
        difference: Largest difference of their outputs; for outputs beyond 1, as a share of their
            largest value.
        images: Number of images.
        changed: Number of images that get another class, or None without an output of classes.
        gained: Number of images that the copy alone classifies rightly, or None without labels.
        lost: Number of images that the model alone classifies rightly, or None without labels.
        accuracy: Share of the images that the model itself classifies rightly, or None.
    """

    dtype: str
    difference: float
    images: int
    changed: int | None = None
    gained: int | None = None
    lost: int | None = None
    accuracy: float | None = None

    def __str__(self):
        text = f"in float32, outputs differ from {self.dtype} by {self.difference:.1e}"
        if self.changed is not None:
            text += f", and {self.changed:,} of {self.images:,} images get another class"
        return text

    @property
    def warning(self) -> str | None:
        """A line on accuracies that differ by more than a fair bound, or None.

        Rounding changes the class of images between two classes, as often for the better as for
        the worse. Of `n` images that one of the models alone classifies rightly, the gains less
        the losses then have a standard deviation of √n: beyond twice of it, chance is no good
        explanation. A tenth of a point is none to speak of, whatever it comes from.
        """
        if self.gained is None:
            return None
        net, total = self.gained - self.lost, self.gained + self.lost
        points = 100 * abs(net) / self.images
        if points <= _FAIR_POINTS or abs(net) <= 2 * math.sqrt(total):
            return None
        after = self.accuracy + net / self.images
        return (
            f"test accuracy is {100 * self.accuracy:.2f} % as Keras computes the model in "
            f"{self.dtype} and {100 * after:.2f} % in float32, in which it is exported: "
            f"{self.gained:,} images are right in float32 alone, {self.lost:,} in {self.dtype} "
            "alone, which is more than chance makes of rounding."
        )


def half_dtypes(model: keras.Model) -> list[str]:
    """Returns the half precisions in which layers of a model compute, those inside of others too.

    Example:

    >>> dense = keras.layers.Dense(2, dtype="mixed_bfloat16")
    >>> half_dtypes(keras.Sequential([keras.Input((3,)), dense]))
    ['bfloat16']
    """
    used = {layer.compute_dtype for layer in _layers(model) if _computes(layer)}
    return [name for name in DTYPES if name in used]


def in_float32(model: keras.Model) -> keras.Model:
    """Returns a copy of a model whose layers all compute in float32, with the same weights.

    The copy is loaded as from a saved file, in whose config all dtype policies are float32, so that
    layers make the layers that they hold, such as routings, in float32 as well. Its inputs are
    float32, too. The model itself is not changed.

    Raises:
        ValueError: if a layer cannot be made from its config, loses an array that the config does
            not hold, or computes in half precision whatever its policy is.
    """
    layers = list(_layers(model))
    # Classes that Keras knows by no name are at hand: objects of them are in the model.
    classes = {type(layer).__name__: type(layer) for layer in layers if _is_of_user(layer)}
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is checked below
            path = pathlib.Path(folder) / "model"
            keras.saving.save_model(model, path, zipped=False)
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            (path / "config.json").write_text(json.dumps(_config(config)), encoding="utf-8")
            copy = keras.saving.load_model(
                path, custom_objects=classes, compile=False, safe_mode=True
            )
    except OSError:  # such as of a full disk
        raise
    except Exception as error:  # a layer of the user may raise anything
        raise _refused(model, f"the copy fails with {first_line(error)}") from error
    _check(model, layers, copy)
    return copy


def _config(part):
    """Returns a part of a saved model's config with float32 for half precision."""
    if isinstance(part, list):
        return [_config(value) for value in part]
    if not isinstance(part, dict):
        return part
    is_policy = part.get("class_name") == "DTypePolicy"
    if is_policy and part["config"].get("name") in _POLICIES:
        return {**part, "config": {**part["config"], "name": "float32"}}
    return {
        key: "float32" if key == "dtype" and value in _POLICIES else _config(value)
        for key, value in part.items()
        if key != "compile_config"  # a copy that is not trained needs no optimizer
    }


def _check(model, layers, copy):
    """Raises a `ValueError` for a copy that still computes in half precision, or lacks a value."""
    copies = list(_layers(copy))
    for layer in copies:
        if _computes(layer) and layer.compute_dtype in DTYPES:
            reason = f"layer {layer.name!r} computes in {layer.compute_dtype} whatever its policy"
            raise _refused(model, f"{reason} is")
    for call in calls(copy.outputs, keras.Operation):
        found = {tensor.dtype for tensor in call.outputs} & set(DTYPES)
        if found:
            raise _refused(model, f"{call.layer.name!r} gives {found.pop()} whatever its policy is")
    pairs = list(zip(layers, copies, strict=False))
    if len(layers) != len(copies) or any(type(one) is not type(other) for one, other in pairs):
        raise _refused(model, "layers of the copy are of other types than those of the model")
    if not _agree(model.weights, copy.weights, rounding=0.0):
        raise _refused(model, "weights of the copy differ from those of the model")
    for one, other in pairs:
        if _is_of_user(one) and not _agree(_arrays(one), _arrays(other), _ROUNDING):
            name = f"{type(one).__name__} {one.name!r}"
            raise _refused(model, f"{name} holds an array that its config does not")


def _arrays(layer):
    values = keras.tree.flatten(list(vars(layer).values()))
    return [x for x in values if isinstance(x, np.ndarray) or keras.ops.is_tensor(x)]


def _agree(ones, others, rounding):
    """Tells whether two lists of arrays, of whatever precision, have the same values."""

    def values(array):
        return np.asarray(keras.ops.convert_to_numpy(array)).astype("float64")

    pairs = [(values(one), values(other)) for one, other in zip(ones, others, strict=False)]
    return len(ones) == len(others) and all(
        one.shape == other.shape and np.allclose(one, other, rtol=rounding, atol=0)
        for one, other in pairs
    )


def _computes(layer):
    """Tells whether a layer computes anything itself: an input does not, nor a model of layers.

    Both have the global policy of the time when they were made, whatever their layers have.
    """
    is_graph = isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
    return not is_graph and not isinstance(layer, keras.layers.InputLayer)


def _is_of_user(layer):
    return type(layer).__module__.partition(".")[0] not in ("keras", "kcaps")


def _layers(layer, seen=None):
    """Generates the layers of a model, and those that layers hold, such as routings."""
    seen = set() if seen is None else seen
    for value in vars(layer).values():
        parts = value if isinstance(value, list | tuple) else [value]
        for part in parts:
            if isinstance(part, keras.layers.Layer) and id(part) not in seen:
                seen.add(id(part))
                yield part
                yield from _layers(part, seen)


def _refused(model, reason):
    """Returns the error for a model that has no copy in float32."""
    return ValueError(
        f"`model` computes in {' and '.join(half_dtypes(model))}, of which ONNX Runtime has few "
        f"operators, and cannot be copied to float32: {reason}. Build it with the dtype policy "
        "'float32' and load its weights."
    )
