"""Pictures of reproduced tables and figures."""

import numpy as np
from matplotlib import pyplot as plt

from harness import plots
from reproduction.summary import DEVIATION


def errors(title, found, path):
    """Test errors of each task as bars, with their spread over seeds."""
    names = list(dict.fromkeys(row["task"] for row in found))
    figure, axes = plt.subplots(
        1, len(names), figsize=(1.5 + 3.2 * len(names), 4), layout="constrained", squeeze=False
    )
    figure.suptitle(title, wrap=True)
    for axis, name in zip(axes[0], names, strict=True):
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
        axis.set_title(name)
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylabel("test error / %")
    _save(figure, path)


def curves(title, histories, path):
    """Validation errors against passes over the training images, a line for each seed.

    Args:
        title: Title of the picture.
        histories: Columns of history.csv, by `cells.Cell`.
        path: PNG file to be written.
    """
    names = list(dict.fromkeys(cell.task for cell in histories))
    figure, axes = plt.subplots(
        1, len(names), figsize=(1.5 + 4 * len(names), 4), layout="constrained", squeeze=False
    )
    figure.suptitle(title, wrap=True)
    for axis, name in zip(axes[0], names, strict=True):
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
        axis.set(title=name, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0, 0].set_ylabel("validation error / %")
    _save(figure, path)


def times(title, rows, path):
    """Times of 100 training steps by method."""
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    figure.suptitle(title, wrap=True)
    axis.bar([row["method"] for row in rows], [row["seconds_per_100_steps"] for row in rows])
    axis.tick_params(axis="x", rotation=45)
    axis.set_ylabel("seconds")
    axis.grid(axis="y", alpha=0.3)
    _save(figure, path)


def rebuilt(title, panels, path):
    """Rows of images: those of the data, and what decoders make of their capsules.

    Args:
        title: Title of the picture.
        panels: Arrays of equally many images, by what stands beside them.
        path: PNG file to be written.
    """
    size = len(panels), max(map(len, panels.values()))
    figure, axes = plt.subplots(
        *size, figsize=(size[1] + 2, size[0] + 0.6), layout="constrained", squeeze=False
    )
    figure.suptitle(title, wrap=True)
    for row, (name, images) in zip(axes, panels.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, pixels in zip(row, images, strict=True):
            plots.show(axis, pixels)
    _save(figure, path)


def _save(figure, path):
    figure.savefig(path, dpi=100)
    plt.close(figure)
