"""Figures of a study of losses: those of Janocha and Czarnecki."""

import pathlib
from collections.abc import Sequence

import keras
import numpy as np
from matplotlib.colors import ListedColormap

from harness import plots
from kcaps.losses import CLASSIFICATION_LOSSES
from losses.cells import Examples

# Losses of linear outputs; the others are of probabilities.
OF_OUTPUTS = ("l1", "l2", "hinge", "squared_hinge", "cubed_hinge")
CLASSES = ListedColormap(["#4477aa", "#ee6677", "#228833", "#ccbb44"])
STYLES = {
    loss: {"color": f"C{number % 6}", "linestyle": "-" if number < 6 else "--"}
    for number, loss in enumerate(CLASSIFICATION_LOSSES)
}


def draw(name: str, examples: Examples, rows: Sequence[list[dict]], output: pathlib.Path) -> None:
    """Draws all figures of a data set that rows of its curves, input noise and table allow."""
    curves, noise, table = ([row for row in kind if row["data"] == name] for kind in rows)
    noisy = [row for row in curves if row["label_noise"]]
    clean, speeds = ([row for row in x if not row["label_noise"]] for x in (curves, table))
    plots.save(_curves(clean), examples, output / f"curves_{name}.png")
    plots.save(_speed(speeds), examples, output / f"speed_{name}.png")
    if noisy:
        plots.save(_label_noise(noisy), examples, output / "label_noise.png")
    if noise:
        plots.save(_input_noise(noise), examples, output / "input_noise.png")
    losses = list(dict.fromkeys(row["loss"] for row in clean))
    for path in sorted(output.glob(f"decisions_{name}_*.npy")):
        title = f"Decisions, hidden layers: {path.stem.rsplit('_', 1)[1]}"
        figure = _decisions(title, np.load(path, allow_pickle=False), losses)
        plots.save(figure, examples, path.with_suffix(".png"))


def draw_losses(path: pathlib.Path) -> None:
    """Draws the losses of an example, and their derivatives, by the output of its class.

    There are two classes, and the output of the other one is zero. Derivatives are differences of
    values a hundredth apart.
    """
    outputs = np.linspace(-3, 3, 601, dtype="float32")
    pairs = np.stack([outputs, np.zeros_like(outputs)], axis=-1)
    labels = np.zeros(len(outputs), "int32")
    values = {
        name: keras.ops.convert_to_numpy(loss(reduction="none")(labels, pairs))
        for name, loss in CLASSIFICATION_LOSSES.items()
    }
    figure, (left, *others) = plots.panels(
        "Losses of one of two classes, the other's output 0", columns=3, size=(13, 4.6)
    )
    titles = "derivatives, losses of outputs", "derivatives, losses of probabilities"
    for axis, title in zip((left, *others), ("losses", *titles), strict=True):
        axis.set(xlabel="output of the right class", title=title)
    for name, found in values.items():
        left.plot(outputs, found, label=name, **STYLES[name])
        slopes = np.gradient(found, outputs)
        others[name not in OF_OUTPUTS].plot(outputs, slopes, **STYLES[name])
    left.set_ylim(-1.2, 6)
    others[0].set_ylim(-8, 8)
    _legend(figure, left)
    plots.write(figure, path)


def _grid(title, rows, columns):
    size = (max(9, 3.4 * columns), 3 * rows + 1)  # the legend is 9 wide
    return plots.panels(title, rows, columns, size, squeeze=False)


def _lines(axis, rows, x, y, marker=None):
    """Draws one line for each loss."""
    for loss in dict.fromkeys(row["loss"] for row in rows):
        line = [row for row in rows if row["loss"] == loss]
        values = [100 * row[y] for row in line]
        axis.plot([row[x] for row in line], values, label=loss, marker=marker, **STYLES[loss])


def _legend(figure, axis):
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _by(rows, name):
    """Returns rows by the values of a column, in order."""
    values = sorted({row[name] for row in rows})
    return {value: [row for row in rows if row[name] == value] for value in values}


def _curves(rows):
    """Draws accuracy by iteration: a column for each depth, training above test."""
    by_depth = _by(rows, "depth")
    figure, axes = _grid("Learning curves", 2, len(by_depth))
    for column, (depth, own) in zip(axes.T, by_depth.items(), strict=True):
        for axis, split in zip(column, ("train", "test"), strict=True):
            _lines(axis, own, "iteration", f"{split}_accuracy")
        column[0].set_title(f"hidden layers: {depth}")
        column[1].set_xlabel("iteration")
    axes[0, 0].set_ylabel("training accuracy / %")
    axes[1, 0].set_ylabel("test accuracy / %")
    _legend(figure, axes[0, 0])
    return figure


def _speed(rows):
    """Draws the expected accuracy of an iteration after the first tenth of them, by depth."""
    rows = sorted(rows, key=lambda row: row["depth"])
    figure, axes = _grid("Speed of learning", 1, 2)
    for axis, split, label in zip(axes[0], ("train", "test"), ("training", "test"), strict=True):
        _lines(axis, rows, "depth", f"{split}_speed", marker=".")
        axis.set(xlabel="hidden layers", ylabel=f"expected {label} accuracy / %")
    _legend(figure, axes[0, 0])
    return figure


def _label_noise(rows):
    """Draws test accuracy by iteration: a row for each level, a column for each depth."""
    by_level, depths = _by(rows, "label_noise"), _by(rows, "depth")
    figure, axes = _grid("Test accuracy under label noise", len(by_level), len(depths))
    for line, (level, own) in zip(axes, by_level.items(), strict=True):
        for axis, depth in zip(line, depths, strict=True):
            _lines(axis, _by(own, "depth").get(depth, []), "iteration", "test_accuracy")
            axis.set_title(f"{100 * level:g} % changed, hidden layers: {depth}", fontsize=9)
            axis.set(xlabel="iteration", ylabel="test accuracy / %")
    _legend(figure, axes[0, 0])
    return figure


def _input_noise(rows):
    """Draws training accuracy by the variance of noise: a column for each depth."""
    by_depth = _by(rows, "depth")
    figure, axes = _grid("Training accuracy under input noise", 1, len(by_depth))
    for axis, (depth, own) in zip(axes[0], by_depth.items(), strict=True):
        _lines(axis, own, "variance", "train_accuracy")
        axis.set_title(f"hidden layers: {depth}")
        axis.set(xlabel="variance of the noise", ylabel="training accuracy / %")
    _legend(figure, axes[0, 0])
    return figure


def _decisions(title, decisions, losses):
    """Draws the class that each network gives to each point of [-1, 1]²."""
    rows = -(-len(losses) // 4)
    size = (9, 2.4 * rows + 0.4)
    figure, axes = plots.panels(title, rows, 4, size, squeeze=False, has_grid=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, classes, loss in zip(axes.flat, decisions, losses, strict=False):
        axis.imshow(classes, origin="lower", cmap=CLASSES, vmin=0, vmax=3)
        axis.set_title(loss, fontsize=9)
    return figure
