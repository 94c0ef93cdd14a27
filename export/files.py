"""Files written aside and put in place at the end, or not at all."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def aside(paths: list[pathlib.Path], overwrite: bool):
    """Makes an empty folder beside the first of `paths`, the places of new files; removes it later.

    Raises:
        ValueError: if one of the places is taken and `overwrite` is false.
        OSError: if nothing can be written there.
    """
    for path in paths:
        if os.path.lexists(path) and not overwrite:
            raise ValueError(
                f"{path} exists. Replace it with --overwrite (overwrite=True), or give another "
                "output."
            )
    made = {parent for path in paths for parent in path.parents if not parent.exists()}
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".kcaps-") as folder:
            yield pathlib.Path(folder)
    finally:
        for parent in sorted(made, reverse=True):  # the deepest first
            with contextlib.suppress(OSError):  # not empty, or never made
                parent.rmdir()


def put(new: dict[pathlib.Path, pathlib.Path], folder: pathlib.Path) -> None:
    """Puts files and folders in place: all of them, or none, whatever stops it.

    `new` is a dict from places to what shall be there, made in the folder of `aside`.
    """
    done = []
    try:
        for number, (path, made) in enumerate(new.items()):
            old, existed = folder / f"old{number}", os.path.lexists(path)
            done.append((path, old, existed))
            if path.is_dir() and not path.is_symlink():
                if made.is_file():
                    raise IsADirectoryError(None, f"{path} is a folder")
                path.rename(old)  # a folder cannot be replaced in one step
            elif existed:
                _link(path, old)
            os.replace(made, path)
    except BaseException:  # an interruption, too
        for path, old, existed in reversed(done):
            if os.path.lexists(path) and (os.path.lexists(old) or not existed):
                path.rename(f"{old}-new")
            if os.path.lexists(old):
                os.replace(old, path)
        raise


def _link(path, copy):
    """Gives a file a second name, or copies it where the file system has no such names."""
    try:
        os.link(path, copy, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, copy, follow_symlinks=False)


def file_hash(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
