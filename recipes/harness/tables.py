"""Files of results: JSON, and tables as CSV and as Markdown."""

import csv
import io
import json
import pathlib
from collections.abc import Callable, Sequence

from export.command import fail


def write(path: pathlib.Path, text: str) -> None:
    """Writes a text aside and in place, so that a reader never sees half a file."""
    aside = path.with_suffix(".part")
    aside.write_text(text, newline="")
    aside.replace(path)


def write_json(path: pathlib.Path, content: object) -> None:
    """Writes plain values as JSON, as `write` does."""
    write(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: pathlib.Path, rows: Sequence[dict]) -> None:
    """Writes rows, a dict each, as `write` does."""
    columns = dict.fromkeys(name for row in rows for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # numbers as Python writes them, and None as nothing
    write(path, table.getvalue())


def read_csv(
    path: pathlib.Path, types: dict[str, Callable[[str], object]] | None = None
) -> list[dict]:
    """Returns the rows of a CSV file, a dict each.

    Args:
        path: The file.
        types: Functions of the text in a column, by its name. Other columns hold floats.

    Raises:
        OSError: for a file that is not there.
        ValueError: for one that is damaged.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, restval="", strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    kinds = {name: (types or {}).get(name, float) for name in rows[0]} if rows else {}
    if any(set(row) != set(kinds) for row in rows):
        raise ValueError("a row has more cells than there are columns")
    return [{name: kind(row[name]) for name, kind in kinds.items()} for row in rows]


def read_cells(path: pathlib.Path, types: dict[str, Callable[[str], object]]) -> list[dict]:
    """Returns rows as `read_csv` does, none without a file; ends the program at a damaged one."""
    try:
        return read_csv(path, types) if path.exists() else []
    except (OSError, ValueError, TypeError) as error:
        fail(f"{path} is damaged: {error!r}")


def number_or_nothing(text: str) -> float | str:
    """Returns the number in a column that may be empty."""
    return float(text) if text else ""


def markdown(rows: Sequence[dict], rule: str = "---", first_rule: str | None = None) -> str:
    """Returns rows of text as a table in Markdown, with the names of the columns above them.

    Args:
        rows: At least one row.
        rule: Text under the name of a column, which tells its alignment.
        first_rule: The same for the first column. Defaults to None: the rule of all others.
    """
    heading = "|" + "".join(f" {name} |" if name else " |" for name in rows[0])
    rules = [first_rule or rule, *[rule] * (len(rows[0]) - 1)]
    lines = [heading, f"|{'|'.join(rules)}|", *(f"| {' | '.join(row.values())} |" for row in rows)]
    return "\n".join(lines) + "\n"
