"""Shows what more iterations of dynamic routing do to a trained network: table and picture."""

import csv
import pathlib

from export.command import Parser, fail, left_out, positive, quiet_tensorflow, required
from pictures_of import data

with required(), quiet_tensorflow(is_program=__name__ == "__main__"):
    import tensorflow  # noqa: F401

with required():
    import keras
    import matplotlib
    import numpy as np

    from export import checkpoint
    from kcaps.diagnostics import trace_routing
    from kcaps.routing import DynamicRouting

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

BATCH = 50  # the diagnostics hold all couplings of a batch
SHOWN = (1, 2, 3, 5, 10, 20, 30, 50)


def measure(layer, capsules, labels, num_iterations):
    """Rows of the table: one for each number of iterations."""
    config = {**layer.routing.get_config(), "num_iterations": num_iterations, "tolerance": None}
    longer = DynamicRouting.from_config(config)
    traces, batches = [], range(0, len(capsules), BATCH)
    progress = keras.utils.Progbar(len(batches), unit_name="batch")
    for start in batches:
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


def draw(rows, trained, title, path):
    iterations = [row["iterations"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    figure.suptitle(f"Iterations of dynamic routing, {title}")
    for name in ("polarisation", "class_agreement", "accuracy"):
        left.plot(iterations, [row[name] for row in rows], label=name.replace("_", " "))
    entropy = np.array([row["entropy"] for row in rows])
    left.plot(iterations, entropy / entropy[0], label="coupling entropy / ln J")
    left.set(ylabel="share", ylim=(0, 1.02))
    right.plot(iterations, [row["objective"] for row in rows], label="objective Ψ")
    for axis in (left, right):
        axis.axvline(trained, color="gray", linestyle=":", label="as trained")
        axis.set(xlabel="iterations")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


parser = Parser(__doc__)
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
args = parser.parse_args()
try:
    loaded = checkpoint.load(args.model)
except ValueError as error:
    fail(error)
layer = getattr(loaded.model, "class_layer", None)
if layer is None:
    fail(f"{args.model} holds a {type(loaded.model).__name__} without class capsules")
if not isinstance(layer.routing, DynamicRouting):
    fail(f"{args.model} was trained with {type(layer.routing).__name__}, not dynamic routing")
if args.iterations < layer.routing.num_iterations:
    fail(f"--iterations must be at least the {layer.routing.num_iterations} of {args.model}")
source = loaded.run["data"]
name, shape = source.get("name"), tuple(loaded.model.input.shape[1:])
if not isinstance(name, str) or data.SHAPES.get(name) != shape:
    fail(f"{args.model} takes images of {shape}, which are not those of the data {name!r:.80}")
if args.data_dir and (name == "digits" or source["loader"] == "synthetic"):
    reason = f"{args.model} was trained on {source.get('title', name)}, which come from no folder"
    fail(left_out("--data-dir", args.data_dir, reason))
images = data.load(name, args.data_dir, None, source["loader"] == "synthetic")
test_images, labels = (part[: args.images] for part in images.test)
network = keras.Model(loaded.model.input, layer.input)
capsules = network.predict(test_images, batch_size=BATCH, verbose=0)
rows = measure(layer, capsules, labels, args.iterations)

with open(args.model / "routing_iterations.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
picture = args.model / "routing_iterations.png"
draw(rows, layer.routing.num_iterations, images.title, picture)
print("| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |")
print("|" + "---|" * len(rows[0]))
for row in rows:
    if row["iterations"] in (*SHOWN, args.iterations):
        first, *others = row.values()
        print(f"| {first} | " + " | ".join(f"{value:.4f}" for value in others) + " |")
print(f"{len(labels)} test images of {images.title}; {picture} and routing_iterations.csv written")
