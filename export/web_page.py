"""What a page tells of its model: names, test images, ranges of sliders, and how drawings look."""

import dataclasses
import json
import pathlib
import shutil
from typing import TYPE_CHECKING

import numpy as np

from export import browser, web_runtime
from export.about import About
from export.checkpoint import Checkpoint
from export.commit import commit
from export.images import Images
from export.overlapping import RECIPE

if TYPE_CHECKING:
    from export.pipeline import Job

SOURCES = pathlib.Path(__file__).parent / "page"
_SOURCES = ("index.html", "page.js", "style.css", "runtime-licence.txt")
PICTURES = 20  # test images on a page
STUDIED = 500  # test images whose capsules and whose look are studied
_DTYPES = ("float32", "float64", "uint8", "int8", "uint16", "int16", "int32")
_DEVIATIONS = 2.5  # of a component, from its mean to both ends of its slider
_INK = 25  # bytes beyond the background from which on a pixel belongs to the object


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The test images of a page.

    Args:
        pixels: Bytes `(n, height, width, channels)`.
        labels: The classes of each, a list of lists, or None.
        is_random: Whether they are random pixels, which nobody wants to see.
    """

    pixels: np.ndarray
    labels: list[list[int]] | None
    is_random: bool


def check_image(image) -> None:
    """Raises a `ValueError` for a model whose input is no picture that a browser can draw."""
    shape = tuple(image.shape[1:])
    if len(shape) != 3 or shape[2] not in (1, 3) or image.dtype not in _DTYPES:
        raise ValueError(
            "`model` must take pictures, height × width × 1 or 3 channels, for a page. "
            f"Received: shape {shape}, dtype {image.dtype}."
        )


def objects_in(checkpoint: Checkpoint | None) -> int:
    """Returns how many classes are in a picture of the data set of a checkpoint."""
    return 2 if checkpoint is not None and checkpoint.run.get("recipe") == RECIPE else 1


def in_bytes(values: np.ndarray, about: About) -> np.ndarray:
    """Returns images in the unit of a model's input as pixels from 0 to 255."""
    low, high = about.input_range
    pixels = (np.asarray(values, "float64") - low) * (255 / (high - low))
    return np.clip(np.round(pixels), 0, 255).astype("uint8")


def pictures_of(images: Images, about: About) -> Pictures:
    """Chooses test images for a page: of all classes in turn, as far as they are known."""
    labels, parts = images.labels, images.parts
    order = np.arange(len(images.test))
    if labels is not None:
        turns = np.zeros(len(labels), int)  # how many images of its class come before each
        for label in np.unique(labels):
            turns[labels == label] = np.arange(np.sum(labels == label))
        order = np.lexsort((labels, turns))
    chosen = order[:PICTURES]
    if parts is None and labels is not None:
        parts = np.asarray(labels)[:, np.newaxis]
    names = None if parts is None else np.asarray(parts)[chosen].tolist()
    return Pictures(in_bytes(images.test[chosen], about), names, images.is_random)


def spread(poses: np.ndarray, winners: np.ndarray) -> dict:
    """Returns the range of each component of each class capsule, for its slider.

    That is its mean, less and plus some deviations, over the images in which the class was found;
    of a class that was found in fewer than two of them, over all images.

    Args:
        poses: Array `(n, classes, components)`.
        winners: Integers `(n, objects)`, the classes that were found in each image.

    Returns:
        A dict of `low` and `high`, lists of a list for each class.
    """
    ranges = []
    for number in range(poses.shape[1]):
        is_found = np.any(winners == number, axis=1)
        values = poses[is_found if np.sum(is_found) > 1 else slice(None), number]
        middle, reach = values.mean(0), np.maximum(_DEVIATIONS * values.std(0), 0.05)
        ranges.append((middle - reach, middle + reach))
    low, high = np.round(np.array(ranges, "float64"), 4).transpose(1, 0, 2).tolist()
    return {"low": low, "high": high}


def drawing(pixels: np.ndarray | None, shape: tuple, objects: int) -> dict:
    """Returns how a drawing comes to look like the images of a data set.

    Args:
        pixels: Bytes `(n, height, width, 1)` of its images, or None where there are none.
        shape: Height and width of an image.
        objects: Number of objects in an image.

    Returns:
        A dict: `background`, 0 or 255; `pen`, the width of a line in pixels; `box`, the longer side
        of an object, or None where drawings are taken as they are; `centre`, of it or of its mass,
        as row and column; `centred_by`, `"mass"` or `"box"`, whichever is the same in more images.
    """
    size = max(shape)
    if pixels is None:
        return {"background": 0, "pen": round(size / 12, 2), "box": None}
    border = np.concatenate([pixels[:, 0].ravel(), pixels[:, -1].ravel()])
    background = 255 if np.median(border) > 127 else 0
    ink = np.abs(pixels[..., 0].astype("float64") - background)
    ink = ink[ink.max((1, 2)) > _INK]
    if not len(ink):
        return {"background": background, "pen": round(size / 12, 2), "box": None}
    found = {
        "background": background,
        "pen": round(float(np.clip(_line_width(ink), size / 40, size / 6)), 2),
    }
    if objects > 1:  # whose boxes are not those of one
        return {**found, "box": None}
    sides, boxes, masses = _places(ink)
    centred_by = "mass" if masses.std(0).sum() <= boxes.std(0).sum() else "box"
    centre = np.median(masses if centred_by == "mass" else boxes, axis=0)
    return {
        **found,
        "box": round(float(np.median(sides)), 2),
        "centre": np.round(centre, 2).tolist(),
        "centred_by": centred_by,
    }


def _line_width(ink):
    """Returns the width of the lines in images: twice their area for the length of their edges.

    A line of length l and width w has the area l w and edges of the length 2 l. The length of edges
    is the total variation, for images of values from 0 to 1.
    """
    padded = np.pad(ink / ink.max((1, 2), keepdims=True), ((0, 0), (1, 1), (1, 1)))
    down, across = np.diff(padded, axis=1)[:, :, :-1], np.diff(padded, axis=2)[:, :-1]
    edges = np.sqrt(down**2 + across**2).sum((1, 2))
    return np.median(2 * padded.sum((1, 2)) / edges)


def _places(ink):
    """Returns the longer sides of the objects in images, and the centres of boxes and masses."""
    sides, boxes, masses = [], [], []
    for image in ink:
        rows, columns = (np.flatnonzero((image > _INK).any(axis)) for axis in (1, 0))
        ends = [(x[0], x[-1] + 1) for x in (rows, columns)]
        sides.append(max(high - low for low, high in ends))
        boxes.append([(low + high) / 2 for low, high in ends])
        places = [np.arange(length) + 0.5 for length in image.shape]
        along = [image.sum(1), image.sum(0)]
        masses.append([np.average(x, weights=w) for x, w in zip(places, along, strict=True)])
    return np.array(sides), np.array(boxes), np.array(masses)


def accuracy_of(checkpoint: Checkpoint | None) -> float | None:
    """Returns the test accuracy that the run of a checkpoint reported, or None."""
    if checkpoint is None or checkpoint.file is not None:
        return None
    try:
        report = json.loads((checkpoint.folder / "report.json").read_text(encoding="utf-8"))
        accuracy = report.get("test_accuracy")
    except (OSError, ValueError, RecursionError, AttributeError):  # not there, or damaged
        return None
    return accuracy if type(accuracy) is float and 0 <= accuracy <= 1 else None


def facts(job: "Job", accuracy: float | None, sha256: str) -> list[list[str]]:
    """Returns what a reader may want to know of a model: pairs of a name and a text.

    Args:
        job: The export.
        accuracy: Share of the test images that it gets right, or None.
        sha256: Hash of the ONNX file.
    """
    import kcaps

    run = job.checkpoint.run if job.checkpoint else {}
    made_at, trained_at = commit(), run.get("commit")
    pairs = {
        "Recipe": run.get("recipe"),
        "Data": run.get("data", {}).get("title"),
        "Trained at commit": trained_at if isinstance(trained_at, str) else None,
        "Test accuracy": None if accuracy is None else f"{100 * accuracy:.2f} %",
        "Compared with Keras on": str(job.test_images),
        "kcaps": f"{kcaps.__version__}{f', commit {made_at}' if made_at else ''}",
        "SHA-256 of model.onnx": sha256,
        "Runtime": f"{web_runtime.PACKAGE} {web_runtime.VERSION}",
    }
    return [[name, value] for name, value in pairs.items() if value]


def is_page(folder: pathlib.Path) -> bool:
    """Tells whether a folder is a page, which may be replaced."""
    return all((folder / name).is_file() for name in (*_SOURCES, "about.json"))


def copy_sources(folder: pathlib.Path, runtime: pathlib.Path | str | None) -> None:
    """Copies the document, its script and its style sheet, for a runtime as `export.web` has it."""
    for name in _SOURCES:
        shutil.copyfile(SOURCES / name, folder / name)
    document = folder / "index.html"
    text = web_runtime.in_document(document.read_text(encoding="utf-8"), runtime)
    document.write_text(text, encoding="utf-8")


def write(folder: pathlib.Path, about: dict, pictures: Pictures) -> None:
    """Writes the files in which the page reads what it is about."""
    text = json.dumps(about, ensure_ascii=False)
    (folder / "about.json").write_text(text, encoding="utf-8")
    (folder / "images.bin").write_bytes(pictures.pixels.tobytes())


def answers(folder: pathlib.Path, program: str, count: int) -> tuple[str, list[dict]]:
    """Opens a page in a browser; returns the browser's version and what the page computes.

    Args:
        folder: The page.
        program: Path of the browser.
        count: Number of the page's test images.

    Raises:
        BrowserError, PageError: if the browser or the page fails.
    """
    module = 'import("./page.js")'
    with browser.served(folder) as address, browser.started(program) as page:
        page.open(address)
        page.evaluate(f"{module}.then((x) => x.ready)")
        found = [page.evaluate(f"{module}.then((x) => x.check({i}))") for i in range(count)]
        return page.version, found
