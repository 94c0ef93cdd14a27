"""The numbers of a benchmark as a CSV file, beside its tables for people."""

import csv
import datetime
import os
import pathlib

COLUMNS = (
    "section",
    "row",
    "batch_size",
    "num_inputs",
    "precision",
    "median_ms",
    "low_ms",
    "high_ms",
    "of_textbook",
    "of_convolutions",
    "of_factored",
    "times_pytorch",
    "of_fastest_peer",
    "of_floor",
    "mib",
    "note",
)
PROVENANCE = ("versions", "commit", "date")


class Records:
    """Rows of a CSV file, which is whole after each section of a benchmark.

    Args:
        path: The file, or None for no file.
        provenance: Values of the columns `PROVENANCE`, but for the date.
        **common: Values that all rows have in common, by column.
    """

    def __init__(self, path: pathlib.Path | None, provenance: dict, **common: object):
        self._path, self._rows = path, []
        self._provenance = provenance | {"date": datetime.date.today().isoformat()}
        self._common = common

    def add(self, section: str, row: str, seconds=None, **values: object) -> None:
        """Adds a row.

        Args:
            section: Name of the benchmark's section.
            row: Name of the row.
            seconds: Quartiles of the seconds, lower, median and upper. Defaults to None: none.
            **values: Further values, by column.
        """
        if seconds is not None:
            low, median, high = (f"{1e3 * value:.5g}" for value in seconds)
            values |= {"low_ms": low, "median_ms": median, "high_ms": high}
        self._rows.append(
            {"section": section, "row": row} | self._common | values | self._provenance
        )

    def write(self) -> None:
        """Writes the rows so far aside and in place."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(".part")
        with open(aside, "w", newline="") as file:
            writer = csv.DictWriter(file, (*COLUMNS, *PROVENANCE))
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(aside, self._path)
