"""The images on which an exported file is compared with Keras."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from export import overlapping
from export.about import About

# Files and folders by whose name Keras keeps its data sets.
_KERAS_FILES = {
    "mnist": "mnist.npz",
    "fashion_mnist": "fashion-mnist",
    "cifar10": "cifar-10-batches-py-target",
}

CALIBRATION_IMAGES = 512
RANDOM_IMAGES = 64


@dataclasses.dataclass(frozen=True)
class Images:
    """Images to compare on and, for lower precision, their classes and training images.

    Args:
        test: Images `(n, height, width, channels)` in the unit of the model's input.
        labels: Classes of the test images, integers `(n,)`, or None. float16 and int8 need them.
        calibration: Training images, or None. int8 needs them.
        description: Name of the test images in the report.
        is_random: Whether the test images are random pixels, which may be unlike any that the
            model was made for.
        class_names: Names of the classes, if the images tell them, or None.
        warning: One line on images that should be there and are not, or None.
        parts: The classes of several objects in each image, integers `(n, k)`, or None. Such images
            have no `labels`.

    Raises:
        ValueError: if there is no test image, or another number of labels than of images.
    """

    test: np.ndarray
    labels: np.ndarray | None = None
    calibration: np.ndarray | None = None
    description: str = "given images"
    is_random: bool = False
    class_names: list | None = None
    warning: str | None = None
    parts: np.ndarray | None = None

    def __post_init__(self):
        if not len(self.test):
            raise ValueError("`test` must hold at least one image. Received: none.")
        labels = None if self.labels is None else np.asarray(self.labels)
        if labels is not None and (
            labels.shape != (len(self.test),) or not np.issubdtype(labels.dtype, np.integer)
        ):
            raise ValueError(
                f"`labels` must be one integer for each of the {len(self.test)} test images. "
                f"Received: shape {labels.shape}, dtype {labels.dtype}."
            )

    def __str__(self):
        return f"{len(self.test):,} {self.description}"


def of_run(run: dict, limit: int | None = None, folder: str | os.PathLike = ".") -> Images | None:
    """Returns images of the data set that `run.json` names, or None where it is not at hand.

    Nothing is downloaded. There are at most `limit` test images, or all of them.

    Args:
        run: Content of `run.json`.
        limit: Largest number of test images. Defaults to None: all.
        folder: The checkpoint folder, in which a file lies whose path is not absolute.

    Raises:
        ValueError: if the entry of the data set is damaged.
    """
    if run.get("recipe") == overlapping.RECIPE:
        single = of_run({**run, "recipe": None}, limit, folder)
        return single and _in_pairs(single)
    source = run.get("data", {})
    try:
        if source.get("loader") == "scikit-learn":
            return _digits(source, limit)
        if source.get("loader") == "tensorflow-datasets":
            return _prepared(source["name"], source.get("data_dir"), limit)
        if source.get("loader") == "npz":
            file = pathlib.Path(folder, source["file"])
            return _of_splits(source["name"], limit, lambda: read_keras_file(file))
        if source.get("loader") == "keras.datasets":
            return _kept_by_keras(source["name"], limit)
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"`run` does not say where its test images are: {error!r}.") from error
    return None


def choose(images, checkpoint, image, about: About | None = None) -> Images:
    """Returns images for a model's input: those given, those of its checkpoint, or random ones.

    Args:
        images: An `Images`, whatever `export.given.read` takes, or None.
        checkpoint: The `export.checkpoint.Checkpoint` of the model, or None.
        image: The model's input.
        about: What is known of the model, for its `input_range`. Defaults to None: what the
            checkpoint tells.

    Raises:
        ValueError: if the images given do not have the shape of the input.
    """
    shape, run = tuple(image.shape[1:]), checkpoint.run if checkpoint else {}
    about = about or About.of_run(run)
    if images is None:
        images = of_run(run, folder=checkpoint.folder) if checkpoint else None
        if images is not None and images.test.shape[1:] == shape:
            return images
        return _random(image, about, run)
    if not isinstance(images, Images):
        from export import given

        images = given.read(images, image, about)
    if np.shape(images.test)[1:] != shape:
        raise ValueError(
            f"`test_images` must have the shape {shape} of the model's input. "
            f"Received: {np.shape(images.test)[1:]}."
        )
    return images


def _random(image, about, run):
    """Returns random images in the range of a model's pixels, with a text that says so."""
    source, (low, high) = run.get("data", {}), about.input_range
    pixels = np.random.default_rng(0).integers(256, size=(RANDOM_IMAGES, *image.shape[1:]))
    title, warning = source.get("title"), None
    if source.get("loader") == "npz" and not os.path.isabs(source.get("file", "")):
        warning = (
            f"the run's own test images, {source.get('file')} in its folder, are not there or are "
            "not those of the model: the file was compared on random pixels, without accuracy"
        )
    return Images(
        about.scaled(pixels, image.dtype),
        description=f"random images, pixels from {low:g} to {high:g}"
        + (f"; the model was trained on {title}" if title else ""),
        is_random=True,
        warning=warning,
    )


def _in_pairs(images):
    """Returns overlapping pairs of test images, and of training images without their labels."""
    test, parts = overlapping.overlapped(images.test, images.labels)
    train = images.calibration
    if train is not None:
        train, _ = overlapping.overlapped(train, np.arange(len(train)))
    description = f"overlapping pairs of {images.description}"
    return Images(test, None, train, description, parts=parts)


def _digits(source, limit):
    from sklearn.datasets import load_digits

    if type(source["scale"]) not in (int, float) or not 0 < source["scale"] <= 255:
        raise ValueError("scale must be a positive number")
    digits = load_digits()
    images = np.round(digits.images * source["scale"]).astype("uint8")[..., np.newaxis]
    test = np.array(source["test_indices"])
    if test.ndim != 1 or test.dtype.kind != "i" or not len(test) or test.min() < 0:
        raise ValueError("test_indices must be a list of indices")
    train = np.setdiff1d(np.arange(len(images)), test)[:CALIBRATION_IMAGES]
    test = test[:limit]
    return Images(images[test], digits.target[test], images[train], "test images of digits")


def keras_file(folder: str | pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path in a folder of the file of a data set in Keras' own format."""
    return pathlib.Path(folder) / f"{name}.npz"


def read_keras_file(path: str | pathlib.Path) -> tuple[tuple, tuple]:
    """Returns training and test images with their labels from a file of Keras' own format.

    That is an archive of NumPy arrays `x_train`, `y_train`, `x_test` and `y_test`, of images with
    or without an axis of channels, and of labels with or without an axis of one.

    Args:
        path: The file.

    Returns:
        Two pairs of images `(n, height, width, channels)` and labels `(n,)`, int64.

    Raises:
        OSError, ValueError, KeyError: for a file that is not there or is no such archive.
    """
    # NumPy leaves a file open that it opened and cannot read.
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        return with_axes((file[f"x_{split}"], file[f"y_{split}"]) for split in ("train", "test"))


def with_axes(splits: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[tuple, ...]:
    """Returns splits whose images have an axis of channels, and whose labels have one axis."""
    return tuple(
        (x.reshape(*x.shape[:3], -1), np.reshape(y, -1).astype("int64")) for x, y in splits
    )


def _kept_by_keras(name, limit):
    """Returns images that Keras has in its folder, and None where it would download them."""
    import keras

    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if not (home / "datasets" / _KERAS_FILES[name]).exists():
        return None
    return _of_splits(name, limit, lambda: with_axes(getattr(keras.datasets, name).load_data()))


def _of_splits(name, limit, read):
    """Returns images of what a function reads, or None where it fails."""
    try:
        (train, _), (test, labels) = read()
        calibration = train[:CALIBRATION_IMAGES]
        return Images(test[:limit], labels[:limit], calibration, f"test images of {name}")
    except Exception:  # not there, or damaged in any way
        return None


def _prepared(name, data_dir, limit):
    """Returns images of a prepared folder: the run's or tensorflow-datasets' default."""
    for folder in (data_dir, None):
        try:
            import tensorflow_datasets as tfds

            builder = tfds.builder(name, data_dir=folder)
            if not builder.is_prepared():
                continue
            size = builder.info.splits["test"].num_examples
            test, train = builder.as_dataset(
                split=[f"test[:{min(limit or size, size)}]", f"train[:{CALIBRATION_IMAGES}]"],
                batch_size=-1,
            )
            return Images(
                test["image"].numpy(),
                test["label"].numpy(),
                train["image"].numpy(),
                f"test images of {name}",
            )
        except Exception:  # not installed, not there, or damaged in any way
            continue
    return None
