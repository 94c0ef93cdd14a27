"""The checkpoint folder of a run: what it holds, and whether a run may begin or go on in it."""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable

import keras

from export.checkpoint import check_archive, run_content
from export.command import fail, first_line
from harness import checkpoints, distribution, provenance, tables
from kcaps.backend.replicas import num_replicas
from pictures_of import data

_FILES = (
    *("model.keras", "run.json", "history.csv", "curve.csv", "sweep.csv", "report.json"),
    *("curves.png", "confusion.png", "reconstructions.png", "dimensions.png"),
    *("capsules.png", "couplings.png", "latent.png", "prototypes.png", "error_by_dimension.png"),
)
_EXPORTS = (
    *("model.onnx", "model.onnx.json", "saved_model.json"),
    *("model.tflite", "model.tflite.json", "web.json"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A training that has a checkpoint folder.

    Args:
        recipe: Name of the program.
        output: The folder.
        epochs: Epochs at the end of which the run is finished.
        seed: Seed of all that is drawn at random.
        arguments: Plain values that make the run what it is. `run.json` keeps them, and a run
            goes on with the same ones only.
        batch_size: Images of a step, where there are steps.
        resume: Whether the run in the folder goes on.
        overwrite: Whether the run in the folder is replaced.
        how_to_resume: Words for how an interrupted run goes on.
        early_stopping: Epochs in a row without a lower validation loss, after which training ends.
            0 for no such end.
        keep: Which model is kept: `"best"`, of the epoch with the lowest validation loss, or
            `"last"`.
        mirror_test: Whether the test is also of outputs that are averaged with those of the
            mirrored images.
    """

    recipe: str
    output: pathlib.Path
    epochs: int
    seed: int
    arguments: dict
    batch_size: int | None = None
    resume: bool = False
    overwrite: bool = False
    how_to_resume: str = "--resume"
    early_stopping: int = 0
    keep: str = "best"
    mirror_test: bool = False


def check_output(run: Run) -> None:
    """Refuses a folder that holds something else or cannot be written; leaves no trace."""
    output = run.output
    try:
        held = {path.name for path in output.iterdir()} if output.exists() else set()
    except OSError as error:
        fail(f"--output {output} is not a folder that can be used: {error.strerror}")
    if "run.json" in held:
        if run.resume:
            _check_same_run(run)
        elif not run.overwrite:
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


def _check_same_run(run):
    """Refuses to resume a run that has other arguments or whose state is damaged."""
    output = run.output
    try:
        begun_with = dict(json.loads((output / "run.json").read_text())["arguments"])
        done, history = epochs_done(output), output / "history.csv"
        if done:
            if len(read_history(history)["val_loss"]) < done:
                raise ValueError("history.csv is shorter than the backup")
            check_archive(output / "model.keras")
        elif history.exists():
            history.read_text()
    except Exception as error:  # damaged files fail in many ways
        fail(f"--output {output} cannot be resumed, its run is damaged: {error!r}")
    for key, value in run.arguments.items():
        if begun_with.get(key) != value:
            fail(
                f"--resume needs the arguments of the run in {output}: {key} was "
                f"{begun_with.get(key)!r}, received {value!r}"
            )


def check_same_model(output: pathlib.Path, model: keras.Model) -> None:
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


def epochs_done(output: pathlib.Path) -> int:
    """Returns how many epochs of the run in a folder are done."""
    return checkpoints.epochs_in(output / checkpoints.STATE)


def open_folder(
    run: Run, images: data.Images, count_epochs: Callable[[pathlib.Path], int] = epochs_done
) -> int:
    """Makes the checkpoint folder of a run, and returns how many of its epochs are done.

    Args:
        run: The run.
        images: Images that it trains on.
        count_epochs: Function of the folder that returns the number.
    """
    output = run.output
    for name in (*_EXPORTS, *(_FILES if run.overwrite else ())):  # exports are of an older model
        (output / name).unlink(missing_ok=True)
    for name in ("saved_model", "web", *(("backup",) if run.overwrite else ())):
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    tables.write_json(output / "run.json", _about(run, images))
    done = count_epochs(output)
    _keep_history(output / "history.csv", done)
    distribution.check_same(done)
    return done


def _about(run, images):
    """Returns what `run.json` holds."""
    training = {
        "arguments": run.arguments,
        "seed": run.seed,
        "epochs": run.epochs,
        "replicas": num_replicas(),
        "precision": keras.config.dtype_policy().name,
        "backend": keras.backend.backend(),
        "commit": provenance.commit(),
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            keras.backend.backend(): importlib.metadata.version(keras.backend.backend()),
        },
    }
    source = {"name": images.name, "title": images.title, **images.source}
    return run_content(run.recipe, source, images.class_names, training)


def _keep_history(path, epochs):
    """Drops rows of epochs that the backup does not hold: they will be trained again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        tables.write(path, "".join(lines[: epochs + 1]))


def read_history(path: pathlib.Path) -> dict[str, list[float]]:
    """Returns the columns of a history.csv."""
    rows = tables.read_csv(path)
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
