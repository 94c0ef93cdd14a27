"""Data of the recipes: real images by name, or generated ones of the same shape."""

import dataclasses

import numpy as np

from export.command import fail
from pictures_of import sources

VALIDATION_SHARE = 0.1
PUBLISHED_VALIDATION_SHARE = 1 / 6  # 10,000 of 60,000, in the paper on capsule regression
SYNTHETIC_TRAIN, SYNTHETIC_TEST = 2000, 500

FROM_NO_FOLDER = "scikit-learn brings the digits, and no folder is read"

SHAPES = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
}


@dataclasses.dataclass(frozen=True)
class Images:
    """Raw uint8 images `(n, height, width, channels)` and integer labels, in three splits.

    The validation images come from the training set. `source` tells a reader, and the exporter,
    where the test images are from.
    """

    name: str
    class_names: list
    source: dict
    train: tuple
    validation: tuple
    test: tuple

    @property
    def shape(self) -> tuple:
        return self.train[0].shape[1:]

    @property
    def num_components(self) -> int:
        """Singular directions that capsule regression projects images on, as published."""
        return max(32, int(np.prod(self.shape)) // 4)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_synthetic(self) -> bool:
        return self.source["loader"] == "synthetic"

    @property
    def title(self) -> str:
        """Name for people, in every picture and on every last line."""
        return f"synthetic images shaped like {self.name}" if self.is_synthetic else self.name


def load(
    name: str,
    data_dir: str | None = None,
    limit: int | None = None,
    synthetic: bool = False,
    validation_share: float = VALIDATION_SHARE,
) -> Images:
    """Returns the images of a data set by name.

    Args:
        name: One of `SHAPES`.
        data_dir: Folder of the images, as for `sources.read`, or None.
        limit: At most so many images of the training set and of the test set.
        synthetic: Whether to generate images of the same shape instead.
        validation_share: Share of the training images, the last ones, that is for validation.
            Defaults to a tenth.
    """
    if synthetic:
        train, test, class_names, source = _synthetic(SHAPES[name])
    elif name == "digits":
        train, test, class_names, source = sources.digits()
    else:
        train, test, class_names, source = sources.read(name, data_dir)
    for split in (train, test):
        _check(name, *split, len(class_names))
    (images, labels), test = (part[:limit] for part in train), tuple(part[:limit] for part in test)
    cut = len(images) - max(1, round(validation_share * len(images)))
    if cut < 1:
        fail(f"--limit must leave images to train and to validate on. Received: {limit}.")
    return Images(
        name=name,
        class_names=class_names,
        source=source,
        train=(images[:cut], labels[:cut]),
        validation=(images[cut:], labels[cut:]),
        test=test,
    )


def _check(name, images, labels, num_classes):
    """Refuses data that are not those of that name, as those of a folder that was tampered with."""
    shapes = images.shape[1:], labels.shape
    if images.dtype != np.uint8 or shapes != (SHAPES[name], (len(images),)) or not len(images):
        fail(
            f"data set {name!r} must hold images of bytes and of shape {SHAPES[name]}, and a label "
            f"of each. Received: {images.dtype} of shape {images.shape}, labels of {labels.shape}"
        )
    wrong = labels[~np.isin(labels, np.arange(num_classes))]
    if len(wrong):
        fail(
            f"data set {name!r} must hold labels from 0 to {num_classes - 1}. Received: "
            f"{len(wrong)} others, such as {wrong[0]}"
        )


def _synthetic(shape):
    """Returns images of ten smooth random patterns, one a class, each shifted and noisy.

    They are the same in every program, whatever the limit of each: some read those of others.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    blur = (0, shape[0] / 8, shape[1] / 8, 0)
    patterns = gaussian_filter(rng.normal(size=(10, *shape)), blur, mode="wrap")
    patterns /= np.abs(patterns).max((1, 2, 3), keepdims=True)
    splits = []
    for size in (SYNTHETIC_TRAIN, SYNTHETIC_TEST):
        labels = rng.integers(10, size=size)
        shifts = rng.integers(-1, 2, size=(len(labels), 2))
        images = np.stack(
            [np.roll(patterns[y], shift, (0, 1)) for y, shift in zip(labels, shifts, strict=True)]
        )
        images = 127.5 + 100 * images + rng.normal(scale=20, size=images.shape)
        splits.append((images.clip(0, 255).astype("uint8"), labels))
    return *splits, [f"pattern {i}" for i in range(10)], {"loader": "synthetic"}
