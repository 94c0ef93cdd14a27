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

    def json(self):
        before, after = self.comparison.accuracy_before, self.comparison.accuracy_after
        content = {
            **self.about,
            "largest_difference": self.largest_difference,
            "accuracy": None if before is None else {"before": before, "after": after},
            "images": self.images,
            "comparison": [dataclasses.asdict(row) for row in self.rows],
            "steps": self.steps,
        }
        return json.dumps(content, indent=2) + "\n"

    def __str__(self):
        return "\n".join(map(str, self.rows))
