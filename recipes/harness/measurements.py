"""Measurements as rows of one form: what was measured, by what, where, and beside which paper.

The columns: `item` is a table of `reproduce.py`, of a paper or of a benchmark; `data`, `method` and
`setting` are what it compares; `quantity`, `value`, `spread` and `unit` are the number, with a
standard deviation over so many `seeds`, or quartiles; `command`, `commit`, `machine` and `date` are
where it comes from; `paper_value` is what the paper has at `paper_place`; `hours` is what a
measurement would take that was not run, by the grounds in `note`.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from export.command import fail
from harness import provenance, tables

COLUMNS = (
    *("item", "data", "method", "setting", "quantity", "value", "spread", "unit", "seeds"),
    *provenance.COLUMNS,
    *("paper_value", "paper_place", "hours", "note"),
)
# What a measurement is of: another one of the same has been measured again.
IDENTITY = ("item", "data", "method", "setting", "quantity", "machine")
NOT_RUN = "not run"  # in the place of a value; `hours` then has the time that it would take
NOT_REACHED = "not reached"  # in the place of the time until something
NOT_KEPT = "script not kept"  # in the note of a row without command or commit

_NUMBER = r"-?\d+(\.\d+)?(e-?\d+)?"
_COMMIT = r"[0-9a-f]{7,40}\+?"
_DATE = r"\d{4}-\d\d-\d\d"
_FORMS = {
    "spread": rf"{_NUMBER}( – {_NUMBER})?",  # a deviation, or the quartiles
    "seeds": r"\d+",
    "commit": rf"{_COMMIT}(; {_COMMIT})*",
    "date": rf"{_DATE}(; {_DATE})*",
    "hours": _NUMBER,
}


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a file of measurements, as text.

    Raises:
        OSError: for a file that is not there.
        ValueError: for one that is damaged, or has other columns.
    """
    heading = path.read_text("utf-8").partition("\n")[0]
    if heading != ",".join(COLUMNS):
        raise ValueError(f"{path} must have the columns {','.join(COLUMNS)}. Received: {heading}.")
    return tables.read_csv(path, dict.fromkeys(COLUMNS, str))


def append(path: pathlib.Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Adds rows to a file of measurements, in the place of older ones of the same thing.

    Args:
        path: The file, which is made where there is none.
        rows: Values by column; columns that are left out are empty.

    Raises:
        ValueError: for a row with a fault, or a file that cannot be read.
    """
    added = [{name: str(row.get(name, "")) for name in COLUMNS} for row in rows]
    for row in added:
        if found := faults(row):
            raise ValueError(f"{found[0]}: {row}")
    measured = set(map(_identity, added))
    others = read(path) if path.exists() else []
    tables.write_csv(path, [*(x for x in others if _identity(x) not in measured), *added])


def add(path: pathlib.Path | None, rows: Iterable[Mapping[str, object]]) -> None:
    """Appends rows to the file of a program's `--measurements`; ends it where that cannot be."""
    if path is None:
        return
    try:
        append(path, rows)
    except (OSError, ValueError) as error:
        fail(f"--measurements {path} cannot be used: {error}")


def of_summary(
    row: Mapping[str, object], units: Mapping[str, str], deviation: str, **common: object
) -> list[dict]:
    """Returns the measurements in a row of a study's summary.

    Args:
        row: The row, with the columns of `provenance.COLUMNS`.
        units: Units by the name of the columns that are measurements.
        deviation: Ending of the name of a column with the deviation of another one.
        **common: Values of further columns of the measurements.
    """
    source = {name: row[name] for name in provenance.COLUMNS}
    return [
        {
            **common,
            **source,
            "quantity": name.replace("_", " "),
            "value": _text(row[name]),
            "spread": _text(row.get(name + deviation, "")),
            "unit": unit,
        }
        for name, unit in units.items()
        if row.get(name, "") != ""
    ]


def faults(row: Mapping[str, str]) -> Sequence[str]:
    """Returns what is wrong with a row, nothing where all is right."""
    is_run, is_kept = row["value"] != NOT_RUN, NOT_KEPT not in row["note"]
    needed = ["item", "quantity", "value", "machine"]
    needed += ["date"] if is_run else ["hours", "note"]
    needed += ["command", "commit"] if is_run and is_kept else []
    needed += ["paper_place"] if row["paper_value"] else []
    found = [f"{name} is missing" for name in needed if not row[name]]
    found += [
        f"{name} has another form: {row[name]}"
        for name, form in _FORMS.items()
        if row[name] and not re.fullmatch(form, row[name])
    ]
    values = rf"{_NUMBER}( to {_NUMBER})?|{NOT_REACHED}"
    if is_run and row["value"] and row["unit"] and not re.fullmatch(values, row["value"]):
        found.append(f"value is no number of {row['unit']}: {row['value']}")
    return found


def _identity(row):
    return tuple(row[name] for name in IDENTITY)


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
