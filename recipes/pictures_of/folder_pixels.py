"""The pixels of a user's own pictures: their size and channels by default, and how they are read.

`export.pictures` reads each file, as `keras.utils.load_img` does, so that training, prediction and
the check of an exported file see the same pixels.
"""

import concurrent.futures
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from export.command import fail, first_line
from export.pictures import SUFFIXES, read_picture
from pictures_of.folders import Folder

LONGEST = 64  # pixels of a side by default, at most: larger images take longer than they gain
ON_BACKBONE = 96  # pixels of each side by default, for networks that halve an image five times
_LEAST = 8  # pixels of a side that a network takes
_GREYS = ("1", "L", "LA", "La", "F")  # Pillow's names; those of 16 and 32 bits begin with I


def headers(found: Folder, paths: Sequence[pathlib.Path]) -> list[tuple[int, int, int]]:
    """Returns height, width and channels of files, 1 or 3; ends the program where some are bad.

    Args:
        found: The folder.
        paths: Its files.
    """
    results = _each(_header, paths)
    bad = {x: reason for x, reason in zip(paths, results, strict=True) if isinstance(reason, str)}
    if bad:
        # The rest is read as well, so that all that is bad is told at once.
        others = [path for path in paths if path not in bad]
        reasons = _each(_reason_of(lambda path: read_picture(path, (_LEAST, _LEAST), 3)), others)
        _refuse(found, bad | {x: y for x, y in zip(others, reasons, strict=True) if y})
    return results


def _header(path):
    """Returns height, width and channels of a file, or why it cannot be opened."""
    from PIL import Image

    known = Image.registered_extensions()
    try:
        with Image.open(path, formats=sorted({known[suffix] for suffix in SUFFIXES})) as image:
            is_grey = image.mode in _GREYS or image.mode.startswith("I")
            return image.height, image.width, 1 if is_grey else 3
    except Exception as error:  # Pillow's readers have no common base for their errors
        return first_line(error)


def channels_of(
    found: Folder, paths: Sequence[pathlib.Path], shapes: Sequence[tuple[int, int, int]]
) -> int:
    """Returns the channels of all files; ends the program where they differ.

    Args:
        found: The folder.
        paths: Its files.
        shapes: What `headers` found of them.
    """
    greys = [path for path, shape in zip(paths, shapes, strict=True) if shape[2] == 1]
    if 0 < len(greys) < len(paths):
        colours = [path for path, shape in zip(paths, shapes, strict=True) if shape[2] == 3]
        fail(
            f"{found.path} mixes {len(greys):,} grey pictures ({found.some(greys)}) with "
            f"{len(colours):,} of colours ({found.some(colours)}): give --channels 3, or "
            "--channels 1 to make all of them grey"
        )
    return 1 if greys else 3


def size_of(shapes: Sequence[tuple[int, int, int]], is_for_backbone: bool = False) -> list[int]:
    """Returns the height and width that images have by default.

    That is the median of the pictures, made smaller where its longer side has more than `LONGEST`
    pixels; below a backbone, it is a square of `ON_BACKBONE` pixels.

    Args:
        shapes: What `headers` found.
        is_for_backbone: Whether a backbone is below the capsules.
    """
    if is_for_backbone:
        return [ON_BACKBONE, ON_BACKBONE]
    median = np.median([shape[:2] for shape in shapes], axis=0)
    scale = min(1.0, LONGEST / median.max())
    return [max(_LEAST, round(float(side) * scale)) for side in median]


def read(
    found: Folder, paths: Sequence[pathlib.Path], size: Sequence[int], channels: int, fit: str
) -> np.ndarray:
    """Returns the pixels of files, uint8 `(n, height, width, channels)`.

    Ends the program where files cannot be read; it names the first ones and counts the others.

    Args:
        found: The folder.
        paths: Its files.
        size: Height and width.
        channels: 1 or 3.
        fit: As for `export.pictures.read_picture`.
    """
    try:
        pixels = np.empty((len(paths), *size, channels), "uint8")
    except MemoryError as error:
        fail(f"the pictures do not fit into memory ({error}): give a smaller --image-size")

    def fill(number):
        pixels[number] = read_picture(paths[number], tuple(size), channels, fit)

    reasons = _each(_reason_of(fill), range(len(paths)))
    bad = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}
    if bad:
        _refuse(found, bad)
    return pixels


def _reason_of(function):
    """Returns a function that calls this one and returns the text of its `ValueError`, or None."""

    def call(argument):
        try:
            function(argument)
        except ValueError as error:
            return str(error)

    return call


def _each(function: Callable, arguments: Sequence) -> list:
    """Returns what a function returns for each argument; Pillow decodes on all cores."""
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # of what Pillow can read all the same
        return list(pool.map(function, arguments))


def _refuse(found, reasons):
    """Ends the program for files that cannot be read, given why."""
    first = min(reasons)
    reason = reasons[first].replace(str(first), found.relative(first))
    fail(
        f"{len(reasons):,} of the pictures in {found.path} cannot be read: "
        f"{found.some(list(reasons))}. Replace or remove them. The first: {reason}"
    )
