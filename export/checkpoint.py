"""Checkpoint folders and single model files: the schema of `run.json`, and their safe loading."""

import dataclasses
import json
import math
import pathlib
import re
import stat
import warnings
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from export.about import About
from export.command import first_line
from export.files import file_hash

if TYPE_CHECKING:
    import keras

FIX = "Train one with `python recipes/digits.py --output ckpt/`."
LOADERS = ("scikit-learn", "tensorflow-datasets", "npz", "keras.datasets", "synthetic")
_FROM_PYTHON = (
    "Export a model of classes of your own from Python, where they are imported, by "
    "export.onnx.export_onnx(model, path)."
)
_OTHER = "Give a checkpoint folder, or a file that model.save('a.keras') wrote."
_OLDER = (".h5", ".hdf5")  # whose files Keras reads with less care
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")


class CheckpointError(ValueError):
    """A folder that is not a usable kcaps checkpoint."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint folder: the model, the content of `run.json`, and the model's hash.

    Args:
        folder: The folder, or that of a single file.
        model: The Keras model.
        run: The content of `run.json`; of a single file, what its user tells of it.
        sha256: SHA-256 of the model's file.
        file: The single file that was loaded. Defaults to None: it was a folder.
    """

    folder: pathlib.Path
    model: "keras.Model"
    run: dict
    sha256: str
    file: pathlib.Path | None = None

    def place(self, name: str) -> pathlib.Path:
        """Returns where an export lies, unless its user says otherwise.

        That is in the folder, by its name: `ckpt/model.onnx`; of a single file `a.keras`, it is
        beside it: `a.onnx`, `a_saved_model`.
        """
        if self.file is None:
            return self.folder / name
        suffix = pathlib.PurePath(name).suffix
        return self.file.with_name(self.file.stem + (suffix or f"_{name}"))


def run_content(recipe: str, data: dict, labels: list[str], training: dict | None = None) -> dict:
    """Returns the content of a run's `run.json`, of which `load` takes what it needs.

    Args:
        recipe: Name of the program that trains.
        data: Dict of the data set's `name` and `title`, and of its `loader` with what that needs.
        labels: Names of the classes.
        training: Further entries, on how the run is trained. Defaults to None: there are none.
    """
    import kcaps

    return {
        "kcaps": kcaps.__version__,
        "recipe": recipe,
        **(training or {}),
        "data": data,
        "input_range": [0, 255],
        "labels": labels,
    }


def load(
    path: pathlib.Path,
    labels: Sequence[str] | None = None,
    input_range: Sequence[float] | None = None,
) -> Checkpoint:
    """Loads the checkpoint folder that a recipe wrote, or any single file of Keras, `a.keras`.

    The model is read with `safe_mode=True`: no Lambda layer and no pickled object is run. Before,
    the archive is checked: whole, and without members that Keras does not write.

    Args:
        path: Path of the folder or the file. With the file of a checkpoint folder, the folder is
            loaded, unless the classes or the pixels are given.
        labels: Names of the classes of a single file. Defaults to None: they are not known.
        input_range: Its values of black and white pixels. Defaults to None: 0 and 255.

    Raises:
        CheckpointError: if the folder is missing or empty, holds no kcaps run, or its model
            cannot be read or has weights that are not finite.
    """
    path, is_told = pathlib.Path(path), labels is not None or input_range is not None
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except OSError as error:  # such as of a name that is too long
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. {FIX}") from error
    if is_file and path.name == "model.keras" and not is_told:
        if (path.parent / "run.json").is_file():
            is_folder, path = True, path.parent
    if is_folder:
        return _load_folder(path, is_told)
    if is_file:
        return _load_file(path, labels, input_range)
    state = "is neither a folder nor a file" if exists else "does not exist"
    if path.suffix == ".keras":
        raise CheckpointError(f"model file {path} {state}. {_OTHER}")
    raise CheckpointError(f"checkpoint folder {path} {state}. {FIX}")


def _load_folder(folder, is_told):
    run = _read_run(folder / "run.json")
    path = folder / "model.keras"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds a run without model.keras: no epoch of it was finished. {FIX}"
        )
    if is_told:
        raise CheckpointError(
            f"--labels and --input-range must be left out: {folder / 'run.json'} has them. They "
            f"are for a single file: --model {path}"
        )
    check_archive(path)
    model = _load_model(path)
    _check_labels(folder / "run.json", run, model)
    return Checkpoint(folder, model, run, file_hash(path))


def _load_file(path, labels, input_range):
    if path.suffix != ".keras":
        fix = _OTHER
        if path.suffix in _OLDER:
            fix = f"Load it where you trust it, and save it anew: model.save('{path.stem}.keras')."
        raise CheckpointError(f"{path} is no model that can be read. {fix}")
    about = About(labels, (0, 255) if input_range is None else tuple(input_range))
    check_archive(path)
    run = {"data": {}, "labels": about.labels, "input_range": about.input_range}
    return Checkpoint(path.parent, _load_model(path, _FROM_PYTHON), run, file_hash(path), path)


def _load_model(path, fix=FIX):
    import keras

    import kcaps  # noqa: F401  registers the classes that a checkpoint names

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is checked below
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
            bad = [v.path for v in model.variables if not np.isfinite(v.numpy()).all()]
    except Exception as error:  # files that Keras did not write fail in many ways inside it
        raise CheckpointError(f"{path} cannot be loaded safely: {_reason(error, fix)}") from error
    if bad:
        raise CheckpointError(
            f"{path} has a weight that is not finite, {bad[0]}: its training diverged. Train "
            "again, with a smaller learning rate."
        )
    return model


def _reason(error, fix):
    """Returns why Keras does not load a model, and a fix; Keras tells it as the last of many."""
    found = re.search(r"Could not locate \w+ '([\w.>]+)'", str(error))
    if found:
        return f"{found[1]} is no class of Keras or kcaps. {_FROM_PYTHON}"
    *_, last = str(error).split("Exception encountered: ")
    line = (last.strip().splitlines() or [""])[0]
    # Of a long one, as many whole sentences as fit.
    line = line if len(line) <= 200 else line[:200].rpartition(". ")[0] or line[:200]
    return f"{type(error).__name__}: {line.removesuffix('.')}. {fix}"


def check_archive(path: pathlib.Path) -> None:
    """Raises a `CheckpointError` for an archive that is cut or damaged, or no Keras model."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            damaged = archive.testzip()
    except Exception as error:  # zipfile, zlib and struct have no common base
        raise CheckpointError(f"{path} is damaged: {first_line(error)}. {FIX}") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: its {damaged} has a wrong checksum. {FIX}")
    for member in members:
        if reason := _refused(member):
            raise CheckpointError(f"{path} cannot be loaded safely: {reason}")
    names = [member.filename for member in members]
    for name in _MEMBERS:
        if names.count(name) != 1:
            raise CheckpointError(
                f"{path} cannot be loaded safely: it has {names.count(name)} members {name!r}, "
                "expected one"
            )


def _refused(member):
    """Returns why a member of an archive is not to be read, or None."""
    name = member.filename
    parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in name:
        return f"its member {name!r} climbs out of the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return f"its member {name!r} is a link"
    if name not in _MEMBERS and parts[:1] != ("assets",):
        return f"Keras does not write its member {name!r}"
    return None


def _read_run(path):
    """Reads `run.json`, as `run_content` makes it, and checks what the exporters use of it."""
    if not path.is_file():
        files = sorted(path.parent.glob("*.keras"))
        fix = f"Export its model by its file: --model {files[0]} --labels a,b,c" if files else FIX
        raise CheckpointError(f"{path.parent} is not a kcaps checkpoint: it has no run.json. {fix}")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}. {FIX}") from error
    if not isinstance(run, dict) or "kcaps" not in run or not isinstance(run.get("data"), dict):
        raise CheckpointError(f"{path} was not written by a kcaps recipe. {FIX}")

    def check(is_right, key, rule, value):
        if not is_right:
            raise CheckpointError(f"{path}: {key} must be {rule}. Received: {value!r:.80}")

    loader = run["data"].get("loader")
    check(loader in LOADERS, "the 'loader' of its data", f"one of {list(LOADERS)}", loader)
    for key in ("kcaps", "recipe"):
        check(isinstance(run.get(key), str), repr(key), "text", run.get(key))
    labels = run.get("labels")
    are_texts = isinstance(labels, list) and labels and all(isinstance(x, str) for x in labels)
    check(are_texts, "'labels'", "a list of the classes' names", labels)
    pair = run.get("input_range")
    are_numbers = isinstance(pair, list) and all(
        type(x) in (int, float) and abs(x) < math.inf for x in pair
    )
    is_range = are_numbers and len(pair) == 2 and pair[0] < pair[1]
    check(is_range, "'input_range'", "two numbers, the lower first", pair)
    return run


def _check_labels(path, run, model):
    shapes = [tuple(getattr(output, "shape", ())) for output in getattr(model, "outputs", ())]
    classes = [shape[1] for shape in shapes if len(shape) == 2]
    if len(classes) == 1 and len(run["labels"]) != classes[0]:
        raise CheckpointError(
            f"{path} names {len(run['labels'])} labels, the model has {classes[0]} classes"
        )
