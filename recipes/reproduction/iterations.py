"""Iterations of dynamic routing in a trained network: measures of each, and a picture."""

import dataclasses
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
from matplotlib import pyplot as plt

from export import checkpoint
from export.command import Parser, fail, left_out, positive
from harness import tables
from kcaps.diagnostics import trace_routing
from kcaps.layers import DigitCaps
from kcaps.routing import DynamicRouting
from pictures_of import data
from reproduction.pictures import save

BATCH = 50  # the diagnostics hold all couplings of a batch
SHOWN = (1, 2, 3, 5, 10, 20, 30, 50)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of `routing_iterations.py`; its options have the names of the fields."""

    model: pathlib.Path
    iterations: int
    images: int
    data_dir: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A layer of class capsules, and capsules `(n, ...)` that it routes, of images with labels."""

    layer: DigitCaps
    capsules: np.ndarray
    labels: np.ndarray
    title: str


def read_settings(description: str) -> Settings:
    """Returns what the command line asks for."""
    parser = Parser(description)
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        default="ckpt/",
        help="checkpoint of a network with dynamic routing",
    )
    parser.add_argument("--iterations", type=positive(int), default=50, help="at most, of routing")
    parser.add_argument("--images", type=positive(int), default=1000, help="how many test images")
    parser.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="folder that tensorflow-datasets has prepared (default: its own)",
    )
    return Settings(**vars(parser.parse_args()))


def load(settings: Settings) -> Subject:
    """Returns the class capsules of a checkpoint; ends the program where it has no such routing."""
    folder = settings.model
    try:
        loaded = checkpoint.load(folder)
    except ValueError as error:
        fail(error)
    layer = getattr(loaded.model, "class_layer", None)
    if layer is None:
        fail(f"{folder} holds a {type(loaded.model).__name__} without class capsules")
    if not isinstance(layer.routing, DynamicRouting):
        fail(f"{folder} was trained with {type(layer.routing).__name__}, not dynamic routing")
    if settings.iterations < layer.routing.num_iterations:
        fail(f"--iterations must be at least the {layer.routing.num_iterations} of {folder}")
    images = _images(loaded, settings)
    test_images, labels = (part[: settings.images] for part in images.test)
    network = keras.Model(loaded.model.input, layer.input)
    capsules = network.predict(test_images, batch_size=BATCH, verbose=0)
    return Subject(layer=layer, capsules=capsules, labels=labels, title=images.title)


def _images(loaded, settings):
    """Returns the images that a checkpoint was trained and tested on."""
    source, folder = loaded.run["data"], settings.model
    name, shape = source.get("name"), tuple(loaded.model.input.shape[1:])
    if not isinstance(name, str) or data.SHAPES.get(name) != shape:
        fail(f"{folder} takes images of {shape}, which are not those of the data {name!r:.80}")
    is_synthetic = source["loader"] == "synthetic"
    if settings.data_dir and (name == "digits" or is_synthetic):
        reason = f"{folder} was trained on {source.get('title', name)}, which come from no folder"
        fail(left_out("--data-dir", settings.data_dir, reason))
    return data.load(name, settings.data_dir, None, is_synthetic)


def measure(subject: Subject, num_iterations: int) -> list[dict]:
    """Returns rows of the table, one for each number of iterations from 1 on."""
    layer, capsules = subject.layer, subject.capsules
    config = {**layer.routing.get_config(), "num_iterations": num_iterations, "tolerance": None}
    longer = DynamicRouting.from_config(config)
    traces, starts = [], range(0, len(capsules), BATCH)
    progress = keras.utils.Progbar(len(starts), unit_name="batch")
    for start in starts:
        batch = capsules[start : start + BATCH]
        traces.append((len(batch), trace_routing(layer, batch, longer)))
        progress.add(1)
    mean = {
        name: sum(size * trace[name] for size, trace in traces) / len(capsules)
        for name in ("objective", "entropy", "polarisation")
    }
    classes = np.concatenate([trace["lengths"].argmax(-1) for _, trace in traces], axis=1)
    trained = layer.routing.num_iterations
    return [
        {
            "iterations": n + 1,
            **{name: values[n] for name, values in mean.items()},
            "class_agreement": np.mean(classes[n] == classes[trained - 1]),
            "accuracy": np.mean(classes[n] == subject.labels),
        }
        for n in range(num_iterations)
    ]


def draw(rows: Sequence[dict], subject: Subject, path: pathlib.Path) -> None:
    """Draws the measures against the number of iterations."""
    iterations = [row["iterations"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    figure.suptitle(f"Iterations of dynamic routing, {subject.title}")
    for name in ("polarisation", "class_agreement", "accuracy"):
        left.plot(iterations, [row[name] for row in rows], label=name.replace("_", " "))
    entropy = np.array([row["entropy"] for row in rows])
    left.plot(iterations, entropy / entropy[0], label="coupling entropy / ln J")
    left.set(ylabel="share", ylim=(0, 1.02))
    right.plot(iterations, [row["objective"] for row in rows], label="objective Ψ")
    for axis in (left, right):
        trained = subject.layer.routing.num_iterations
        axis.axvline(trained, color="gray", linestyle=":", label="as trained")
        axis.set(xlabel="iterations")
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, path)


def markdown(rows: Sequence[dict]) -> str:
    """Returns the rows of some numbers of iterations, and the last one, as a table."""
    shown = [row for row in rows if row["iterations"] in (*SHOWN, len(rows))]
    return tables.markdown(
        [
            {
                name.replace("_", " "): str(value) if name == "iterations" else f"{value:.4f}"
                for name, value in row.items()
            }
            for row in shown
        ]
    )
