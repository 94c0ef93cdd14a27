"""Iterations of dynamic routing in trained networks: measures of each, and a picture."""

import dataclasses
import pathlib
from collections.abc import Sequence

import keras
import numpy as np

from export import checkpoint
from export.command import fail, left_out, positive
from harness import measurements, plots, settings, tables
from harness.settings import MEASUREMENTS, option
from kcaps.diagnostics import trace_routing
from kcaps.routing import DynamicRouting
from pictures_of import data
from reproduction.summary import DEVIATION, spread

BATCH = 500  # the diagnostics hold all couplings of a batch
SHOWN = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000, 2000)
MEASURES = ("objective", "entropy", "polarisation", "class_agreement", "accuracy")
UNITS = dict.fromkeys(MEASURES, "") | {"class_agreement": "%", "accuracy": "%"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of `routing_iterations.py`."""

    model: list[pathlib.Path] = option(
        (pathlib.Path("ckpt/"),),
        "checkpoints of networks with dynamic routing, from several seeds: the results, with "
        "means of the networks, are in the folder of the first",
        type=pathlib.Path,
        nargs="+",
    )
    iterations: int = option(50, "at most, of routing", type=positive(int))
    images: int = option(1000, "how many test images", type=positive(int))
    data_dir: str | None = option(
        None, "folder of the images, as for the recipe that trained", metavar="FOLDER"
    )
    measurements: pathlib.Path | None = MEASUREMENTS


def load(asked: Settings) -> tuple[list[keras.Model], data.Images]:
    """Returns the networks of the checkpoints, and their images.

    Ends the program where they do not serve, or do not belong together.
    """
    models, sources = zip(*(_load(asked, path) for path in asked.model), strict=True)
    alike = [
        (source, model.class_layer.routing.num_iterations)
        for model, source in zip(models, sources, strict=True)
    ]
    for path, found in zip(asked.model, alike, strict=True):
        if found != alike[0]:
            fail(
                f"{path} must have the data and the iterations of {asked.model[0]}, "
                f"{alike[0][0][0]} and {alike[0][1]}. Received: {found[0][0]} and {found[1]}"
            )
    name, is_synthetic = sources[0]
    return list(models), data.load(name, asked.data_dir, None, is_synthetic)


def _load(asked, path):
    """Returns the network of a checkpoint, and the name of its data and whether it is synthetic."""
    try:
        loaded = checkpoint.load(path)
    except ValueError as error:
        fail(error)
    layer = getattr(loaded.model, "class_layer", None)
    if layer is None:
        fail(f"{path} holds a {type(loaded.model).__name__} without class capsules")
    if not isinstance(layer.routing, DynamicRouting):
        fail(f"{path} was trained with {type(layer.routing).__name__}, not dynamic routing")
    if asked.iterations < layer.routing.num_iterations:
        fail(f"--iterations must be at least the {layer.routing.num_iterations} of {path}")
    source = loaded.run["data"]
    name, shape = source.get("name"), tuple(loaded.model.input.shape[1:])
    if not isinstance(name, str) or data.SHAPES.get(name) != shape:
        fail(f"{path} takes images of {shape}, which are not those of the data {name!r:.80}")
    is_synthetic = source["loader"] == "synthetic"
    if asked.data_dir and (name == "digits" or is_synthetic):
        title = source.get("title", name)
        reason = f"{path} was trained on {title}, which come from no folder"
        fail(left_out("--data-dir", asked.data_dir, reason))
    return loaded.model, (name, is_synthetic)


def summarise(tables_of_models: Sequence[list[dict]]) -> list[dict]:
    """Returns the rows with means and standard deviations over several networks."""
    return [_summary(rows) for rows in zip(*tables_of_models, strict=True)]


def _summary(rows):
    summary = {"iterations": rows[0]["iterations"]}
    for name in MEASURES:
        summary |= spread(name, [row[name] for row in rows])
    return {name: value for name, value in summary.items() if value != ""}


def measured(
    models: list[keras.Model], images: data.Images, rows: list[dict], source: dict[str, str]
) -> list[dict]:
    """Returns the numbers of the iterations that are shown as measurements.

    Args:
        models: The networks.
        images: Their images.
        rows: What `summarise` returned.
        source: What `harness.provenance.here` returned.
    """
    common = {
        "item": "iterations",
        "data": images.name,
        "method": f"dynamic, {models[0].class_layer.input.shape[1]:,} input capsules",
        "seeds": len(models),
    }
    found = []
    for row in _shown(rows):
        values = {name: _in_unit(name.removesuffix(DEVIATION), x) for name, x in row.items()}
        setting = {"setting": str(row["iterations"])}
        found += measurements.of_summary(values | source, UNITS, DEVIATION, **common | setting)
    return found


def _in_unit(name, value):
    return 100 * value if UNITS.get(name) == "%" else value


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
        axis.set(xlabel="iterations", xscale="log" if len(rows) > 100 else "linear")
        axis.legend()
    plots.write(figure, path)


def markdown(rows: Sequence[dict]) -> str:
    """Returns the rows of some numbers of iterations, and the last one, as a table."""
    return tables.markdown([_cells(row) for row in _shown(rows)])


def _shown(rows):
    return [row for row in rows if row["iterations"] in (*SHOWN, len(rows))]


def _cells(row):
    spreads = {
        name: f" ± {row[name + DEVIATION]:.4f}" for name in MEASURES if name + DEVIATION in row
    }
    cells = {name.replace("_", " "): f"{row[name]:.4f}{spreads.get(name, '')}" for name in MEASURES}
    return {"iterations": str(row["iterations"])} | cells
