"""Images that a user gives in whatever form they are: arrays, data sets of TensorFlow, files."""

import os
import pathlib
import zipfile

import numpy as np

from export.about import About
from export.command import first_line
from export.images import CALIBRATION_IMAGES, Images
from export.pictures import class_folders, picture_files, read_pictures, split_folders

_FORMS = (
    "an `export.images.Images`, an array, a pair of images and labels, a tf.data.Dataset, a folder "
    "of pictures or an .npz file"
)
_SAVED = "what numpy.savez('a.npz', x=images, y=labels) writes"


def read(source, image, about: About, limit: int | None = None) -> Images:
    """Returns the images that a user gives for a model.

    Args:
        source: An array of images in the unit of the model's input, a pair of such images and of
            labels, a finite `tf.data.Dataset` of either (of images or of batches), or a path: a
            folder of pictures or of class folders, whose pixels from 0 to 255 are scaled to the
            model's range, or an `.npz` file with `x` or `x_test`, and `y` or `y_test`.
        image: The model's input.
        about: What is known of the model.
        limit: Largest number of test images. Defaults to None: all.

    Raises:
        ValueError: if the images cannot be read, or are not those of such a model.
    """
    if isinstance(source, str | os.PathLike):
        path = pathlib.Path(source)
        if path.is_dir():
            return _folder(path, image, about, limit)
        return _file(path, image, limit)
    if hasattr(source, "element_spec"):
        return _of_arrays(*_dataset(source, image, limit), image, "images of a tf.data.Dataset")
    if isinstance(source, tuple) and len(source) == 2:
        return _of_arrays(*(np.asarray(part)[:limit] for part in source), image, "given images")
    if hasattr(source, "shape") and hasattr(source, "__array__"):
        return _of_arrays(np.asarray(source)[:limit], None, image, "given images")
    raise ValueError(
        f"`test_images` must be {_FORMS}. Received: an object of type {type(source).__name__}."
    )


def _of_arrays(images, labels, image, description, calibration=None):
    """Returns images with the axis of channels that a model of one channel has."""
    images = _with_channels(images, image)
    if np.issubdtype(images.dtype, np.inexact) and not np.isfinite(images).all():
        raise ValueError(f"the {description} must be finite numbers. Received: NaN or infinity.")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.ndim == 2:  # a column of labels, or a column for each class
            labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(-1)
        if np.issubdtype(labels.dtype, np.floating) and np.all(labels == labels.round()):
            labels = labels.astype("int64")  # as losses of two classes ask for
    return Images(images, labels, calibration, description)


def _with_channels(images, image):
    if images.ndim + 1 == len(image.shape) and image.shape[-1] == 1:
        return images[..., np.newaxis]
    return images


def _dataset(source, image, limit):
    """Returns the images and the labels, or None, of a `tf.data.Dataset`."""
    import tensorflow as tf

    spec = source.element_spec
    parts = spec if isinstance(spec, tuple) else (spec,)
    shapes = [getattr(part, "shape", None) for part in parts]
    if not 1 <= len(parts) <= 3 or shapes[0] is None or shapes[0].rank is None:
        raise ValueError(
            "`test_images` must be a tf.data.Dataset of images, or of images and labels. "
            f"Received: elements {spec!r:.200}"
        )
    if source.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("`test_images` must be a finite tf.data.Dataset. Received: one for ever.")
    if shapes[0].rank < len(image.shape):
        source = source.batch(64)
    if limit is not None:
        source = source.unbatch().take(limit).batch(64)
    elements = [x if isinstance(x, tuple) else (x,) for x in source.as_numpy_iterator()]
    if not elements:
        raise ValueError("`test_images` must hold at least one image. Received: none.")
    columns = [np.concatenate(column) for column in zip(*elements, strict=True)]
    return columns[0], columns[1] if len(columns) > 1 else None


def _file(path, image, limit):
    """Returns the images of an `.npz` file."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a folder of pictures or an .npz file")
    if path.suffix != ".npy" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no file of images: give a folder of pictures, or {_SAVED}")
    try:
        with open(path, "rb") as opened:
            images, labels, train = _arrays(np.load(opened, allow_pickle=False), limit)
    except Exception as error:  # damaged files fail in many ways
        raise ValueError(f"{path} is no file of images: {first_line(error)}") from error
    if train is not None:
        train = _with_channels(train, image)
    return _of_arrays(images, labels, image, f"images of {path.name}", train)


def _arrays(file, limit):
    """Returns images, labels or None, and training images or None, of what `np.load` gives."""
    names = set(getattr(file, "files", ()))  # a file of one array has none
    suffix = next((x for x in ("", "_test") if f"x{x}" in names), None)
    if suffix is None:
        found = sorted(names) or "an array without a name"
        raise ValueError(f"it has no array `x` or `x_test`, but {found}. Give {_SAVED}")
    images = file[f"x{suffix}"][:limit]
    labels = file[f"y{suffix}"][:limit] if f"y{suffix}" in names else None
    return images, labels, file["x_train"][:CALIBRATION_IMAGES] if "x_train" in names else None


def _folder(path, image, about, limit):
    """Returns the pictures of a folder, with their classes where they lie in class folders.

    Of a folder with folders of splits, that of the test is taken or, where there is none, that of
    validation or training; ranges are those of training pictures.
    """
    shape = tuple(image.shape[1:])
    if len(shape) != 3 or shape[2] not in (1, 3, 4):
        raise ValueError(
            f"{path} holds pictures, and the model takes values of shape {shape}. Give an .npz file"
        )
    try:
        splits = split_folders(path)
        path = next((splits[x] for x in ("test", "validation", "train") if x in splits), path)
        files, labels, names = _files(path, about)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error

    def pixels(paths):
        return about.scaled(read_pictures(paths, shape[:2], shape[2], about.fit), image.dtype)

    chosen = _spread(len(files), limit)
    return Images(
        pixels([files[number] for number in chosen]),
        None if labels is None else labels[chosen],
        _calibration(splits.get("train"), pixels),
        f"pictures of {path}",
        class_names=names,
    )


def _files(path, about):
    """Returns the picture files of a folder, their labels or None, and the classes' names or None.

    Class folders are numbered as the model's names are or, where it has none, by the alphabet.
    """
    classes = {name: files for name, files in class_folders(path).items() if files}
    if not classes:
        files = picture_files(path)
        if not files:
            raise ValueError(f"{path} holds no picture: no BMP, GIF, JPEG or PNG file")
        return files, None, None
    names = list(classes) if about.labels is None else about.labels
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ValueError(
            f"{path} has class folders that are no class of the model: {', '.join(unknown[:3])}. "
            f"Its classes are {', '.join(names):.80}."
        )
    files = [file for files in classes.values() for file in files]
    labels = np.repeat([names.index(name) for name in classes], [*map(len, classes.values())])
    return files, labels, names


def _spread(count, limit):
    """Returns the numbers of `limit` of `count` files, evenly spread: of all classes."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).astype(int)


def _calibration(train, pixels):
    """Returns training images, of all classes, from a folder, or None where there is none."""
    files = [] if train is None else picture_files(train)
    chosen = _spread(len(files), CALIBRATION_IMAGES)
    return pixels([files[number] for number in chosen]) if files else None
