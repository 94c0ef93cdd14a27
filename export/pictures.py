"""Pictures in files: how they are found in folders, and how they become the pixels of a model.

Training and prediction share these functions, which need NumPy and Pillow alone.
"""

import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from export.command import first_line

# The files that Keras' own loader takes, and Pillow's names of their formats. Others are not
# tried: some of Pillow's readers start programs.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG")
# What the folders of splits are called, in small letters.
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
FITS = ("stretch", "crop", "pad")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_picture(picture, size: tuple[int, int], channels: int, fit: str = "stretch") -> np.ndarray:
    """Returns the pixels of a picture in the size and the channels of a model.

    Pixels of 8 bits are those that `keras.utils.load_img` gives with `interpolation="bilinear"`,
    bit for bit. Transparency is dropped, and the orientation in a photograph's EXIF data is not
    applied, as there. Greyscale of 16 bits is divided by 257 and rounded to bytes.

    Args:
        picture: Path of a file, or a Pillow image.
        size: Height and width.
        channels: 1 for greyscale, 3 for colours, 4 for colours with transparency.
        fit: How a picture of another shape fits: `"stretch"` changes its proportions, `"crop"`
            cuts off what is too much on both sides, as Keras' `keep_aspect_ratio` does, and
            `"pad"` adds black on both sides. Defaults to `"stretch"`.

    Returns:
        An array `(height, width, channels)` of bytes.

    Raises:
        ValueError: if the channels or the fit are none of these, or the file is no such picture.
    """
    from PIL import Image

    if channels not in _MODES:
        raise ValueError(f"`channels` must be one of {list(_MODES)}. Received: {channels!r}.")
    if fit not in FITS:
        raise ValueError(f"`fit` must be one of {list(FITS)}. Received: {fit!r}.")
    if isinstance(picture, Image.Image):
        return _pixels(picture, size, _MODES[channels], fit)
    try:
        with warnings.catch_warnings(), Image.open(picture, formats=_FORMATS) as image:
            # A small file of so many pixels that decoding it would fill the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _pixels(image, size, _MODES[channels], fit)
    except FileNotFoundError as error:
        raise ValueError(f"{picture} does not exist") from error
    except Exception as error:  # Pillow's readers have no common base for their errors
        raise ValueError(f"{picture} cannot be read as a picture: {_reason(error)}") from error


def read_pictures(
    paths: Iterable[str | os.PathLike],
    size: tuple[int, int],
    channels: int,
    fit: str = "stretch",
) -> np.ndarray:
    """Returns the pixels of picture files, as `read_picture` does, `(n, height, width, channels)`.

    Raises:
        ValueError: if a file is no picture; it names the first ones of them and their number.
    """
    paths = list(paths)
    pixels = np.zeros((len(paths), *size, channels), "uint8")
    errors = []
    for number, path in enumerate(paths):
        try:
            pixels[number] = read_picture(path, size, channels, fit)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        others = f"; and {len(errors) - 3:,} more" if len(errors) > 3 else ""
        raise ValueError("; ".join(errors[:3]) + others)
    return pixels


def picture_files(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the picture files below a folder, without hidden ones, in the order of Keras' loader.

    That is the order of the folders' names, and in each that of the files' names.
    """
    found = [path for path in files_below(folder) if path.name.lower().endswith(SUFFIXES)]
    return sorted(found, key=lambda path: (os.fspath(path.parent), path.name))


def files_below(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the files below a folder, without hidden ones and those in hidden folders.

    Links are followed, but for those to a folder that they are in: its files would come again.
    """
    outer = {os.fspath(folder): {os.path.realpath(folder)}}  # the real folders that each is in
    for place, folders, names in os.walk(folder, followlinks=True):
        around = outer.pop(place)
        inner = {name: os.path.realpath(os.path.join(place, name)) for name in folders}
        folders[:] = [name for name in folders if name[0] != "." and inner[name] not in around]
        outer |= {os.path.join(place, name): around | {inner[name]} for name in folders}
        yield from (pathlib.Path(place, name) for name in names if name[0] != ".")


def class_folders(folder: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
    """Returns the picture files of each class folder in a folder, by the names of the classes.

    The names are in alphabetical order, as Keras' loader numbers them. Hidden folders are left out;
    a class without any picture has an empty list.
    """
    folders = [path for path in pathlib.Path(folder).iterdir() if path.is_dir()]
    names = sorted(path.name for path in folders if not path.name.startswith("."))
    return {name: picture_files(pathlib.Path(folder, name)) for name in names}


def split_folders(folder: str | os.PathLike) -> dict[str, pathlib.Path]:
    """Returns the folders of a folder's splits, by `"train"`, `"test"` and `"validation"`.

    Those are its folders `train`, `test`, `val` and the like, if it has `train` and no others.
    Otherwise, the dict is empty: the folders may be those of classes.

    Raises:
        ValueError: if a split has two folders, or others are beside those of several splits.
    """
    folders = sorted(path for path in pathlib.Path(folder).iterdir() if path.is_dir())
    folders = [path for path in folders if not path.name.startswith(".")]
    pairs = [(_SPLITS[x.name.lower()], x) for x in folders if x.name.lower() in _SPLITS]
    found, names = dict(pairs), [path.name for _, path in pairs]
    others = [path.name for path in folders if path.name not in names]
    # A class may be called so, too; its folder holds pictures, and not those of classes.
    if "train" not in found or (others and not (found.keys() - {"train"} and _has_classes(found))):
        return {}
    if others:
        raise ValueError(
            f"{folder} must have its splits alone, {', '.join(names)}. Received: "
            f"{', '.join(others[:3])} beside; move that elsewhere"
        )
    twice = next((split for split in found if [x for x, _ in pairs].count(split) > 1), None)
    if twice is not None:
        raise ValueError(f"{folder} must have one folder of {twice} pictures. Received: {names}.")
    return found


def _has_classes(splits):
    """Returns whether the folder of training pictures has class folders with pictures."""
    return any(class_folders(splits["train"]).values())


def _pixels(image, size, mode, fit):
    """Returns the pixels of a Pillow image, converted first and resized then, as Keras does."""
    from PIL import Image, ImageOps

    image = _eight_bits(image)
    if image.mode != mode:
        image = image.convert(mode)
    height, width = size
    if image.size != (width, height):
        if fit == "pad":
            image = ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR)
        else:
            box = _centre(image.size, (width, height)) if fit == "crop" else None
            image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image, "uint8").reshape(height, width, -1)


def _eight_bits(image):
    """Returns an image whose greyscale of 16 bits, if it has that, is scaled to 8."""
    from PIL import Image

    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.round(np.asarray(image) / 257)  # 65,535 becomes 255
    return Image.fromarray(values.clip(0, 255).astype("uint8"))


def _centre(size: Sequence[int], wanted: Sequence[int]):
    """Returns the largest box of the wanted proportions in the middle, in whole pixels."""
    width = min(size[0], size[1] * wanted[0] // wanted[1])
    height = min(size[1], size[0] * wanted[1] // wanted[0])
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _reason(error):
    """Returns what a reader of pictures complains of, without the path that is told already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "UnidentifiedImageError":
        return f"it is not {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}, or it is damaged"
    return first_line(error)
