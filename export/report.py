"""What an export did, step by step, for people and as JSON."""

import dataclasses
import json

from export.parity import Comparison


class Steps:
    """The steps of an export, shown as they end.

    Args:
        show: Function of one line of text, or None.
    """

    def __init__(self, show=None):
        self.done = []
        self._show = show

    def __call__(self, name, result):
        self.done.append({"step": name, "result": str(result)})
        if self._show is not None:
            self._show(f"✓ {name:<11}{result}")


def compared(images, comparison):
    """The result of the step that compares, in one line.

    Args:
        images: The `export.images.Images`.
        comparison: The `export.parity.Comparison`.
    """
    steady = ", ".join(x.output for x in comparison.steady)
    return f"{images}, {comparison.differences}{f'; hardly varied: {steady}' if steady else ''}"


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of an export.

    Args:
        steps: List of dicts with `step` and `result`.
        comparison: The `export.parity.Comparison` with Keras.
        images: What was compared on, as text.
        about: Further plain values: precision, operators, hashes.
    """

    steps: list
    comparison: Comparison
    images: str
    about: dict

    @property
    def rows(self):
        return self.comparison.rows

    @property
    def largest_difference(self):
        return self.comparison.largest_difference

    @property
    def largest_relative_difference(self):
        return self.comparison.largest_relative_difference

    @property
    def warnings(self):
        """List of lines on what makes the comparison say little, as of a dead model."""
        return self.comparison.warnings

    def json(self):
        before, after = self.comparison.accuracy_before, self.comparison.accuracy_after
        content = {
            **self.about,
            "largest_difference": self.largest_difference,
            "largest_relative_difference": self.largest_relative_difference,
            "warnings": self.warnings,
            "accuracy": None if before is None else {"before": before, "after": after},
            "images": self.images,
            "comparison": [dataclasses.asdict(row) for row in self.rows],
            "steps": self.steps,
        }
        return json.dumps(content, indent=2) + "\n"

    def __str__(self):
        return "\n".join([*map(str, self.rows), *(f"  ! {line}" for line in self.warnings)])
