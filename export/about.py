"""What is known of a model beside its file: the names of its classes, and its pixels."""

import argparse
import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from export.command import first_line
from export.pictures import FITS

if TYPE_CHECKING:
    from export.images import Images

_FILES = (".json", ".txt")


@dataclasses.dataclass(frozen=True)
class About:
    """The classes and the pixels of a model.

    Args:
        labels: Names of the classes, or None where they are not known.
        input_range: The values that stand for black and white. Defaults to (0, 255).
        fit: How pictures of another shape are fitted, as in `export.pictures.read_picture`.

    Raises:
        ValueError: if the names are not different texts, the range is not two numbers, the lower
            first, or the fit has no such name.
    """

    labels: Sequence[str] | None = None
    input_range: Sequence[float] = (0, 255)
    fit: str = "stretch"

    def __post_init__(self):
        if self.labels is not None:
            object.__setattr__(self, "labels", check_labels(self.labels))
        object.__setattr__(self, "input_range", _check_range(self.input_range))
        if self.fit not in FITS:
            raise ValueError(f"`fit` must be one of {list(FITS)}. Received: {self.fit!r:.80}.")

    @classmethod
    def of_run(cls, run: dict) -> "About":
        """Returns what the `run.json` of a checkpoint tells."""
        data = run.get("data", {})
        fit = data.get("fit") or ("crop" if data.get("crop") is True else "stretch")
        return cls(run.get("labels"), run.get("input_range", (0, 255)), fit)

    @classmethod
    def of_metadata(cls, metadata: dict) -> "About":
        """Returns what the metadata of an ONNX file tell, in which lists are JSON."""
        try:
            values = {
                name: json.loads(metadata[name])
                for name in ("labels", "input_range")
                if name in metadata
            }
            return cls(**values, fit=metadata.get("fit", "stretch"))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"its metadata are damaged: {first_line(error)}") from error

    def metadata(self) -> dict:
        """Returns the entries of an ONNX file's metadata that `of_metadata` reads."""
        entries = {"input_range": json.dumps(self.input_range), "fit": self.fit}
        if self.labels is not None:
            entries["labels"] = json.dumps(self.labels)
        return entries

    def scaled(self, pixels: np.ndarray, dtype: str) -> np.ndarray:
        """Returns the values, of a dtype, that stand for pixels from 0 to 255."""
        low, high = self.input_range
        if (low, high) == (0, 255):
            return pixels.astype(dtype)
        values = low + pixels.astype("float64") * ((high - low) / 255)
        return (np.round(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)

    def check_classes(self, count: int | None) -> None:
        """Raises a `ValueError` if there are names, and not one for each class of a model.

        Args:
            count: Number of values in the output of classes, or None where there is none. One value
                tells two classes apart, too.
        """
        if self.labels is None or count is None or len(self.labels) == count:
            return
        if (count, len(self.labels)) != (1, 2):
            raise ValueError(
                f"`labels` (--labels) names {len(self.labels)} classes, the model has {count}. "
                f"Received: {', '.join(self.labels):.80}."
            )

    def named_by(self, images: "Images", count: int | None) -> "About":
        """Returns this with the names that test images tell, where it has none itself.

        Args:
            images: The images.
            count: As for `check_classes`.

        Raises:
            ValueError: if the images have names for some of the classes alone, or for others.
        """
        names = images.class_names
        if self.labels is not None or names is None or count is None:
            return self
        if len(names) not in ((1, 2) if count == 1 else (count,)):
            raise ValueError(
                f"the {images} are of {len(names)} classes, {', '.join(names):.80}, and the model "
                f"has {count}: give the names of all of them, `labels` (--labels)"
            )
        return dataclasses.replace(self, labels=names)


def check_labels(labels: Sequence[str]) -> list[str]:
    """Returns the names of classes as a list; a `ValueError` if they are not different texts."""
    is_list = isinstance(labels, list | tuple | np.ndarray)
    names = [str(x) if isinstance(x, str) else x for x in labels] if is_list else None
    if not names or not all(isinstance(x, str) and x.strip() for x in names):
        raise ValueError(f"`labels` must be a list of the classes' names. Received: {labels!r:.80}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`labels` must be different names. Received: {twice!r} more than once.")
    return names


def _check_range(pair):
    is_pair = isinstance(pair, list | tuple) and len(pair) == 2
    if not is_pair or not all(type(x) in (int, float) and abs(x) < math.inf for x in pair):
        raise ValueError(f"`input_range` must be two numbers. Received: {pair!r:.80}.")
    if not pair[0] < pair[1]:
        raise ValueError(f"`input_range` must have the lower number first. Received: {pair!r:.80}.")
    return list(pair)


def labels_argument(text: str) -> list[str]:
    """Reads an argument of names with commas between them, or of a file of them.

    The file has a name on each line, or is a list in JSON.
    """
    path = pathlib.Path(text)
    try:
        if "," not in text and (path.suffix in _FILES or path.is_file()):
            text = path.read_text(encoding="utf-8-sig").strip()  # some editors begin with a mark
            is_json = text.startswith("[")
            return check_labels(json.loads(text) if is_json else text.splitlines())
        return check_labels([name.strip() for name in text.split(",")])
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"{path} must be a text in UTF-8: {error}") from error
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
