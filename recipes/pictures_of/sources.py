"""Where images of a name come from: tensorflow-datasets, Keras' files, or scikit-learn.

A source gives arrays of training and of test images with their labels, in the order of the files
in which they were published, the names of the classes, and what `run.json` says of it. The same
name therefore stands for the same images in the same order, wherever they are from.
"""

import concurrent.futures
import contextlib
import importlib.util
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import urllib.error
import urllib.request

import keras
import numpy as np

from export.command import fail, first_line
from export.images import keras_file, read_keras_file, with_axes

Arrays = tuple[np.ndarray, np.ndarray]  # images `(n, height, width, channels)`, and labels `(n,)`
Source = tuple[Arrays, Arrays, list[str], dict]

_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
_CLOTHES += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer")
_THINGS += ("dog", "frog", "horse", "ship", "truck")
CLASS_NAMES = {
    "mnist": list("0123456789"),
    "fashion_mnist": list(_CLOTHES),
    "cifar10": list(_THINGS),
}


def digits() -> Source:
    """Returns scikit-learn's 1,797 handwritten digits; a fifth is held out for the test.

    The split is `train_test_split(…, test_size=0.2, random_state=0, stratify=labels)`, kept as
    numbers in a file: scikit-learn would take longer to import than all else before a training.
    """
    table = np.loadtxt(_file_of_digits(), delimiter=",")  # 64 pixels and the label in a row
    images, labels = table[:, :-1], table[:, -1].astype("int64")
    scale = 255 / 16  # scikit-learn's pixels run from 0 to 16
    images = np.round(images * scale).astype("uint8").reshape(-1, 8, 8, 1)
    split = json.loads(pathlib.Path(__file__).with_name("digits_split.json").read_text())
    train, test = split["train"], split["test"]
    source = {"loader": "scikit-learn", "scale": scale, "test_indices": test}
    splits = [(images[part], labels[part]) for part in (train, test)]
    return *splits, [str(digit) for digit in range(10)], source


def _file_of_digits():
    """Returns the file of scikit-learn that its `load_digits` reads, without importing it."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        path = pathlib.Path(folder, "datasets", "data", "digits.csv.gz")
        if path.exists():
            return path
    raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")


def read(name: str, data_dir: str | None) -> Source:
    """Returns the images of a name in `CLASS_NAMES`; ends the program where they are not at hand.

    They come from `NAME.npz` in the folder, in Keras' own format, where that is. Otherwise
    tensorflow-datasets reads what it has prepared there, or in its own folder, where it downloads
    to; and Keras does so where TensorFlow is not installed.

    Args:
        name: Name of the data set.
        data_dir: A folder, or None.
    """
    if data_dir and os.path.exists(data_dir) and not os.path.isdir(data_dir):
        fail(f"--data-dir must be a folder. Received: {data_dir}, which is a file.")
    if data_dir and (path := keras_file(data_dir, name)).exists():
        return _file(name, path)
    if all(map(importlib.util.find_spec, ("tensorflow", "tensorflow_datasets"))):
        return _in_tensorflow(name, data_dir)
    if data_dir:
        fail(
            f"--data-dir {data_dir} holds no {keras_file(data_dir, name).name}, and what "
            "tensorflow-datasets has prepared cannot be read, for it or TensorFlow is not "
            "installed: give a folder with that file, as Keras' own data sets are written"
        )
    return _keras(name)


def _file(name, path):
    """Returns the images of a file of Keras' format."""
    try:
        train, test = read_keras_file(path)
    except Exception as error:  # damaged files fail in many ways
        fail(f"{path} is not a file of images in Keras' format: {first_line(error)}")
    return train, test, CLASS_NAMES[name], {"loader": "npz", "file": str(path.resolve())}


def _keras(name):
    """Returns images that Keras has in its folder, or downloads."""
    try:
        train, test = with_axes(getattr(keras.datasets, name).load_data())
    except Exception as error:  # its downloader has no base of its errors
        fail(
            f"data set {name!r} could not be downloaded ({first_line(error)}). Ways out: connect "
            f"to the network; give --data-dir with a folder that holds {name}.npz in Keras' own "
            "format; try the recipe with --synthetic; or run python recipes/digits.py, which "
            "needs no download."
        )
    return train, test, CLASS_NAMES[name], {"loader": "keras.datasets"}


def _in_tensorflow(name, data_dir):
    """Returns prepared images, read by a process of its own where Keras is not on TensorFlow.

    A program on another backend would else have TensorFlow beside it, with its memory and threads.
    """
    if keras.backend.backend() == "tensorflow":
        return prepared(name, data_dir)
    process = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, process) as pool:
        return pool.submit(prepared, name, data_dir).result()


def prepared(name: str, data_dir: str | None) -> Source:
    """Returns images that tensorflow-datasets has prepared, or downloads.

    Args:
        name: Name of the data set.
        data_dir: Its folder, or None for its default.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds

    for logger in ("absl", "urllib3"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            _download(builder)
        train, test = (
            _in_published_order(name, builder.as_dataset(split=name, batch_size=-1))
            for name in ("train", "test")
        )
    except Exception as error:  # files that are damaged fail in many ways
        fail(f"data set {name!r} cannot be read from {data_dir or 'the default folder'}: {error!r}")
    source = {"loader": "tensorflow-datasets", "data_dir": data_dir and os.path.abspath(data_dir)}
    # Where they were prepared without a network, the names of the classes are numbers.
    return train, test, CLASS_NAMES[name], source


def _in_published_order(split, examples):
    """Returns images and labels of a split in the order of the published file.

    tensorflow-datasets sorts examples by a hash of their number, which some carry with them.
    """
    from tensorflow_datasets.core.hashing import Hasher

    images, labels = (examples[name].numpy() for name in ("image", "label"))
    if "id" in examples:
        order = np.argsort(examples["id"].numpy())
    else:
        # Sorted, the numbers are the published ones of the prepared images.
        order = np.argsort(sorted(range(len(labels)), key=Hasher(split).hash_key))
    return images[order], labels[order]


def _download(builder):
    url = next(iter(builder.url_infos))
    folder = pathlib.Path(builder.data_dir).parents[1]
    is_new = not folder.exists()
    try:
        # tensorflow-datasets retries for minutes where there is no network: ask once, first.
        request = urllib.request.Request(url, method="HEAD")
        with contextlib.suppress(urllib.error.HTTPError):  # a server that answers is there
            urllib.request.urlopen(request, timeout=20).close()
        builder.download_and_prepare()
    except Exception as error:  # its downloaders and extractors have no common base
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        fail(
            f"data set {builder.name!r} is not prepared in {folder} and could not be downloaded "
            f"from {url} ({error}). Ways out: connect to the network; give --data-dir with a "
            f"folder that tensorflow-datasets has prepared, or that holds {builder.name}.npz in "
            "Keras' own format; try the recipe with --synthetic; or run python recipes/digits.py, "
            "which needs no download."
        )
