"""Studies: many trainings with results in one folder, with which a later run of it goes on."""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from export.command import fail
from harness import tables
from harness.run_folder import Run


def open_folder(
    output: pathlib.Path, name: str, arguments: dict, others: Iterable[str] = ()
) -> list[pathlib.Path]:
    """Makes a folder of results; refuses one that holds something else.

    Args:
        output: The folder.
        name: Name of the study, whose arguments are in `<name>.json`.
        arguments: What makes the study what it is, plain values.
        others: Names of studies that may share the folder.

    Returns:
        The folders that were made, the innermost first.
    """
    path = output / f"{name}.json"
    try:
        held = {file.name for file in output.iterdir()} if output.exists() else set()
        if held and not held & {f"{study}.json" for study in (name, *others)}:
            fail(f"--output {output} is not empty and holds no {name}: give another folder")
        begun_with = json.loads(path.read_text()) if path.exists() else arguments
        made = [folder for folder in (output, *output.parents) if not folder.exists()]
        output.mkdir(parents=True, exist_ok=True)
        tables.write_json(path, begun_with)
    except (OSError, ValueError) as error:
        fail(f"--output {output} cannot be used: {error}")
    if begun_with != arguments:
        fail(f"{path} is of a study with other arguments, {begun_with}: give another --output")
    return made


@contextlib.contextmanager
def work_in(output: pathlib.Path, name: str, made: Sequence[pathlib.Path]) -> Iterator[None]:
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


def arguments_in(output: pathlib.Path, name: str) -> dict:
    """Returns the arguments of the study in a folder, none without a study or of a damaged one."""
    try:
        return dict(json.loads((output / f"{name}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def complete(
    path: pathlib.Path,
    cells: Sequence[dict],
    run: Callable[..., list[dict]],
    types: dict[str, Callable[[str], object]],
    announce: Callable[[int, dict], None] | None = None,
    finish: Callable[[int, dict, float], None] | None = None,
) -> list[dict]:
    """Returns the rows of a CSV file after it has rows of all cells; runs those that it lacks.

    Args:
        path: The file.
        cells: The cells, each a dict of what the columns of its rows have in common.
        run: Function of a cell's values, by name, that returns its rows, or none where it failed.
        types: Types of columns, as for `tables.read_csv`.
        announce: Function of the number of a cell, from 1, and the cell, before it is run.
        finish: Function of the number, the cell and the seconds that it took, when its rows are
            in the file.
    """
    for number, cell in enumerate(cells, 1):
        if not any(cell.items() <= row.items() for row in tables.read_cells(path, types)):
            if announce:
                announce(number, cell)
            started = time.perf_counter()
            if rows := run(**cell):
                # The file is read again: another process may have added rows.
                tables.write_csv(path, [*tables.read_cells(path, types), *rows])
                if finish:
                    finish(number, cell, time.perf_counter() - started)
    return tables.read_cells(path, types)


def continued(run: Run) -> Run:
    """Returns the run of a cell, which goes on where its folder holds the same, or replaces it."""
    try:
        begun_with = json.loads((run.output / "run.json").read_text())["arguments"]
    except (OSError, ValueError, KeyError, TypeError):
        begun_with = None
    same = begun_with == run.arguments  # not so in the folder of another seed, for example
    return dataclasses.replace(
        run, resume=same, overwrite=not same, how_to_resume="the same command"
    )
