"""Compares Daza's multi-layer perceptrons and CNN with capsules: one table, several seeds.

All training images train, for a number of steps that is fixed beforehand: the test images choose
nothing. (Capsule regression holds some out, for its rounds of thresholds. The peak of the curve, on
the way, is for comparison only: the test images chose it.) A cell of the study is a model and a
seed. Finished cells are in cells.csv and not run again; an interrupted one goes on.
"""

import argparse
import csv
import math
import os
import shutil
import time

import keras
import numpy as np

from comparison import pictures as pictures
from comparison.models import BASELINES
from export.command import Parser, fail, positive
from harness import checkpoints, run_folder, study, training
from kcaps.regression import CapsuleRegression
from networks.baselines import baselines as networks
from pictures_of import data
from regression.training import make_encoder, open_schedule

SHORT, LONG = 10, 100  # steps that training values are averaged over, and between two tests
REGRESSION, ITERATIONS, CAPSULE_DIM = "capsule_regression", 20_000, 8
MODELS = (*BASELINES, REGRESSION)
PUBLISHED = {name: baseline.published for name, baseline in BASELINES.items()}
PAPER = [name for name, figure in PUBLISHED.items() if figure]
COLUMNS = {  # of cells.csv
    "model": str,
    "seed": int,
    "steps": int,
    "test_accuracy": float,
    "peak_test_accuracy": study.number_or_nothing,
    "validation_accuracy": study.number_or_nothing,
    "parameters": int,
    "seconds_per_epoch": float,
}


class Curve(keras.callbacks.Callback):
    """Writes curve.csv: training values averaged over a few steps, and now and then test values.

    Args:
        path: The file. Rows after `first_step` are dropped: those steps are taken again.
        first_step: Steps done before.
    """

    def __init__(self, path, first_step):
        super().__init__()
        self.path, self.step = path, first_step
        rows = read_rows(path) if first_step else []
        self.rows = [row for row in rows if int(row["step"]) <= first_step]

    def on_epoch_begin(self, epoch, logs=None):
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        if self.step % SHORT == 0:
            self.model.reset_metrics()
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter() - self.started)
        self.step += 1
        if self.step % SHORT == 0:
            self._add(logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.step % SHORT:  # of a run of few steps
            self._add(logs)
        self.rows[-1] |= {
            "test_loss": logs.get("val_cross_entropy", logs["val_loss"]),
            "test_accuracy": logs["val_accuracy"],
            "seconds": float(np.median(self.times)),  # of a step
        }
        run_folder.write_csv(self.path, self.rows)

    def _add(self, logs):
        loss = logs.get("cross_entropy", logs["loss"])
        row = {"step": self.step, "loss": loss, "accuracy": logs["accuracy"]}
        self.rows.append(row | {"test_loss": "", "test_accuracy": "", "seconds": ""})


def read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_cells():
    """Rows of the finished cells; refuses those of other numbers of steps."""
    path = args.output / "cells.csv"
    rows = study.read_rows(path, COLUMNS)
    for row in rows:
        if set(row) != set(COLUMNS):
            fail(f"{path} is damaged: its columns should be {', '.join(COLUMNS)}")
        if row["model"] in args.models and row["steps"] != count_steps(row["model"]):
            fail(
                f"{path} has {row['model']} after {row['steps']} steps, not "
                f"{count_steps(row['model'])}: give the same --steps, or another --output"
            )
    return rows


def count_steps(model):
    most = ITERATIONS if model == REGRESSION else BASELINES[model].steps
    return min(args.steps or most, most)


def open_cell(model, seed):
    """Arguments of a cell, as `training` takes them; an interrupted cell is kept."""
    cell = argparse.Namespace(recipe="baselines", model=model, seed=seed, steps=count_steps(model))
    cell.data, cell.synthetic, cell.limit = args.data, args.synthetic, args.limit
    cell.output, cell.epochs = args.output / model, math.ceil(cell.steps / LONG)
    study.open_cell(cell)
    return cell


def run_network(cell):
    """Trains a network; returns its model for inference and its part of the row."""
    train_images, train_labels = all_training_images()
    baseline = BASELINES[cell.model]
    network = baseline.build(images, train_images.mean(0, dtype="float64"))
    interval = min(LONG, cell.steps)
    try:
        epochs = run_folder.open_folder(cell, images)
        done = interval * epochs
        curve = Curve(cell.output / "curve.csv", done)
        if done:
            checkpoints.check_state(cell.output / checkpoints.STATE, network)
        if done and int(curve.rows[-1]["step"]) != done:
            raise ValueError("curve.csv is shorter than the backup")
    except (OSError, IndexError, ValueError, KeyError, TypeError) as error:
        fail(f"{cell.output} cannot be resumed, it is damaged: {error!r}. Remove it.")
    batch_size = min(baseline.batch_size, len(train_images))
    try:
        network.fit(
            training.stream(train_images, train_labels, batch_size, cell.seed, done),
            initial_epoch=epochs,
            epochs=cell.epochs,
            steps_per_epoch=interval,
            validation_data=tuple(part[: baseline.curve_images] for part in images.test),
            validation_batch_size=100,
            shuffle=False,  # the batches are shuffled already
            verbose=2,
            callbacks=[
                keras.callbacks.TerminateOnNaN(),
                curve,
                checkpoints.Backup(cell.output / checkpoints.STATE),
            ],
        )
    except OSError as error:
        fail(f"{cell.output} cannot be used: {error!r}")
    if not np.isfinite(float(curve.rows[-1]["loss"])):
        shutil.rmtree(cell.output)
        fail(f"{cell.model}, seed {cell.seed}: training diverged", code=1)
    seconds = np.median([float(row["seconds"]) for row in curve.rows if row["seconds"] != ""])
    trainable = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    if network.get_layer(index=-1).name == "logits":
        network = networks.with_probabilities(network)
    probabilities = network.predict(images.test[0], batch_size=100, verbose=0)
    return network, {
        "test_accuracy": float(np.mean(probabilities.argmax(-1) == images.test[1])),
        "peak_test_accuracy": max(float(row["test_accuracy"] or 0) for row in curve.rows),
        "parameters": trainable,
        "seconds_per_epoch": seconds * len(train_images) / batch_size,
    }


def run_regression(cell):
    """Fits capsule regression by EM; returns the model and its part of the row."""
    history = cell.output / "history.csv"
    run_folder.open_folder(cell, images, lambda output: open_schedule(output).epoch)
    schedule = open_schedule(cell.output)
    encoder = make_encoder(images)
    model = CapsuleRegression(images.num_classes, CAPSULE_DIM, encoder=encoder)
    try:
        model.compile(metrics=["accuracy"], momentum=0.9)
        model.fit(
            *images.train,
            initial_epoch=schedule.epoch,
            epochs=schedule.epoch if schedule.finished else cell.steps,
            validation_data=images.validation,
            verbose=0,
            callbacks=[training.timer(), keras.callbacks.CSVLogger(history, append=True), schedule],
        )
    except ValueError as error:  # such as too few images, without one of some class
        fail(error)
    test = model.evaluate(*images.test, batch_size=1000, verbose=0, return_dict=True)
    return model, {
        "test_accuracy": test["accuracy"],
        "validation_accuracy": 1 - schedule.best,
        "parameters": math.prod(model.competition.kernel.shape),
        "seconds_per_epoch": float(np.median(run_folder.read_history(history)["seconds"])),
    }


def all_training_images():
    """Those of validation, too: the paper has no such split."""
    return tuple(map(np.concatenate, zip(images.train, images.validation, strict=True)))


def run_cell(model, seed):
    """Trains one model from one seed, and leaves its checkpoint folder; returns its row."""
    cell = open_cell(model, seed)
    keras.utils.set_random_seed(seed)
    trained, results = (run_regression if model == REGRESSION else run_network)(cell)
    checkpoints.write_model(trained, cell.output / "model.keras")
    report = {"seed": seed, "steps": cell.steps, **results}
    more = {"test_images": len(images.test[1]), "synthetic": args.synthetic}
    run_folder.write_json(cell.output / "report.json", report | more)
    return {"model": model, "peak_test_accuracy": "", "validation_accuracy": "", **report}


def summarise(rows):
    """The table: one row for each model that has finished cells."""
    table = []
    is_published = args.data == "cifar10" and not args.synthetic
    for model in MODELS:
        cells = [row for row in rows if row["model"] == model]
        if cells:
            accuracies = [100 * row["test_accuracy"] for row in cells]
            peaks = [100 * row["peak_test_accuracy"] for row in cells if model != REGRESSION]
            table.append(
                {
                    "model": model,
                    "seeds": len(cells),
                    "steps": cells[0]["steps"],
                    "mean": np.mean(accuracies),
                    "deviation": np.std(accuracies, ddof=1) if len(cells) > 1 else "",
                    "best": max(accuracies),
                    "peak": np.mean(peaks) if peaks else "",
                    "paper": PUBLISHED.get(model, "") if is_published else "",
                    "parameters": cells[0]["parameters"],
                    "seconds_per_epoch": np.median([row["seconds_per_epoch"] for row in cells]),
                }
            )
    return table


def markdown(table):
    lines = [
        "| model | test accuracy / % | best | peak of the curve | paper | parameters | s per epoch "
        "| steps | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        spread = "" if row["deviation"] == "" else f" ± {row['deviation']:.2f}"
        peak = row["peak"] and f"{row['peak']:.2f}"
        lines.append(
            f"| {row['model']} | {row['mean']:.2f}{spread} | {row['best']:.2f} | {peak} | "
            f"{row['paper']} | {row['parameters']:,} | {row['seconds_per_epoch']:.3g} | "
            f"{row['steps']:,} | {row['seeds']} |"
        )
    return "\n".join(lines) + "\n"


parser = Parser(__doc__)
parser.add_argument("--data", choices=list(data.SHAPES), default="cifar10", help="images")
parser.add_argument(
    "--models", choices=MODELS, nargs="+", default=PAPER, metavar="MODEL", help=", ".join(MODELS)
)
parser.add_argument("--seeds", type=positive(int), default=1, help="models of each kind")
parser.add_argument(
    "--steps",
    type=positive(int),
    help="at most so many steps of each network and iterations of capsule regression (default: as "
    "published)",
)
parser.refuse(
    ["--seeds"],
    lambda args: set(args.models) == {REGRESSION},
    "capsule regression starts from the data, and all seeds are the same",
)
study.add_arguments(parser, "baselines/")
args = parser.parse_args()
training.check_backend()
if args.steps and args.steps > LONG and args.steps % LONG:
    fail(f"--steps must be a multiple of {LONG}, or less than it. Received: {args.steps}.")
images = data.load(args.data, args.data_dir, args.limit, args.synthetic)
for model in set(args.models) - {REGRESSION}:
    try:  # before hours of training
        BASELINES[model].build(images, np.zeros(images.shape))
    except ValueError as error:
        fail(f"{model} cannot be trained on {images.title}: {error}")
arguments = {name: getattr(args, name) for name in ("data", "synthetic", "limit")}
study.open_folder(args.output, "baselines", arguments)
rows = read_cells()
# Capsule regression starts from the data, not from random weights: all seeds are the same.
cells = [
    (model, seed)
    for model in dict.fromkeys(args.models)
    for seed in range(1 if model == REGRESSION else args.seeds)
]
for number, (model, seed) in enumerate(cells, 1):
    if any((row["model"], row["seed"]) == (model, seed) for row in rows):
        continue
    print(f"{number} of {len(cells)}: {model}, seed {seed}, {images.title}", flush=True)
    row = run_cell(model, seed)
    rows = [*read_cells(), row]  # another process may have added some
    run_folder.write_csv(
        args.output / "cells.csv", [{name: r[name] for name in COLUMNS} for r in rows]
    )
    shutil.rmtree(args.output / model / "backup", ignore_errors=True)
    print(f"  test accuracy {100 * row['test_accuracy']:.2f} %", flush=True)

table = summarise(rows)
run_folder.write_csv(args.output / "table.csv", table)
text = markdown(table)
(args.output / "table.md").write_text(text)
curves = {row["model"]: read_rows(args.output / row["model"] / "curve.csv") for row in table}
pictures.draw(table, curves, images, args.output / "baselines.png")
print(text, end="")
best = max(table, key=lambda row: row["mean"])
print(
    f"best on {images.title}: {best['model']}, {best['mean']:.2f} %; table.md, table.csv and "
    f"baselines.png in {args.output}{os.sep}"
)
