"""The table of finished cells: mean and spread over seeds, beside what is published."""

from collections.abc import Sequence

import numpy as np

from harness import measurements, provenance, tables
from harness.settings import StudySettings
from reproduction.cells import Cell

DEVIATION = "_deviation"  # after the name of the column that it belongs to
ERRORS = ("test_error", "validation_error", "affine", "noise", "fgsm", "bim")
UNITS = {  # of the columns that are measurements; a ratio and numbers have none
    **dict.fromkeys(ERRORS, "%"),
    **dict.fromkeys(("own", "of_dynamic", "trained_after", "ratio", "steps", "parameters"), ""),
    **{"change": "", "zeros": "%", "negative": "%"},
    **{"minutes": "min", "seconds": "s", "seconds_per_100_steps": "s", "ms_of_a_step": "ms"},
}


def rows(settings: StudySettings, cells: dict[Cell, dict]) -> list[dict]:
    """Returns a row for each method of each task: mean and deviation of its test error, and so on.

    Args:
        settings: `reproduction.settings.Settings`.
        cells: Rows of finished cells.
    """
    table, groups = settings.contents, {}
    for cell, row in cells.items():
        groups.setdefault((cell.task, cell.method), []).append(row)
    return [
        {
            "task": task,
            "method": method,
            **spread("test_error", [row["test_error"] for row in found]),
            "validation_error": float(np.mean([row["validation_error"] for row in found])),
            "published": table.published.get((task, method), ""),
            "best_known": table.best_known.get(task, ""),
            "seeds": len(found),
            "epochs": found[0]["epochs"],
            "parameters": found[0]["parameters"],
            "minutes": float(np.mean([row["seconds"] for row in found])) / 60,
            # Cells of one row may be of different days and machines.
            **{
                name: "; ".join(dict.fromkeys(row[name] for row in found))
                for name in provenance.COLUMNS
            },
        }
        for (task, method), found in groups.items()
    ]


def spread(name: str, values: Sequence[float]) -> dict:
    """Returns the mean of values over seeds by a name, and their standard deviation beside it."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else ""
    return {name: float(np.mean(values)), f"{name}{DEVIATION}": deviation}


def measured(settings: StudySettings, rows: Sequence[dict]) -> list[dict]:
    """Returns the rows of a table as measurements, beside what is published.

    Args:
        settings: `reproduction.settings.Settings`.
        rows: The rows that the report of the table returned.
    """
    found = []
    for row in rows:
        seed = f", seed {row['seed']}" if "seed" in row else ""
        common = {
            "item": settings.table,
            "data": row.get("task", settings.cells[0].task),
            "method": row["method"],
            "setting": settings.setting + seed,
            "seeds": row.get("seeds", 1),
        }
        added = measurements.of_summary(row, UNITS, DEVIATION, **common)
        for measurement in added:
            if row.get("published") and measurement["quantity"] == "test error":
                place = settings.contents.title
                measurement |= {"paper_value": row["published"], "paper_place": place}
        found += added
    return found


def markdown(rows: Sequence[dict]) -> str:
    """Returns rows as a table, and the commands that gave them."""
    names = [name for name in rows[0] if name != "command" and not name.endswith(DEVIATION)]
    table = tables.markdown([{n.replace("_", " "): _value(row, n) for n in names} for row in rows])
    commands = dict.fromkeys(row["command"] for row in rows)
    return "\n".join([table, *(f"`{command}`" for command in commands)]) + "\n"


def _value(row, name):
    """Returns the text of a value, with its deviation where it has one."""
    deviation = row.get(f"{name}{DEVIATION}", "")
    return _text(row[name]) + (f" ± {_text(deviation)}" if deviation != "" else "")


def _text(value):
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
