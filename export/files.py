"""Files written aside and put in place at the end, or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def aside(path, overwrite):
    """Context with an empty folder beside `path`, which is removed at its end.

    Args:
        path: Where the result shall be. Missing parent folders are made, and removed again if
            nothing is put there.
        overwrite: Whether something may be there already.

    Raises:
        ValueError: if `path` exists and may not be replaced.
        OSError: if nothing can be written there.
    """
    if path.exists() and not overwrite:
        raise ValueError(
            f"{path} exists. Replace it with --overwrite (overwrite=True), or give another output."
        )
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield pathlib.Path(folder)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # not empty, or never made
                parent.rmdir()


def put(new, path, texts):
    """Puts a file or folder in place, with small text files about it: all of them, or none.

    Args:
        new: The file or folder, made in the folder of `aside`.
        path: Its place.
        texts: Dict from paths to texts.
    """
    folder = new.parent
    for number, text in enumerate(texts.values()):
        (folder / f"text{number}").write_text(text, encoding="utf-8")
    before = {name: name.read_bytes() if name.exists() else None for name in texts}
    old = folder / "old"
    try:
        for number, name in enumerate(texts):
            os.replace(folder / f"text{number}", name)
        if path.is_dir():  # a folder cannot be replaced in one step
            path.rename(old)
        os.replace(new, path)
    except OSError:
        if old.exists():
            old.rename(path)
        for name, content in before.items():
            if content is None:
                name.unlink(missing_ok=True)
            else:
                name.write_bytes(content)
        raise
    shutil.rmtree(old, ignore_errors=True)


def report_path(path):
    """Where the report of an exported file or folder lies: beside it."""
    return path.with_name(f"{path.name}.json")
