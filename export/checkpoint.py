"""Safe loading of checkpoint folders."""

import dataclasses
import hashlib
import json
import math
import pathlib
import stat
import warnings
import zipfile

import keras
import numpy as np

import kcaps  # noqa: F401  registers the classes that a checkpoint names
from export.command import first_line

FIX = "Train one with `python recipes/digits.py --output ckpt/`."
LOADERS = ("scikit-learn", "tensorflow-datasets", "synthetic")
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")


class CheckpointError(ValueError):
    """A folder that is not a usable kcaps checkpoint."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint folder: the model, what `run.json` says of it, and its hash."""

    folder: pathlib.Path
    model: keras.Model
    run: dict
    sha256: str


def load(folder):
    """Loads the checkpoint folder that a recipe wrote.

    The model is read with `safe_mode=True`: no Lambda layer and no pickled object is run. Before,
    the archive is checked: whole, and without members that Keras does not write.

    Args:
        folder: Path of the folder.

    Returns:
        A `Checkpoint`.

    Raises:
        CheckpointError: if the folder is missing or empty, holds no kcaps run, or its model
            cannot be read or has weights that are not finite.
    """
    folder = pathlib.Path(folder)
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except OSError as error:  # such as of a name that is too long
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}. {FIX}") from error
    if not is_folder:
        state = "is not a folder" if exists else "does not exist"
        raise CheckpointError(f"checkpoint folder {folder} {state}. {FIX}")
    run = _read_run(folder / "run.json")
    path = folder / "model.keras"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds a run without model.keras: no epoch of it was finished. {FIX}"
        )
    check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is checked below
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
            bad = [v.path for v in model.variables if not np.isfinite(v.numpy()).all()]
    except Exception as error:  # files that Keras did not write fail in many ways inside it
        raise CheckpointError(
            f"{path} cannot be loaded safely: {first_line(error)}. {FIX}"
        ) from error
    if bad:
        raise CheckpointError(
            f"{path} has a weight that is not finite, {bad[0]}: its training diverged. Train "
            "again, with a smaller learning rate."
        )
    _check_labels(folder / "run.json", run, model)
    return Checkpoint(folder, model, run, file_hash(path))


def file_hash(path):
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_archive(path):
    """Raises a `CheckpointError` for an archive that is cut or damaged, or no Keras model."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            damaged = archive.testzip()
    except Exception as error:  # zipfile, zlib and struct have no common base
        raise CheckpointError(f"{path} is damaged: {first_line(error)}. {FIX}") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: its {damaged} has a wrong checksum. {FIX}")
    names = [member.filename for member in members]
    for member in members:
        name = member.filename
        parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ".." in parts or ":" in name:
            raise CheckpointError(
                f"{path} cannot be loaded safely: its member {name!r} climbs out of the archive"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise CheckpointError(f"{path} cannot be loaded safely: its member {name!r} is a link")
        if name not in _MEMBERS and parts[:1] != ("assets",):
            raise CheckpointError(
                f"{path} cannot be loaded safely: Keras does not write its member {name!r}"
            )
    for name in _MEMBERS:
        if names.count(name) != 1:
            raise CheckpointError(
                f"{path} cannot be loaded safely: it has {names.count(name)} members {name!r}, "
                "expected one"
            )


def _read_run(path):
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is not a kcaps checkpoint: it has no run.json. {FIX}")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}. {FIX}") from error
    if not isinstance(run, dict) or "kcaps" not in run or not isinstance(run.get("data"), dict):
        raise CheckpointError(f"{path} was not written by a kcaps recipe. {FIX}")
    loader = run["data"].get("loader")
    if loader not in LOADERS:
        raise CheckpointError(
            f"{path}: the 'loader' of its data must be one of {list(LOADERS)}. "
            f"Received: {loader!r:.80}"
        )
    for key in ("kcaps", "recipe"):
        if not isinstance(run.get(key), str):
            raise CheckpointError(f"{path}: {key!r} must be text. Received: {run.get(key)!r:.80}")
    labels = run.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(x, str) for x in labels):
        raise CheckpointError(
            f"{path}: 'labels' must be a list of the classes' names. Received: {labels!r:.80}"
        )
    pair = run.get("input_range")
    if not (
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(x) in (int, float) and abs(x) < math.inf for x in pair)
        and pair[0] < pair[1]
    ):
        raise CheckpointError(
            f"{path}: 'input_range' must be two numbers, the lower first. Received: {pair!r:.80}"
        )
    return run


def _check_labels(path, run, model):
    shapes = [tuple(getattr(output, "shape", ())) for output in getattr(model, "outputs", ())]
    classes = [shape[1] for shape in shapes if len(shape) == 2]
    if len(classes) == 1 and len(run["labels"]) != classes[0]:
        raise CheckpointError(
            f"{path} names {len(run['labels'])} labels, the model has {classes[0]} classes"
        )
