"""A user's own pictures as the images of a training: three splits, and where they are from."""

import hashlib
import json
import pathlib
from collections.abc import Sequence

import keras
import numpy as np

from export.command import fail
from export.images import CALIBRATION_IMAGES
from harness import run_folder
from harness.run_folder import Run
from pictures_of import folder_pixels, folders
from pictures_of.data import Images

FILE = "images.npz"  # in a checkpoint folder
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
    splits = _limited(split(found, asked.validation_share, asked.test_share), asked.limit)
    paths = [path for files, _ in splits.values() for path in files]
    print(f"reading {len(paths):,} pictures of {len(found.class_names)} classes", flush=True)
    shapes = folder_pixels.headers(found, paths)
    channels = asked.channels or folder_pixels.channels_of(found, paths, shapes)
    size = asked.size or folder_pixels.size_of(shapes, asked.backbone is not None)
    _tell_size(shapes, size, channels, asked.fit)
    pixels, arrays = folder_pixels.read(found, paths, size, channels, asked.fit), {}
    for name, (files, labels) in splits.items():
        arrays[name], pixels = (pixels[: len(files)], labels), pixels[len(files) :]
    return Images(
        name=found.name,
        class_names=found.class_names,
        source=_source(found, arrays, asked.fit),
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


def _source(found, arrays, fit):
    """Returns what `run.json` says of the images; the exporter reads the test pictures by it."""
    shape = arrays["test"][0].shape
    return {
        "loader": "npz",
        "file": FILE,
        "folder": str(found.path.resolve()),
        "fit": fit,
        "image_size": list(shape[1:3]),
        "channels": shape[3],
        "sha256": _hash([arrays[name][part] for name in sorted(arrays) for part in (0, 1)]),
    }


def keep(run: Run, images: Images, model: keras.Model) -> None:
    """Writes the test images of a run into its folder, for whoever checks its model later.

    With them are some training images, for exports of low precision. The folder of pictures may
    then change or be elsewhere.

    Args:
        run: The run, which begins or goes on.
        images: Its images.
        model: Its compiled model.
    """
    if run_folder.epochs_done(run.output) and not run.overwrite:
        run_folder.check_same_model(run.output, model)
    # Whatever else is in a folder without run.json, no run would begin in it.
    run_folder.open_folder(run, images)
    arrays = {}
    for split, count in (("train", CALIBRATION_IMAGES), ("test", None)):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = (x[:count] for x in getattr(images, split))
    path = run.output / FILE
    aside = path.with_name(f"part-{FILE}")
    try:
        np.savez_compressed(aside, **arrays)
        aside.replace(path)
    except OSError as error:
        fail(f"--output {run.output} cannot be written: {error.strerror}")
    finally:
        aside.unlink(missing_ok=True)


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
