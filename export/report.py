"""The report of an export, step by step, for people and as JSON."""

import dataclasses
import json
import operator
import pathlib
from typing import TYPE_CHECKING

from export.command import first_line

if TYPE_CHECKING:
    from export.parity import Comparison


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of an export, with the rows, differences and warnings of its comparison.

    Args:
        steps: List of dicts with `step` and `result`.
        comparison: The `export.parity.Comparison` with Keras.
        images: Text on the images of the comparison.
        about: Further plain values: precision, operators, hashes.
        notes: Warnings on the images, which come before those of the comparison. Defaults to ().
    """

    steps: list
    comparison: "Comparison"
    images: str
    about: dict
    notes: tuple = ()

    rows = property(operator.attrgetter("comparison.rows"))
    largest_difference = property(operator.attrgetter("comparison.largest_difference"))
    largest_relative_difference = property(
        operator.attrgetter("comparison.largest_relative_difference")
    )

    @property
    def warnings(self) -> list[str]:
        """Lines on what a user should look at."""
        return [*self.notes, *self.comparison.warnings]

    def json(self) -> str:
        before, after = self.comparison.accuracy_before, self.comparison.accuracy_after
        half = self.comparison.half
        content = {
            **self.about,
            "largest_difference": self.largest_difference,
            "largest_relative_difference": self.largest_relative_difference,
            "warnings": self.warnings,
            "accuracy": None if before is None else {"before": before, "after": after},
            "half_precision": half and dataclasses.asdict(half),
            "images": self.images,
            "comparison": [dataclasses.asdict(row) for row in self.rows],
            "steps": self.steps,
        }
        return json.dumps(content, indent=2) + "\n"

    def __str__(self):
        return "\n".join([*map(str, self.rows), *(f"  ! {line}" for line in self.warnings)])


def report_path(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of an export's report, which lies beside the file or folder."""
    return path.with_name(f"{path.name}.json")


def read_report(path: pathlib.Path) -> dict:
    """Returns the report of an exported file or folder, or an empty dict where there is none.

    Raises:
        ValueError: if it cannot be read.
    """
    report = report_path(path)
    try:
        content = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{report} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{report} is not a report of an export")
    return content
