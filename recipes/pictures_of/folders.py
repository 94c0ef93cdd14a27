"""A user's own pictures: which files a folder of class folders holds, and for which split.

A folder holds a folder of pictures for each class, or `train`, `test` and `val` with such folders.
What cannot be trained on is told in one line that names the way out.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from export.command import fail
from export.pictures import SUFFIXES, class_folders, files_below, picture_files, split_folders

_NAMED = 3  # files or classes that a message names, at most


@dataclasses.dataclass(frozen=True)
class Folder:
    """The picture files of a folder: in each split that it has, those of each class.

    Args:
        path: The folder.
        splits: Dict from `"train"`, and `"validation"` and `"test"` where the folder has them, to
            a dict from the names of the classes to paths. All have the same classes in the same
            order. A folder of class folders has `"train"` alone, for all of its pictures.
    """

    path: pathlib.Path
    splits: dict[str, dict[str, list[pathlib.Path]]]

    @property
    def name(self) -> str:
        """Name of the data, for people."""
        return " ".join(self.path.resolve().name.split()) or "pictures"

    @property
    def class_names(self) -> list[str]:
        return list(self.splits["train"])

    def relative(self, path: pathlib.Path) -> str:
        """Returns the path of a file in the folder, with `/` between its parts."""
        return path.relative_to(self.path).as_posix()

    def some(self, paths: Sequence[pathlib.Path]) -> str:
        """Returns the first of these files in words, and how many others there are."""
        return some([self.relative(path) for path in sorted(paths)])


def some(names: Sequence[str]) -> str:
    """Returns the first of these names in words, and how many others there are."""
    others = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + others


def find(path: pathlib.Path) -> Folder:
    """Returns the picture files of a folder; ends the program where they are no classes.

    Args:
        path: The folder.
    """
    try:
        if not path.is_dir():
            state = "is a file" if path.exists() else "does not exist"
            fail(f"FOLDER must be a folder of class folders. Received: {path}, which {state}.")
        found = Folder(path, _splits(path))
    except OSError as error:
        fail(f"FOLDER {path} cannot be read: {error.strerror}")
    _check_classes(found)
    _tell_other_files(found)
    return found


def _splits(path):
    """Returns the class folders of each split."""
    try:
        folders = split_folders(path)
    except ValueError as error:
        fail(error)
    splits = {split: class_folders(folder) for split, folder in folders.items()}
    for split, folder in folders.items():
        if not splits[split]:
            fail(
                f"{folder} must hold a folder of pictures for each class. Received: none, and "
                f"{len(picture_files(folder)):,} pictures beside"
            )
    return splits or {"train": class_folders(path)}


def _check_classes(found):
    """Refuses a folder without two classes, and classes that a split lacks or that are empty."""
    classes = found.class_names
    if not classes:
        count = len(picture_files(found.path))
        fail(
            f"{found.path} must hold a folder of pictures for each class. Received: no folder, and "
            f"{count:,} pictures beside"
        )
    if len(classes) == 1:
        inner = found.path / classes[0]
        is_outer = "train" in found.splits and len(found.splits) == 1 and inner.is_dir()
        is_outer = is_outer and len([x for x in class_folders(inner).values() if x]) > 1
        hint = f"; its classes may be in {inner}: give that folder" if is_outer else ""
        fail(f"{found.path} must hold two classes at least. Received: {classes[0]!r} alone{hint}")
    for split, others in found.splits.items():
        missing = [name for name in classes if name not in others]
        unknown = [name for name in others if name not in classes]
        if missing or unknown:
            parts = [f"only in train: {some(missing)}"] if missing else []
            parts += [f"only in {split}: {some(unknown)}"] if unknown else []
            fail(f"{found.path} must have the same classes in each split. {'; '.join(parts)}")
    empty = [
        name if len(found.splits) == 1 else f"{split}/{name}"
        for split, files in found.splits.items()
        for name in files
        if not files[name]
    ]
    if empty:
        fail(
            f"each class folder of {found.path} must hold a picture ({', '.join(SUFFIXES)}). "
            f"Received none in {some(empty)}: add some, or remove the folder"
        )


def _tell_other_files(found):
    """Prints how many files in the class folders are of other kinds, which are left out."""
    taken = {path for files in found.splits.values() for x in files.values() for path in x}
    others = [
        path
        for folder in sorted({found.path / found.relative(x).split("/")[0] for x in taken})
        for path in files_below(folder)
        if path not in taken
    ]
    if others:
        print(f"left out, for they are not {', '.join(SUFFIXES)}: {found.some(others)}")
