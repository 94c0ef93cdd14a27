"""The checkpoint folder of a run: what it holds, and whether a run may begin or go on in it."""

import csv
import io
import json
import platform
import shutil
import tempfile
import warnings

import keras
import tensorflow as tf

import kcaps
from export.checkpoint import check_archive
from export.command import fail, first_line
from harness import checkpoints, distribution, plots
from regression import pictures as regression_pictures

# Arguments that may differ between a run and its continuation.
_FREE_ARGUMENTS = ("output", "epochs", "resume", "again", "overwrite", "data_dir")
_FREE_ARGUMENTS += ("search", "export", "silence", "distribute")
_FILES = (
    *("model.keras", "run.json", "history.csv", "curve.csv", "sweep.csv", "report.json"),
    *plots.FILES,
    *regression_pictures.FILES,
)
_EXPORTS = ("model.onnx", "model.onnx.json", "saved_model.json")


def run_arguments(args):
    """The arguments that make a run what it is, as plain values."""
    return {key: value for key, value in vars(args).items() if key not in _FREE_ARGUMENTS}


def check_output(args):
    """Refuses a folder that holds something else or cannot be written; leaves no trace."""
    output = args.output
    try:
        held = {path.name for path in output.iterdir()} if output.exists() else set()
    except OSError as error:
        fail(f"--output {output} is not a folder that can be used: {error.strerror}")
    if "run.json" in held:
        if args.resume:
            _check_same_run(args)
        elif not args.overwrite:
            fail(
                f"--output {output} already holds a run: go on with it (--resume), replace it "
                "(--overwrite), or give another folder"
            )
    elif held - {"run.part"}:  # all that a run leaves which is killed at its start
        fail(f"--output {output} is not empty and holds no run of a recipe: give another folder")
    made = [path for path in (output, *output.parents) if not path.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        fail(f"--output {output} cannot be written: {error.strerror}")
    finally:
        for path in made:
            if path.exists():
                path.rmdir()


def _check_same_run(args):
    """Refuses to resume a run that has other arguments or whose state is damaged."""
    output = args.output
    try:
        before = dict(json.loads((output / "run.json").read_text())["arguments"])
        done, history = epochs_done(output), output / "history.csv"
        if done:
            if len(read_history(history)["val_loss"]) < done:
                raise ValueError("history.csv is shorter than the backup")
            check_archive(output / "model.keras")
        elif history.exists():
            history.read_text()
    except Exception as error:  # damaged files fail in many ways
        fail(f"--output {output} cannot be resumed, its run is damaged: {error!r}")
    for key, value in run_arguments(args).items():
        if before.get(key) != value:
            fail(
                f"--resume needs the arguments of the run in {output}: {key} was "
                f"{before.get(key)!r}, received {value!r}"
            )


def check_same_model(output, model):
    """Refuses a folder of another model, before anything in it is changed."""
    try:
        checkpoints.check_state(output / checkpoints.STATE, model)
        with warnings.catch_warnings():
            # that the optimizer, which is not built yet, has fewer variables than the saved one
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(output / "model.keras")  # now, not only after hours of training
        history = read_history(output / "history.csv")
        names = set(history) - {"epoch", "seconds", "synthetic"}  # each of training and validation
        others = {n.removeprefix("val_") if n.startswith("val_") else f"val_{n}" for n in names}
        if names != others or not {"loss", "seconds"} <= set(history):
            raise ValueError(f"history.csv has the columns {list(history)!r:.200}")
    except Exception as error:  # what Keras did not write fails in many ways inside it
        reason = first_line(error)
        fail(f"--output {output} cannot be resumed, its run is damaged or another: {reason}")


def epochs_done(output):
    return checkpoints.epochs_in(output / checkpoints.STATE)


def open_folder(args, images, count_epochs=None):
    """Makes the checkpoint folder; returns how many epochs of its run are done.

    Args:
        args: Arguments from `begin`.
        images: `data.Images`.
        count_epochs: Function of the folder that tells it, where `checkpoints.STATE` does not.
    """
    output = args.output
    for name in (*_EXPORTS, *(_FILES if args.overwrite else ())):  # exports are of an older model
        (output / name).unlink(missing_ok=True)
    for name in ("saved_model", *(("backup",) if args.overwrite else ())):
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    write_json(
        output / "run.json",
        {
            "kcaps": kcaps.__version__,
            "recipe": args.recipe,
            "arguments": run_arguments(args),
            "seed": args.seed,
            "epochs": args.epochs,
            "replicas": tf.distribute.get_strategy().num_replicas_in_sync,
            "versions": {
                "python": platform.python_version(),
                "keras": keras.__version__,
                "tensorflow": tf.__version__,
            },
            "data": {"name": images.name, "title": images.title, **images.source},
            "input_range": [0, 255],
            "labels": images.class_names,
        },
    )
    done = (count_epochs or epochs_done)(output)
    _keep_history(output / "history.csv", done)
    distribution.check_same(done)
    return done


def _keep_history(path, epochs):
    """Drops rows of epochs that the backup does not hold: they will be trained again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        _write(path, "".join(lines[: epochs + 1]))


def read_history(path):
    """Columns of history.csv as lists of numbers."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def write_json(path, content):
    """Writes JSON, so that a reader never sees half a file."""
    _write(path, json.dumps(content, indent=2) + "\n")


def write_csv(path, rows):
    """Writes a list of dicts, so that a reader never sees half a file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def _write(path, text):
    """Writes aside and replaces."""
    aside = path.with_suffix(".part")
    aside.write_text(text, newline="")
    aside.replace(path)
