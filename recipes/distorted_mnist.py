"""Fits capsule regression by EM to distorted MNIST digits, fresh ones for every few iterations.

The stream of distorted digits is taken in chunks. Each chunk gives `--epochs` iterations of EM,
which go on with the momentum of those before. The model with the lowest validation error, on digits
that are not distorted, is kept.
"""

import csv
import math
import time

import keras
import matplotlib
import numpy as np
import tensorflow as tf

from export.command import fail, non_negative, positive
from harness import checkpoints, run_folder, training
from kcaps.regression import CapsuleRegression, SubspaceProjection
from kcaps.regression.architectures import ARCHITECTURES
from pictures_of import data
from pictures_of.distortions import distorted

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

BATCH_SIZE = 1000  # digits that are distorted at once


def add_arguments(parser):
    parser.add_argument(
        "--capsule-dim", type=positive(int), default=16, help="components of a capsule"
    )
    parser.add_argument(
        "--architecture",
        choices=list(ARCHITECTURES),
        default="all_vs_all",
        help="which classes a capsule tells from which",
    )
    parser.add_argument(
        "--examples", type=positive(int), default=1_000_000, help="distorted digits to train on"
    )
    parser.add_argument(
        "--chunk", type=positive(int), default=50_000, help="digits that are held at once"
    )
    parser.add_argument(
        "--components",
        type=positive(int),
        default=196,
        help="singular directions that images are projected on",
    )
    parser.add_argument("--momentum", type=non_negative, default=0.9, help="of steps of EM")
    parser.add_argument(
        "--rate",
        type=positive(float),
        default=2.0,
        help="factor of each step of EM, which falls to zero with the examples: 1 is plain EM",
    )
    parser.add_argument(
        "--threshold",
        type=non_negative,
        default=0.4,
        help="digits whose second class is at most this times as probable as their own do not pull",
    )
    parser.add_argument(
        "--ridge", type=non_negative, default=0.0, help="precision of a prior on the weights"
    )


def stream(args, images, chunk=0):
    """Batches of distorted training digits, from a chunk on."""
    start = chunk * math.ceil(args.chunk / BATCH_SIZE)
    return distorted(*images.train, args.seed, BATCH_SIZE, start)


def make_model(args, images):
    """A model with its encoder, moments and first weights, from plain and distorted digits."""
    projection = SubspaceProjection(args.components)
    encoder = keras.Sequential([keras.layers.Rescaling(1 / 255), projection], name="encoder")
    model = CapsuleRegression(
        images.num_classes, args.capsule_dim, args.architecture, encoder=encoder
    )
    model.compile(
        metrics=["accuracy"],
        momentum=args.momentum,
        threshold=args.threshold,
        ridge=args.ridge,
        rate=args.rate,
    )
    plain = tf.data.Dataset.from_tensor_slices(images.train).batch(BATCH_SIZE)
    plain = plain.map(lambda x, y: (tf.cast(x, tf.float32), y))
    try:
        model.adapt(
            plain.concatenate(stream(args, images).take(math.ceil(args.chunk / BATCH_SIZE)))
        )
    except ValueError as error:  # few images, and none of some class
        fail(error)
    return model


def train(args, images, model):
    """Trains on the chunks that are left, and returns the rows of the history."""
    done, rows = restore(args.output, model)
    best = min((row["val_error"] for row in rows), default=math.inf)
    seconds = rows[-1]["seconds"] if rows else 0.0
    batches = iter(stream(args, images, done))
    chunks = math.ceil(args.examples / args.chunk)
    for chunk in range(done, chunks):
        started = time.perf_counter()
        model.rate = args.rate * (1 - chunk / chunks)
        parts = [next(batches) for _ in range(math.ceil(args.chunk / BATCH_SIZE))]
        x, y = (np.concatenate(part)[: args.chunk] for part in zip(*parts, strict=True))
        try:
            history = model.fit(x, y, epochs=args.epochs, verbose=0)
        except ValueError as error:  # of steps that overflow
            fail(f"chunk {chunk + 1} of {chunks}: {error} Those before are saved.", code=1)
        seconds += time.perf_counter() - started
        error, loss = measure(model, *images.validation)
        row = {
            "examples": (chunk + 1) * args.chunk,
            "loss": history.history["loss"][-1],
            "val_loss": loss,
            "val_error": error,
            "test_error": measure(model, *images.test)[0],
            "seconds": round(seconds, 1),
        }
        rows.append(row)
        if error < best:
            best = error
            checkpoints.write_model(model, args.output / "model.keras")
        backup(args.output, model, chunk + 1, rows)
        print(
            f"{row['examples']:,} examples: validation error {100 * error:.2f} %, {seconds:.0f} s",
            flush=True,
        )
    return rows


def measure(model, x, y):
    """Share of wrong classes, and negative log-likelihood of the right ones."""
    probabilities = model.predict(x, batch_size=2000, verbose=0)
    right = np.maximum(probabilities[np.arange(len(y)), y], np.finfo("float32").tiny)
    return float(np.mean(probabilities.argmax(-1) != y)), float(-np.mean(np.log(right)))


def backup(output, model, done, rows):
    """Writes what a resumed run goes on from; the weights last, as they say what is done."""
    run_folder.write_csv(output / "history.csv", rows)
    path = output / checkpoints.STATE
    path.parent.mkdir(exist_ok=True)
    kernel = keras.ops.convert_to_numpy(model.competition.kernel)
    checkpoints.write_state(path, done, {"kernel": kernel, "velocity": model.velocity})


def restore(output, model):
    """Gives a model the state after the last chunk; returns how many are done, and their rows."""
    path = output / checkpoints.STATE
    if not path.exists():
        backup(output, model, 0, [])
    done, values = checkpoints.read_state(path)
    model.competition.kernel.assign(values["kernel"])
    model.restart(values["velocity"])
    with open(output / "history.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return done, [row | {"examples": int(row["examples"])} for row in rows[:done]]


def finish(args, images, model, rows):
    """Fills the checkpoint folder with the results of the best model; returns its row."""
    best = min(rows, key=lambda row: row["val_error"])
    model.load_weights(args.output / "model.keras")
    run_folder.write_json(
        args.output / "report.json",
        {
            "test_accuracy": 1 - best["test_error"],
            "test_images": len(images.test[1]),
            "validation_accuracy": 1 - best["val_error"],
            "training_accuracy": 1 - measure(model, *images.train)[0],
            "epochs": len(rows) * args.epochs,
            "examples": rows[-1]["examples"],
            "parameters": int(np.prod(model.competition.kernel.shape)),
            "training_seconds": rows[-1]["seconds"],
            "synthetic": images.source["loader"] == "synthetic",
        },
    )
    return best


def draw_errors(rows, images, path):
    """Errors against the number of distorted digits seen."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    figure.suptitle(f"Capsule regression on distorted digits ({images.title})")
    examples = [row["examples"] for row in rows]
    for key, label in (("test_error", "test"), ("val_error", "validation")):
        axis.plot(examples, [100 * row[key] for row in rows], marker=".", label=label)
    axis.set(xscale="log", xlabel="distorted digits seen", ylabel="error / %")
    if min(row[key] for row in rows for key in ("test_error", "val_error")) > 0:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_distorted(args, images, path, columns=10, versions=4):
    """Training digits above some of their distortions."""
    digits = images.train[0][:columns]
    repeated = np.repeat(digits, versions, axis=0)
    x, sources = next(
        iter(
            distorted(
                repeated, np.repeat(np.arange(len(digits)), versions), args.seed, len(repeated)
            )
        )
    )
    figure, axes = plt.subplots(
        versions + 1,
        len(digits),
        figsize=(len(digits), versions + 1.5),
        layout="constrained",
        squeeze=False,
    )
    figure.suptitle(f"Training digits and their distortions ({images.title})")
    for column, digit in enumerate(digits):
        for axis, image in zip(axes[:, column], [digit, *x[sources == column]], strict=True):
            axis.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel("original")
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    args = training.begin_any(__doc__, epochs=10, add_arguments=add_arguments)
    images = data.load("mnist", args.data_dir, args.limit, args.synthetic, as_published=True)
    if args.momentum >= 1:
        fail(f"--momentum must be below 1, received {args.momentum}")
    if args.components > math.prod(images.shape):
        fail(f"--components must be at most {math.prod(images.shape)}, received {args.components}")
    model = make_model(args, images)
    run_folder.open_folder(args, images)
    print(f"{args.recipe}: {images.title}, {len(images.train[0])} training images", flush=True)
    draw_distorted(args, images, args.output / "distorted.png")
    try:
        rows = train(args, images, model)
    except KeyboardInterrupt:
        if not (args.output / "model.keras").exists():
            checkpoints.write_model(model, args.output / "model.keras")
        fail(f"interrupted; {args.again} goes on after the last chunk", code=130)
    best = finish(args, images, model, rows)
    draw_errors(rows, images, args.output / "error_by_examples.png")
    print(
        f"test accuracy {100 * (1 - best['test_error']):.2f} % on {images.title} "
        f"({best['examples']:,} distorted digits); checkpoint in {args.output}/"
    )
