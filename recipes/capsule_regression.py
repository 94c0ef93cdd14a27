"""Fits capsule regression by EM, as published: subspace, rounds of thresholds, momentum."""

import csv
import math
import os

import keras

from export.command import fail, non_negative, positive
from harness import distribution, run_folder, training
from kcaps.regression import ThresholdSchedule
from kcaps.regression.architectures import ARCHITECTURES
from pictures_of import data
from regression import pictures as pictures
from regression.training import finish, fit, make_encoder, make_model, open_schedule

DATA = ("digits", "mnist", "fashion_mnist")


def add_arguments(parser):
    parser.add_argument("--data", choices=DATA, default="digits", help="images")
    parser.add_argument(
        "--capsule-dim", type=positive(int), default=2, help="components of a capsule"
    )
    parser.add_argument(
        "--architecture",
        choices=list(ARCHITECTURES),
        default="multiclass",
        help="which classes a capsule tells from which",
    )
    parser.add_argument(
        "--components",
        type=positive(int),
        help="singular directions that images are projected on (default: a quarter of the pixels, "
        "at least 32)",
    )
    parser.add_argument(
        "--ridge", type=non_negative, default=0.0, help="precision of a prior on the weights"
    )
    parser.add_argument("--momentum", type=non_negative, default=0.9, help="of steps of EM")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="all architectures with capsules of --dims components; the model with the lowest "
        "validation error is kept",
    )
    parser.add_argument(
        "--dims",
        type=positive(int),
        nargs="+",
        default=[1, 2, 4, 8, 16],
        help="components of a capsule, with --sweep",
    )
    distribution.add_argument(parser)
    parser.refuse(["--dims"], lambda args: not args.sweep, "only --sweep has several of them")
    parser.refuse(
        ["--capsule-dim", "--architecture"],
        lambda args: args.sweep,
        "--sweep has all architectures, and the capsules of --dims",
    )
    parser.refuse(["--seed"], None, "EM starts from the data, and draws nothing at random")


def sweep(args, images, encoder):
    """All architectures and dimensions; cells that a resumed sweep has finished are kept."""
    path = args.output / "sweep.csv"
    rows = []
    if path.exists():
        with open(path, newline="") as file:
            rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
        if any("architecture" not in row or "validation_error" not in row for row in rows):
            fail(f"{path} is damaged: remove it, or start anew with --overwrite")
    for dim in args.dims:
        for architecture in ARCHITECTURES:
            if any((r["architecture"], r["capsule_dim"]) == (architecture, dim) for r in rows):
                continue
            print(f"{architecture}, capsules of {dim} components", flush=True)
            schedule = ThresholdSchedule(verbose=True)
            model = make_model(args, images, encoder, architecture, dim)
            row = fit(args, images, model, schedule)
            rows.append(row)
            if row["validation_error"] == min(r["validation_error"] for r in rows):
                finish(args, images, model, row)
            run_folder.write_csv(path, rows)
            print(f"  test error {100 * row['test_error']:.2f} %, {row['seconds']} s", flush=True)
    pictures.draw_sweep(rows, images, args.output)
    return min(rows, key=lambda r: r["validation_error"])


def _number(text):
    try:
        return float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        return text


args = training.begin_any(__doc__, epochs=20_000, add_arguments=add_arguments)
if args.resume:
    open_schedule(args.output)  # refuses what is damaged before anything is done
images = data.load(args.data, args.data_dir, args.limit, args.synthetic, as_published=True)
if args.components and args.components > math.prod(images.shape):
    fail(f"--components must be at most {math.prod(images.shape)}, received {args.components}")
encoder = make_encoder(images, args.components)
model = make_model(args, images, encoder, args.architecture, args.capsule_dim)
run_folder.open_folder(args, images, lambda output: open_schedule(output).epoch)
print(f"{args.recipe}: {images.title}, {len(images.train[0])} training images", flush=True)
if args.sweep:
    row = sweep(args, images, encoder)
else:
    logger = keras.callbacks.CSVLogger(args.output / "history.csv", append=args.resume)
    schedule = open_schedule(args.output)
    row = fit(args, images, model, schedule, [logger])
    finish(args, images, model, row)
    model = distribution.finish(args, model)
    pictures.draw(model, images, run_folder.read_history(args.output / "history.csv"), args.output)
accuracy = 100 * (1 - row["test_error"])
print(
    f"test accuracy {accuracy:.2f} % on {images.title} ({row['architecture']}, capsules of "
    f"{row['capsule_dim']}); checkpoint in {args.output}{os.sep}"
)
