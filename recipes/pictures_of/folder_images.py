"""A user's own pictures as the images of a training: three splits, and where they are from."""

import hashlib
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from export.command import fail
from export.images import CALIBRATION_IMAGES
from harness.run_folder import Run
from pictures_of import folder_pixels, folders
from pictures_of.data import Images

_SEED = 0  # of the splits, which are the same whatever the seed of a run


def split(
    found: folders.Folder, validation_share: float, test_share: float
) -> dict[str, tuple[list[pathlib.Path], np.ndarray]]:
    """Returns the files and the labels of the three splits, each in random order.

    What the folder has no split of is cut from the training pictures, with equal shares of each
    class. Ends the program where a class has too few pictures for that.

    Args:
        found: The folder.
        validation_share: Share of the pictures for validation.
        test_share: Share of the pictures for the test.
    """
    result = {}
    for name, classes in found.splits.items():
        paths = [path for files in classes.values() for path in files]
        labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
        order = np.random.default_rng(_SEED).permutation(len(paths))
        result[name] = [paths[place] for place in order], labels[order]
    total = len(result["train"][0])
    for name, share in (("test", test_share), ("validation", validation_share)):
        if name not in result:
            # Both are shares of all pictures, of which the second has fewer to choose from.
            left = len(result["train"][0])
            result["train"], result[name] = _cut(found, result["train"], name, share * total / left)
    _check_each_class(found, result)
    return result


def _cut(found, examples, name, share):
    """Returns files and labels in two parts, the second of which has that share of each class."""
    from sklearn.model_selection import train_test_split

    paths, labels = examples
    try:
        parts = train_test_split(
            *(np.arange(len(paths)), labels), test_size=share, random_state=_SEED, stratify=labels
        )
    except ValueError:  # A class has one picture, or a part has fewer pictures than classes.
        counts = np.bincount(labels, minlength=len(found.class_names))
        _too_small(found, int(counts.argmin()), name)
    kept, cut, kept_labels, cut_labels = parts
    return ([paths[i] for i in kept], kept_labels), ([paths[i] for i in cut], cut_labels)


def _check_each_class(found, splits):
    for name, (_, labels) in splits.items():
        counts = np.bincount(labels, minlength=len(found.class_names))
        if not counts.all():
            _too_small(found, int(counts.argmin()), name)


def _too_small(found, number, split):
    """Ends the program for a class that is too small to be in a split."""
    name = found.class_names[number]
    count = len(found.splits["train"][name])
    what = {
        "train": "which leaves none to train on: add some, or give smaller shares",
        "validation": "too few to validate on one of them: add some, or give a larger "
        "--validation-share",
        "test": "too few to test on one of them: add some, or give a larger --test-share",
    }
    fail(f"class {name!r} of {found.path} has {count} pictures, {what[split]}")


def load(asked) -> Images:
    """Returns the images of a folder; ends the program where they cannot be trained on.

    Args:
        asked: `harness.folder_settings.FolderSettings`.
    """
    found = folders.find(asked.folder)
    splits = split(found, asked.validation_share, asked.test_share)
    paths = [path for files, _ in splits.values() for path in files]
    print(f"reading {len(paths):,} pictures of {len(found.class_names)} classes", flush=True)
    shapes = folder_pixels.headers(found, paths)
    channels = asked.channels or folder_pixels.channels_of(found, paths, shapes)
    size = asked.size or folder_pixels.size_of(shapes, asked.backbone is not None)
    _tell_size(shapes, size, channels, asked.fit)
    arrays = {
        name: (folder_pixels.read(found, files, size, channels, asked.fit), labels)
        for name, (files, labels) in _limited(splits, asked.limit).items()
    }
    return Images(
        name=found.name,
        class_names=found.class_names,
        source=_source(found, splits, arrays, asked.fit),
        **arrays,
    )


def _limited(splits, limit):
    """Returns splits of which those for training and validation together, and the test, are few."""
    if limit is None:
        return splits
    few = {"test": limit, "validation": max(1, round(limit * 0.15))}
    few["train"] = limit - few["validation"]
    if few["train"] < 1:
        fail(f"--limit must leave images to train and to validate on. Received: {limit}.")
    return {name: (x[: few[name]], y[: few[name]]) for name, (x, y) in splits.items()}


def _tell_size(shapes, size, channels, fit):
    """Prints what becomes of the pictures."""
    smallest, largest = min(shapes), max(shapes)
    sizes = f"{smallest[0]} × {smallest[1]}"
    if smallest[:2] != largest[:2]:
        sizes += f" to {largest[0]} × {largest[1]}"
    is_same = {shape[:2] for shape in shapes} == {tuple(size)}
    how = "as they are" if is_same else {"stretch": "stretched", "crop": "cropped"}.get(fit, fit)
    print(f"pictures of {sizes} pixels become {size[0]} × {size[1]} × {channels}, {how}")


def _source(found, splits, arrays, fit):
    """Returns what `run.json` says of the images; the exporter reads the test pictures by it."""
    test, labels = arrays["test"]
    files = zip(splits["test"][0], labels.tolist(), strict=False)
    training = splits["train"][0][: len(arrays["train"][0])]
    return {
        "loader": "folder",
        "folder": str(found.path.resolve()),
        "fit": fit,
        "image_size": list(test.shape[1:3]),
        "channels": test.shape[3],
        "test_files": [[found.relative(path), label] for path, label in files],
        "calibration_files": [found.relative(path) for path in training[:CALIBRATION_IMAGES]],
        "test_sha256": _hash([test]),
        "sha256": _hash(arrays[name][part] for name in sorted(arrays) for part in (0, 1)),
    }


def _hash(arrays: Sequence[np.ndarray]) -> str:
    """Returns the SHA-256 of the bytes of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()


def check_same(run: Run, images: Images) -> None:
    """Refuses to go on with a run that began with other images.

    Args:
        run: The run, whose folder has been checked.
        images: Images of the folder as it is now.
    """
    path = run.output / "run.json"
    if not run.resume or not path.exists():
        return
    before = json.loads(path.read_text())
    data = before.get("data", {})
    if before.get("labels") != images.class_names or data.get("sha256") != images.source["sha256"]:
        fail(
            f"--resume needs the pictures of the run in {run.output}: those of "
            f"{images.source['folder']} are others than then. Begin anew (--overwrite)"
        )
