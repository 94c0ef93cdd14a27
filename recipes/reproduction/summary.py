"""The table of finished cells: mean and spread over seeds, beside what is published."""

import numpy as np

from reproduction import provenance

DEVIATION = "_deviation"  # after the name of the column that it belongs to


def rows(table, cells):
    """One row for each method of each task that has finished cells.

    Args:
        table: `tables.Table`.
        cells: Rows of finished cells, by `cells.Cell`.

    Returns:
        List of dicts: task, method, mean and deviation of the test error in per cent, and so on.
    """
    result = []
    for task, methods in table.methods.items():
        for method in methods:
            key = task, method
            found = [row for cell, row in cells.items() if (cell.task, cell.method) == key]
            if found:
                result.append(
                    _row(found, table.published.get(key, ""), table.best_known.get(task, ""))
                )
    return result


def _row(cells, published, best_known):
    return {
        "task": cells[0]["task"],
        "method": cells[0]["method"],
        **spread("test_error", [cell["test_error"] for cell in cells]),
        "validation_error": float(np.mean([cell["validation_error"] for cell in cells])),
        "published": published,
        "best_known": best_known,
        "seeds": len(cells),
        "epochs": cells[0]["epochs"],
        "parameters": cells[0]["parameters"],
        "minutes": float(np.mean([cell["seconds"] for cell in cells])) / 60,
        # Cells of one row may be of different days and machines.
        **{
            key: "; ".join(dict.fromkeys(cell[key] for cell in cells)) for key in provenance.COLUMNS
        },
    }


def spread(name, values):
    """Mean of values over seeds under a name, and their standard deviation beside it."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else ""
    return {name: float(np.mean(values)), f"{name}{DEVIATION}": deviation}


def markdown(rows):
    """Rows as a table, and the commands that gave them."""
    names = [name for name in rows[0] if name != "command" and not name.endswith(DEVIATION)]
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |"]
    lines.append("|---" * len(names) + "|")
    for row in rows:
        values = {name: _text(row[name]) for name in names}
        for name in names:
            if row.get(f"{name}{DEVIATION}", "") != "":
                values[name] += f" ± {_text(row[f'{name}{DEVIATION}'])}"
        lines.append(f"| {' | '.join(values.values())} |")
    commands = dict.fromkeys(row["command"] for row in rows)
    return "\n".join([*lines, "", *(f"`{command}`" for command in commands)]) + "\n"


def _text(value):
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
