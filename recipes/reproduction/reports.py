"""Reports on the tables: each completes the cells asked for, draws, and returns rows."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from export.command import fail
from harness import provenance, run_folder, study, tables
from harness.divergence import Diverged
from harness.settings import StudySettings
from reproduction import coefficients as of_coefficients
from reproduction import measures, pictures, reconstructions, summary
from reproduction.cells import Cell, train

SHOWN = 10  # test images in a picture
TYPES = {  # kinds of the columns of cells.csv and of measures; others hold floats
    **dict.fromkeys(("task", "method", *provenance.COLUMNS), str),
    **dict.fromkeys(("seed", "best_epoch", "epochs", "steps", "batch_size", "parameters"), int),
    **dict.fromkeys(
        ("seconds", *reconstructions.DECODERS, *of_coefficients.NAMES), tables.number_or_nothing
    ),
}


def measured(
    name: str, measure: Callable[..., dict], settings: StudySettings, cells: Sequence[Cell] = ()
) -> dict[Cell, dict]:
    """Returns rows of `<name>.csv` by cell; measures those that are missing.

    If some diverge, the program ends after the last one.

    Args:
        name: Name of the measure.
        measure: Function of a cell and the settings that returns values of its row.
        settings: Settings of the program.
        cells: The cells. Defaults to those that the settings ask for.
    """
    cells, diverged = cells or settings.cells, []

    def announce(number, cell):
        print(f"{name}, {number} of {len(cells)}: {Cell(**cell)}", flush=True)

    def row(**values):
        source = provenance.here()  # a commit made while this trains has not trained it
        try:
            found = measure(Cell(**values), settings)
        except Diverged:
            diverged.append(Cell(**values))
            return []
        if "test_error" in found:
            print(f"  test error {found['test_error']:.2f} %", flush=True)
        return [values | found | source]

    path = settings.output / f"{name}.csv"
    rows = study.complete(path, list(map(dataclasses.asdict, cells)), row, TYPES, announce)
    if diverged:
        names = "; ".join(map(str, diverged))
        fail(f"no {settings.table} without {names}: training diverged", code=1)
    found = {Cell(row["task"], row["method"], row["seed"]): row for row in rows}
    return {cell: found[cell] for cell in cells}


def errors(settings: StudySettings) -> list[dict]:
    """Returns test errors over seeds."""
    found = measured("cells", train, settings)
    rows = summary.rows(settings, found)
    pictures.errors(settings.title, rows, settings.path(".png"))
    return rows


def coefficients(settings: StudySettings) -> list[dict]:
    """Returns test errors, and what training has made of the coefficients of l1 and l2."""
    rows = errors(settings)

    def measure(cell, settings):
        return of_coefficients.measure(cell.folder(settings.output) / "model.keras")

    return _beside(rows, measured("coefficients_of", measure, settings), of_coefficients.NAMES)


def _beside(rows, found, names):
    """Returns rows with the mean and the deviation of further measures of the cells."""
    for row in rows:
        of_method = [other for cell, other in found.items() if cell.method == row["method"]]
        for name in names:
            if of_method[0][name] != "":
                row |= summary.spread(name, [other[name] for other in of_method])
            else:
                row[name] = ""
    return rows


def control(settings: StudySettings) -> list[dict]:
    """Returns test errors, and the time of a training step beside that of the first method."""
    rows = errors(settings)
    for row, found in zip(rows, measures.step_times(settings, rounds=5, steps=1), strict=True):
        row |= {"ms_of_a_step": found["seconds_per_100_steps"] * 10, "ratio": found["ratio"]}
    return rows


def overlapping(settings: StudySettings) -> list[dict]:
    """Returns test errors, after drawing in each cell's folder its digits, each rebuilt apart."""
    rows = errors(settings)
    reconstructions.draw_parts(settings.cells, settings)
    return rows


def error_curves(settings: StudySettings) -> list[dict]:
    """Returns test errors, after drawing validation errors on the way."""
    found = measured("cells", train, settings)
    histories = {
        cell: run_folder.read_history(cell.folder(settings.output) / "history.csv")
        for cell in found
    }
    pictures.curves(settings.title, histories, settings.path(".png"))
    return summary.rows(settings, found)


def decoders(settings: StudySettings) -> list[dict]:
    """Returns errors of rebuilt images, those by dynamic routing's decoders of others too."""
    cells = settings.cells
    needed = dict.fromkeys([*map(reconstructions.with_decoder, cells), *cells])
    measured("cells", train, settings, list(needed))
    rows = list(measured("decoders", reconstructions.measure, settings).values())
    panels, right = {}, True
    for cell in cells:
        if cell.seed == cells[0].seed:
            images, known, rebuilt = reconstructions.rebuild(cell, settings)
            right &= known
            panels |= {f"{cell.method}, {name}": pixels for name, pixels in rebuilt.items()}
    shown = np.argsort(~right, kind="stable")[:SHOWN]  # those that all networks classify right
    panels = {name: pixels[shown] for name, pixels in {"test": images, **panels}.items()}
    pictures.rebuilt(settings.title, panels, settings.path(".png"))
    return rows


def robustness(settings: StudySettings) -> list[dict]:
    """Returns test errors, also on images of other kinds than those of training."""
    rows = errors(settings)
    found = measured("robustness", measures.robustness_of, settings)
    return _beside(rows, found, measures.ROBUSTNESS)


def step_times(settings: StudySettings) -> list[dict]:
    """Returns times of training steps."""
    source = provenance.here()
    rows = [row | source for row in measures.step_times(settings)]
    pictures.times(settings.title, rows, settings.path(".png"))
    return rows


def times_to_goal(settings: StudySettings) -> list[dict]:
    """Returns times from the program's start until enough of the validation images are right."""
    import psutil

    start_up = time.time() - psutil.Process().create_time()

    def measure(cell, settings):
        return measures.time_to_goal(cell, settings, start_up)

    return list(measured(settings.table, measure, settings).values())
