"""Pictures of capsule regression, as in its paper; functions of one return its figure."""

import pathlib

import keras
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from harness import plots
from kcaps.regression import CapsuleRegression
from kcaps.regression.moments import principal_directions
from pictures_of.data import Images
from pictures_of.distortions import distorted

BATCH = 2000
MOST_PROTOTYPES = 16  # columns that are still legible


def draw(
    model: CapsuleRegression, images: Images, history: dict[str, list[float]], output: pathlib.Path
) -> None:
    """Writes all pictures that the model allows; those of capsules need one capsule a class."""
    probabilities = model.predict(images.test[0], batch_size=BATCH, verbose=0)
    plots.save(curves(model, history), images, output / "curves.png")
    figure = plots.confusion(images, probabilities.argmax(-1))
    plots.save(figure, images, output / "confusion.png")
    dim = model.competition.capsule_dim
    if model.competition.architecture != "multiclass" or not isinstance(dim, int):
        return
    if dim == 2:
        plots.save(latent(model, images), images, output / "latent.png")
    if 2 <= dim <= MOST_PROTOTYPES:
        plots.save(prototypes(model, images), images, output / "prototypes.png")


def error_by_dimension(rows: list[dict]) -> Figure:
    """Draws the test error against the dimension of capsules, by architecture (Figure 5)."""
    figure, axis = plots.panels("Capsule regression")
    for name in dict.fromkeys(row["architecture"] for row in rows):
        line = sorted(
            (r["capsule_dim"], 100 * r["test_error"]) for r in rows if r["architecture"] == name
        )
        axis.plot(*zip(*line, strict=True), marker="o", label=name.replace("_", " "))
    axis.set(xscale="log", xlabel="capsule dimension d", ylabel="test error / %")
    dims = sorted({row["capsule_dim"] for row in rows})
    axis.set_xticks(dims, dims)
    axis.minorticks_off()
    axis.legend()
    return figure


def error_by_examples(rows: list[dict]) -> Figure:
    """Draws errors against the number of distorted digits seen."""
    figure, axis = plots.panels("Capsule regression on distorted digits")
    examples = [row["examples"] for row in rows]
    for key, label in (("test_error", "test"), ("val_error", "validation")):
        axis.plot(examples, [100 * row[key] for row in rows], marker=".", label=label)
    axis.set(xscale="log", xlabel="distorted digits seen", ylabel="error / %")
    if min(row[key] for row in rows for key in ("test_error", "val_error")) > 0:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
    axis.legend()
    return figure


def distortions(images: Images, seed: int, columns: int = 10, versions: int = 4) -> Figure:
    """Draws training digits above some of their distortions."""
    digits = images.train[0][:columns]
    repeated, sources = (np.repeat(x, versions, axis=0) for x in (digits, np.arange(len(digits))))
    x, sources = distorted(repeated, sources, seed, len(repeated))(0)
    rows, columns = versions + 1, len(digits)
    title, size = "Training digits and their distortions", (columns, rows + 0.5)
    figure, axes = plots.panels(title, rows, columns, size, squeeze=False, has_grid=False)
    for column, digit in enumerate(digits):
        for axis, image in zip(axes[:, column], [digit, *x[sources == column]], strict=True):
            axis.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=255)  # not rounded
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel("original")
    return figure


def updates(rows: list[dict], variants: dict[str, tuple[float, float]], capsule_dim: int) -> Figure:
    """Draws likelihood and error over the iterations of some updates (Figures 6 and 7)."""
    figure, axes = plots.panels(f"Updates, d = {capsule_dim}", 1, 2, (10, 4))
    for variant, (momentum, threshold) in variants.items():
        # The first weights, of iteration 0, have no place on a logarithmic axis.
        later = [row for row in rows if row["variant"] == variant and row["iteration"]]
        iterations = [row["iteration"] for row in later]
        style = {"color": "C1" if momentum else "C0", "linestyle": "--" if threshold else "-"}
        label = f"{variant}: γ = {momentum:g}, ν = {threshold:g}"
        axes[0].plot(iterations, [-row["loss"] for row in later], label=label, **style)
        axes[1].plot(iterations, [100 * row["error"] for row in later], label=label, **style)
    axes[0].set(ylabel="log-likelihood of an example")
    axes[1].set(ylabel="training error / %", ylim=(0, None))
    for axis in axes:
        axis.set(xlabel="iteration", xscale="log")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def initialisations(
    subspace: float, errors: dict[float, list[float]], capsule_dim: int, epochs: int
) -> Figure:
    """Draws lowest training errors in percent: from the subspace, and by level (Figure 8)."""
    title = f"Initialisations, d = {capsule_dim}"
    figure, axis = plots.panels(title, size=(7, 4), has_grid=False)
    axis.axhline(subspace, color="C1", label="subspace")
    for place, found in enumerate(errors.values()):
        labels = (None, None) if place else ("random", "random, median")
        spread = place + np.linspace(-0.2, 0.2, len(found))
        axis.plot(spread, found, ".", color="C0", label=labels[0])
        ends = place - 0.3, place + 0.3
        axis.hlines(np.median(found), *ends, color="C0", label=labels[1])
    axis.set_xticks(range(len(errors)), [f"{level:g}" for level in errors])
    axis.set(
        xlabel="standard deviation of the random weights",
        ylabel=f"lowest training error in {epochs} iterations / %",
    )
    axis.grid(alpha=0.3, axis="y")
    axis.legend()
    return figure


def curves(model: CapsuleRegression, history: dict[str, list[float]]) -> Figure:
    """Draws likelihood and error; in training, both are of the weights before an iteration."""
    figure, axes = plots.panels("Training curves", 1, 2, (9, 3.5))
    iterations = np.arange(len(history["loss"]))
    style = {"marker": ".", "markersize": 2, "linewidth": 1}
    pairs = model.competition.architecture == "all_vs_all"  # an error in training: any pair lost
    labels = ("training", "training, any pair" if pairs else "training")
    for axis, name, scale, label in zip(axes, ("loss", "error"), (1, 100), labels, strict=True):
        axis.plot(iterations, scale * np.array(history[name]), label=label, **style)
        held_out = scale * np.array(history[f"val_{name}"])
        axis.plot(iterations + 1, held_out, label="validation", **style)
        axis.set(xlabel="iteration", ylim=(0, None))
        axis.legend()
    axes[0].set_ylabel("negative log-likelihood")
    axes[1].set_ylabel("error / %")
    return figure


def _means(model, inputs):
    """Returns means of the capsules of all classes, `(n, num_classes, capsule_dim)`."""
    batches = [model.means(inputs[i : i + BATCH]) for i in range(0, len(inputs), BATCH)]
    return np.concatenate([keras.ops.convert_to_numpy(means)[:, 0] for means in batches])


def latent(model: CapsuleRegression, images: Images) -> Figure:
    """Draws means of the test images in each capsule, coloured by class (Figures 2 and 3).

    The means of an image are divided by their joint length, so that the squared radius is the
    share that the class would have without noise: points of its own class come near the circle of
    unit radius, others near the centre.
    """
    means, labels = _means(model, images.test[0]), images.test[1]
    means = means / np.linalg.norm(means, axis=(1, 2), keepdims=True)
    colours = plt.get_cmap("tab10")(np.arange(images.num_classes))
    columns = min(5, images.num_classes)
    rows = -(-images.num_classes // columns)
    size = (2.3 * columns, 2.5 * rows + 1)
    options = {"figsize": size, "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(rows, columns, sharex=True, sharey=True, **options)
    figure.suptitle("Capsules of the test images")
    for axis in axes.flat[images.num_classes :]:
        axis.set_axis_off()
    for k, axis in enumerate(axes.flat[: images.num_classes]):
        axis.scatter(*means[:, k].T, c=colours[labels], s=3, linewidths=0)
        axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="gray", linewidth=0.8))
        axis.set(title=images.class_names[k], aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    marks = [plt.Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
    figure.legend(marks, images.class_names, loc="outside lower center", ncols=columns)
    return figure


def prototypes(model: CapsuleRegression, images: Images) -> Figure:
    """Draws a row of training images a class, one for each direction of its capsule (Figure 4).

    The directions are the principal axes of the capsule's means over the class's training images:
    unlike the components, they do not depend on the basis, in which the model is free. Shown is
    the image whose mean lies nearest to the axis on either side, of the longer half of the means.
    """
    dim = model.competition.capsule_dim
    size = (max(0.7 * dim + 1.5, 5), 0.7 * images.num_classes + 0.8)
    figure, axes = plots.panels(
        "Prototypes", images.num_classes, dim, size, "compressed", squeeze=False, has_grid=False
    )
    for k, name in enumerate(images.class_names):
        members = images.train[0][images.train[1] == k]
        means = _means(model, members)[:, k]  # (n, d)
        lengths = np.linalg.norm(means, axis=-1)
        cosines = np.abs(means @ principal_directions(means.T @ means, dim))
        cosines = np.where(lengths >= np.median(lengths), cosines.T / lengths, 0.0)  # (d, n)
        for axis, nearest in zip(axes[k], cosines.argmax(-1), strict=True):
            plots.show(axis, members[nearest])
        axes[k, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    for column, axis in enumerate(axes[-1], 1):
        axis.set_xlabel(column)
    return figure
