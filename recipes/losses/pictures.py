"""Figures of a study of losses: those of Janocha and Czarnecki."""

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

from kcaps.losses import CLASSIFICATION_LOSSES

CLASSES = ListedColormap(["#4477aa", "#ee6677", "#228833", "#ccbb44"])
STYLES = {
    loss: {"color": f"C{number % 6}", "linestyle": "-" if number < 6 else "--"}
    for number, loss in enumerate(CLASSIFICATION_LOSSES)
}


def draw(name, title, curves, noise, table, output):
    """Draws all figures of a data set that its rows allow."""
    own = [row for row in curves if row["data"] == name]
    clean = [row for row in own if not row["label_noise"]]
    _save(_curves(clean), f"Learning curves ({title})", output / f"curves_{name}.png")
    speeds = [row for row in table if row["data"] == name and not row["label_noise"]]
    _save(_speed(speeds), f"Speed of learning ({title})", output / f"speed_{name}.png")
    if noisy := [row for row in own if row["label_noise"]]:
        figure = _label_noise(noisy)
        _save(figure, f"Test accuracy under label noise ({title})", output / "label_noise.png")
    if noise := [row for row in noise if row["data"] == name]:
        figure = _input_noise(noise)
        _save(figure, f"Training accuracy under input noise ({title})", output / "input_noise.png")
    for path in sorted(output.glob(f"decisions_{name}_*.npy")):
        depth = path.stem.rsplit("_", 1)[1]
        losses = list(dict.fromkeys(row["loss"] for row in clean))
        figure = _decisions(np.load(path, allow_pickle=False), losses)
        heading = f"Decisions, hidden layers: {depth} ({title})"
        _save(figure, heading, path.with_suffix(".png"))


def _save(figure, heading, path):
    figure.suptitle(heading, wrap=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _grid(rows, columns):
    size = (max(9, 3.4 * columns), 3 * rows + 1)  # the legend is 9 wide
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


def _lines(axis, rows, x, y, **options):
    """One line for each loss."""
    for loss in dict.fromkeys(row["loss"] for row in rows):
        own = [row for row in rows if row["loss"] == loss]
        values = [100 * row[y] for row in own]
        axis.plot([row[x] for row in own], values, label=loss, **STYLES[loss], **options)
    axis.grid(alpha=0.3)


def _legend(figure, axis):
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _curves(rows):
    """Accuracy by iteration: a column for each depth, training above test."""
    depths = sorted({row["depth"] for row in rows})
    figure, axes = _grid(2, len(depths))
    for column, depth in enumerate(depths):
        own = [row for row in rows if row["depth"] == depth]
        for line, split in enumerate(("train", "test")):
            _lines(axes[line, column], own, "iteration", f"{split}_accuracy")
        axes[0, column].set_title(f"hidden layers: {depth}")
        axes[1, column].set_xlabel("iteration")
    axes[0, 0].set_ylabel("training accuracy / %")
    axes[1, 0].set_ylabel("test accuracy / %")
    _legend(figure, axes[0, 0])
    return figure


def _speed(rows):
    """Expected accuracy of an iteration after the first tenth of them, by depth."""
    rows = sorted(rows, key=lambda row: row["depth"])
    figure, axes = _grid(1, 2)
    for axis, (split, label) in zip(
        axes[0], (("train", "training"), ("test", "test")), strict=True
    ):
        _lines(axis, rows, "depth", f"{split}_speed", marker=".")
        axis.set(xlabel="hidden layers", ylabel=f"expected {label} accuracy / %")
    _legend(figure, axes[0, 0])
    return figure


def _label_noise(rows):
    """Test accuracy by iteration: a row for each level, a column for each depth."""
    levels, depths = (sorted({row[name] for row in rows}) for name in ("label_noise", "depth"))
    figure, axes = _grid(len(levels), len(depths))
    for line, level in enumerate(levels):
        for column, depth in enumerate(depths):
            key = (level, depth)
            own = [row for row in rows if (row["label_noise"], row["depth"]) == key]
            axis = axes[line, column]
            _lines(axis, own, "iteration", "test_accuracy")
            axis.set_title(f"{100 * level:g} % changed, hidden layers: {depth}", fontsize=9)
            axis.set(xlabel="iteration", ylabel="test accuracy / %")
    _legend(figure, axes[0, 0])
    return figure


def _input_noise(rows):
    depths = sorted({row["depth"] for row in rows})
    figure, axes = _grid(1, len(depths))
    for axis, depth in zip(axes[0], depths, strict=True):
        own = [row for row in rows if row["depth"] == depth]
        _lines(axis, own, "variance", "train_accuracy")
        axis.set_title(f"hidden layers: {depth}")
        axis.set(xlabel="variance of the noise", ylabel="training accuracy / %")
    _legend(figure, axes[0, 0])
    return figure


def _decisions(decisions, losses):
    """The class that each network gives to each point of [-1, 1]²."""
    rows = -(-len(losses) // 4)
    figure, axes = plt.subplots(
        rows, 4, figsize=(9, 2.4 * rows + 0.4), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, classes, loss in zip(axes.flat, decisions, losses, strict=False):
        axis.imshow(classes, origin="lower", cmap=CLASSES, vmin=0, vmax=3)
        axis.set_title(loss, fontsize=9)
    return figure
