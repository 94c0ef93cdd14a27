"""Pictures of reproduced tables and figures."""

import pathlib
from collections.abc import Sequence

import numpy as np

from harness import plots
from kcaps import visualization
from reproduction.cells import Cell
from reproduction.summary import DEVIATION


def errors(title: str, found: Sequence[dict], path: pathlib.Path) -> None:
    """Draws test errors of each task as bars, with their spread over seeds."""
    figure, axes = _panels(title, [row["task"] for row in found], width=3.2)
    for name, axis in axes.items():
        rows = [row for row in found if row["task"] == name]
        axis.bar(
            range(len(rows)),
            [row["test_error"] for row in rows],
            yerr=[row.get(f"test_error{DEVIATION}") or 0 for row in rows],
            capsize=4,
            color="tab:blue",
            alpha=0.7,
        )
        axis.set_xticks(range(len(rows)), [row["method"] for row in rows], rotation=45, ha="right")
        axis.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("test error / %")
    plots.write(figure, path)


def curves(title: str, histories: dict[Cell, dict], path: pathlib.Path) -> None:
    """Draws validation errors of cells by epoch, from columns of their history.csv."""
    figure, axes = _panels(title, [cell.task for cell in histories], width=4)
    for name, axis in axes.items():
        of_task = {cell: history for cell, history in histories.items() if cell.task == name}
        methods = list(dict.fromkeys(cell.method for cell in of_task))
        for cell, history in of_task.items():
            known = history.get("val_accuracy", history.get("val_exact_match"))
            axis.plot(
                np.arange(1, len(known) + 1),
                100 * (1 - np.array(known)),
                marker=".",
                color=f"C{methods.index(cell.method)}",
                label=cell.method if cell.seed == 0 else None,
            )
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.axes[0].set_ylabel("validation error / %")
    plots.write(figure, path)


def times(title: str, rows: Sequence[dict], path: pathlib.Path) -> None:
    """Draws times of 100 training steps by method."""
    figure, axis = plots.panels(title, size=(6.5, 4), has_grid=False)
    axis.bar([row["method"] for row in rows], [row["seconds_per_100_steps"] for row in rows])
    axis.tick_params(axis="x", rotation=45)
    axis.set_ylabel("seconds")
    axis.grid(axis="y", alpha=0.3)
    plots.write(figure, path)


def rebuilt(title: str, panels: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Draws rows of equally many images, by the words beside them."""
    plots.write(visualization.image_grid(panels, title, limits=(0, 255)), path)


def _panels(title, names, width):
    """Returns a figure, and its panels by their names, side by side."""
    names = list(dict.fromkeys(names))
    size = 1.5 + width * len(names), 4
    figure, axes = plots.panels(title, 1, len(names), size, squeeze=False, has_grid=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    return figure, dict(zip(names, axes[0], strict=True))
