"""Summary of the comparison of baselines: a row for each model, over its seeds."""

import numpy as np

from comparison.models import BASELINES
from comparison.settings import MODELS, REGRESSION, ComparisonSettings
from harness import measurements, provenance, tables

QUANTITIES = {"mean": "test_accuracy", "deviation": "test_accuracy_deviation"}
QUANTITIES |= {"best": "best_test_accuracy", "peak": "peak_of_the_curve"}
UNITS = {name: "%" for name in QUANTITIES.values() if not name.endswith("_deviation")}


def table(rows: list[dict], is_published: bool) -> list[dict]:
    """Returns a row for each model of cells.csv, beside its accuracy if that is published."""
    cells = {name: [row for row in rows if row["model"] == name] for name in MODELS}
    return [_row(name, found, is_published) for name, found in cells.items() if found]


def _row(model, cells, is_published):
    accuracies = [100 * row["test_accuracy"] for row in cells]
    peaks = [100 * row["peak_test_accuracy"] for row in cells if model != REGRESSION]
    has_paper = is_published and model != REGRESSION
    return {
        "model": model,
        "seeds": len(cells),
        "steps": cells[0]["steps"],
        "mean": np.mean(accuracies),
        "deviation": np.std(accuracies, ddof=1) if len(cells) > 1 else "",
        "best": max(accuracies),
        "peak": np.mean(peaks) if peaks else "",
        "paper": BASELINES[model].published if has_paper else "",
        "note": BASELINES[model].note if has_paper else "",
        "parameters": cells[0]["parameters"],
        "seconds_per_epoch": np.median([row["seconds_per_epoch"] for row in cells]),
        **{
            name: "; ".join(dict.fromkeys(row[name] for row in cells))
            for name in provenance.COLUMNS
        },
    }


def measured(settings: ComparisonSettings, rows: list[dict]) -> list[dict]:
    """Returns the rows of `table` as measurements."""
    found = []
    for row in rows:
        named = {QUANTITIES.get(name, name): value for name, value in row.items()}
        common = {
            "item": "accuracies",
            "data": settings.data,
            "method": row["model"],
            "setting": f"{row['steps']:,} steps{settings.remarks}",
            "seeds": row["seeds"],
            "note": row["note"],
        }
        added = measurements.of_summary(named, UNITS, "_deviation", **common)
        if row["paper"]:
            added[0] |= {"paper_value": row["paper"], "paper_place": "Daza"}
        found += added
    return found


def markdown(rows: list[dict]) -> str:
    """Returns the rows of `table` as a table in Markdown."""
    return tables.markdown([_shown(row) for row in rows])


def _shown(row):
    spread = "" if row["deviation"] == "" else f" ± {row['deviation']:.2f}"
    return {
        "model": row["model"],
        "test accuracy / %": f"{row['mean']:.2f}{spread}",
        "best": f"{row['best']:.2f}",
        "peak of the curve": str(row["peak"] and f"{row['peak']:.2f}"),
        "paper": row["paper"],
        "parameters": f"{row['parameters']:,}",
        "s per epoch": f"{row['seconds_per_epoch']:.3g}",
        "steps": f"{row['steps']:,}",
        "seeds": str(row["seeds"]),
        "note": row["note"],
    }
