"""Pictures of reproduced tables and figures."""

import numpy as np
from matplotlib import pyplot as plt

import pictures


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
            yerr=[row.get("deviation") or 0 for row in rows],
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
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    figure.suptitle(title, wrap=True)
    methods = list(dict.fromkeys(cell.method for cell in histories))
    for cell, history in histories.items():
        errors = 100 * (1 - np.array(history["val_accuracy"]))
        axis.plot(
            np.arange(1, len(errors) + 1),
            errors,
            marker=".",
            color=f"C{methods.index(cell.method)}",
            label=cell.method if cell.seed == 0 else None,
        )
    axis.set(xlabel="epoch", ylabel="validation error / %")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend()
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


def rebuilt(title, images, decoded, path):
    """Images above what a decoder makes of their capsules."""
    figure, axes = plt.subplots(
        2, len(images), figsize=(len(images), 2.6), layout="constrained", squeeze=False
    )
    figure.suptitle(title, wrap=True)
    for column, pair in enumerate(zip(images, decoded, strict=True)):
        for axis, pixels in zip(axes[:, column], pair, strict=True):
            pictures.show(axis, pixels)
    _save(figure, path)


def _save(figure, path):
    figure.savefig(path, dpi=100)
    plt.close(figure)
