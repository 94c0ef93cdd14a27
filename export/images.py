"""The images on which an exported file is compared with Keras."""

import dataclasses

import numpy as np

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

    Raises:
        ValueError: if there is no test image, or another number of labels than of images.
    """

    test: np.ndarray
    labels: np.ndarray | None = None
    calibration: np.ndarray | None = None
    description: str = "given images"
    is_random: bool = False

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


def of_run(run: dict, limit: int | None = None) -> Images | None:
    """Returns images of the data set that `run.json` names, or None where it is not at hand.

    Nothing is downloaded. There are at most `limit` test images, or all of them.

    Raises:
        ValueError: if the entry of the data set is damaged.
    """
    source = run.get("data", {})
    try:
        if source.get("loader") == "scikit-learn":
            return _digits(source, limit)
        if source.get("loader") == "tensorflow-datasets":
            return _prepared(source["name"], source.get("data_dir"), limit)
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"`run` does not say where its test images are: {error!r}.") from error
    return None


def choose(images: Images | None, checkpoint, image) -> Images:
    """Returns images for a model's input: those given, those of its checkpoint, or random ones.

    Raises:
        ValueError: if the images given do not have the shape of the input.
    """
    shape, run = tuple(image.shape[1:]), checkpoint.run if checkpoint else {}
    if images is None:
        images = of_run(run)
        if images is not None and images.test.shape[1:] == shape:
            return images
        title = run.get("data", {}).get("title")
        trained = f"; the model was trained on {title}" if title else ""
        pixels = np.random.default_rng(0).integers(256, size=(RANDOM_IMAGES, *shape))
        return Images(pixels, description=f"random images{trained}", is_random=True)
    if not isinstance(images, Images):
        raise ValueError(
            "`test_images` must be an `export.images.Images`. "
            f"Received: an object of type {type(images).__name__}."
        )
    if np.shape(images.test)[1:] != shape:
        raise ValueError(
            f"`test_images` must have the shape {shape} of the model's input. "
            f"Received: {np.shape(images.test)[1:]}."
        )
    return images


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
