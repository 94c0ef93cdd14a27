"""What studies share: many trainings with results in one folder, which a later run goes on with."""

import contextlib
import csv
import json
import pathlib

from export.command import fail
from harness import run_folder
from pictures_of import data


def add_arguments(parser, output):
    """Adds the folder of results, and where the images come from."""
    parser.again = "the same command goes on"
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=output,
        help="folder of results; a study that is in it goes on",
    )
    data.add_arguments(parser)


def open_folder(output, name, arguments, others=()):
    """Makes a folder of results; refuses one that holds something else.

    Args:
        output: Path of the folder.
        name: Name of the study, whose arguments are in `<name>.json`.
        arguments: Dict of what makes the study what it is.
        others: Names of studies that may share the folder.

    Returns:
        List of the folders that were made, the innermost first.
    """
    path = output / f"{name}.json"
    try:
        held = {file.name for file in output.iterdir()} if output.exists() else set()
        if held and not held & {f"{study}.json" for study in (name, *others)}:
            fail(f"--output {output} is not empty and holds no {name}: give another folder")
        before = json.loads(path.read_text()) if path.exists() else arguments
        made = [folder for folder in (output, *output.parents) if not folder.exists()]
        output.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(path, before)
    except (OSError, ValueError) as error:
        fail(f"--output {output} cannot be used: {error}")
    if before != arguments:
        fail(f"{path} is of a study with other arguments, {before}: give another --output")
    return made


@contextlib.contextmanager
def work_in(output, name, made):
    """Context of a study's work: where it fails before anything is done, no folder is left.

    Args:
        output: Folder of results.
        name: Name of the study.
        made: Folders that `open_folder` made.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if [file.name for file in output.iterdir()] == [f"{name}.json"]:
                (output / f"{name}.json").unlink()
                for folder in made:
                    folder.rmdir()
        raise


def arguments_in(output, name):
    """Arguments of the study in a folder; none where there is no such study, or a damaged one."""
    try:
        return dict(json.loads((output / f"{name}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def read_rows(path, types):
    """Rows of a CSV file as dicts; none if there is no file.

    Args:
        path: The file.
        types: Functions of the text in a column, by its name. Other columns hold floats.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return [{name: types.get(name, float)(row[name]) for name in row} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        fail(f"{path} is damaged: {error!r}")


def number_or_nothing(text):
    """The number in a column that may be empty."""
    return float(text) if text else ""


def open_cell(cell):
    """Has a cell's folder continued where it holds the same run, and replaced otherwise."""
    try:
        before = json.loads((cell.output / "run.json").read_text())["arguments"]
    except (OSError, ValueError, KeyError, TypeError):
        before = None
    cell.resume = before == run_folder.run_arguments(cell)
    cell.again = "the same command"
    cell.overwrite = not cell.resume  # such as one of another seed, or of a run that never began
