"""Iterations of dynamic routing in a trained network: measures of each, and a picture."""

import dataclasses
import pathlib
from collections.abc import Sequence

import keras
import numpy as np

from export import checkpoint
from export.command import fail, left_out, positive
from harness import plots, settings, tables
from harness.settings import option
from kcaps.diagnostics import trace_routing
from kcaps.routing import DynamicRouting
from pictures_of import data
from reproduction.pictures import save

BATCH = 50  # the diagnostics hold all couplings of a batch
SHOWN = (1, 2, 3, 5, 10, 20, 30, 50)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of `routing_iterations.py`."""

    model: pathlib.Path = option(
        pathlib.Path("ckpt/"), "checkpoint of a network with dynamic routing", type=pathlib.Path
    )
    iterations: int = option(50, "at most, of routing", type=positive(int))
    images: int = option(1000, "how many test images", type=positive(int))
    data_dir: str | None = option(
        None, "folder of the images, as for the recipe that trained", metavar="FOLDER"
    )


def load(asked: Settings) -> tuple[keras.Model, data.Images]:
    """Returns a checkpoint's network and its images; ends the program where they do not serve."""
    try:
        loaded = checkpoint.load(asked.model)
    except ValueError as error:
        fail(error)
    layer = getattr(loaded.model, "class_layer", None)
    if layer is None:
        fail(f"{asked.model} holds a {type(loaded.model).__name__} without class capsules")
    if not isinstance(layer.routing, DynamicRouting):
        fail(f"{asked.model} was trained with {type(layer.routing).__name__}, not dynamic routing")
    if asked.iterations < layer.routing.num_iterations:
        fail(f"--iterations must be at least the {layer.routing.num_iterations} of {asked.model}")
    source = loaded.run["data"]
    name, shape = source.get("name"), tuple(loaded.model.input.shape[1:])
    if not isinstance(name, str) or data.SHAPES.get(name) != shape:
        fail(f"{asked.model} takes images of {shape}, which are not those of the data {name!r:.80}")
    is_synthetic = source["loader"] == "synthetic"
    if asked.data_dir and (name == "digits" or is_synthetic):
        title = source.get("title", name)
        reason = f"{asked.model} was trained on {title}, which come from no folder"
        fail(left_out("--data-dir", asked.data_dir, reason))
    return loaded.model, data.load(name, asked.data_dir, None, is_synthetic)


def measure(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, num_iterations: int
) -> list[dict]:
    """Returns rows of the table, one for each number of iterations up to the largest.

    The images are `(n, height, width, channels)`, and their labels `(n,)`.
    """
    layer = model.class_layer
    network = keras.Model(model.input, layer.input)
    capsules = network.predict(images, batch_size=BATCH, verbose=0)
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
            "accuracy": np.mean(classes[n] == labels),
        }
        for n in range(num_iterations)
    ]


def draw(rows: Sequence[dict], trained: int, title: str, path: pathlib.Path) -> None:
    """Draws the measures against the number of iterations, with that of the training marked."""
    iterations = [row["iterations"] for row in rows]
    title = f"Iterations of dynamic routing, {title}"
    figure, (left, right) = plots.panels(title, columns=2, size=(10, 3.8))
    for name in ("polarisation", "class_agreement", "accuracy"):
        left.plot(iterations, [row[name] for row in rows], label=name.replace("_", " "))
    entropy = np.array([row["entropy"] for row in rows])
    left.plot(iterations, entropy / entropy[0], label="coupling entropy / ln J")
    left.set(ylabel="share", ylim=(0, 1.02))
    right.plot(iterations, [row["objective"] for row in rows], label="objective Ψ")
    for axis in (left, right):
        axis.axvline(trained, color="gray", linestyle=":", label="as trained")
        axis.set(xlabel="iterations")
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
