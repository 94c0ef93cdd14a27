"""Pictures of capsule regression, as in its paper."""

import keras
import numpy as np
from matplotlib import pyplot as plt

from harness import plots
from kcaps.regression.moments import principal_directions

FILES = (
    "curves.png",
    "confusion.png",
    "latent.png",
    "prototypes.png",
    "error_by_dimension.png",
)
BATCH = 2000
MOST_PROTOTYPES = 16  # columns that are still legible


def draw(model, images, history, output):
    """Draws all pictures that the model allows; those of capsules need one capsule a class.

    Args:
        model: Trained `CapsuleRegression` of raw images.
        images: `data.Images`.
        history: Columns of history.csv.
        output: Checkpoint folder.
    """
    probabilities = model.predict(images.test[0], batch_size=BATCH, verbose=0)
    plots.save(_curves(model, history), images, output / "curves.png")
    figure = plots.confusion(images, probabilities.argmax(-1))
    plots.save(figure, images, output / "confusion.png")
    dim = model.competition.capsule_dim
    if model.competition.architecture != "multiclass" or not isinstance(dim, int):
        return
    if dim == 2:
        plots.save(_latent(model, images), images, output / "latent.png")
    if 2 <= dim <= MOST_PROTOTYPES:
        plots.save(_prototypes(model, images), images, output / "prototypes.png")


def draw_sweep(rows, images, output):
    """Test error against the dimension of capsules, one line for each architecture (Figure 5)."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    figure.suptitle("Capsule regression")
    for name in dict.fromkeys(row["architecture"] for row in rows):
        line = sorted(
            (r["capsule_dim"], 100 * r["test_error"]) for r in rows if r["architecture"] == name
        )
        axis.plot(*zip(*line, strict=True), marker="o", label=name.replace("_", " "))
    axis.set(xscale="log", xlabel="capsule dimension d", ylabel="test error / %")
    dims = sorted({row["capsule_dim"] for row in rows})
    axis.set_xticks(dims, dims)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    plots.save(figure, images, output / "error_by_dimension.png")


def _curves(model, history):
    """Likelihood and error; both are of the weights before an iteration in training."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    figure.suptitle("Training curves")
    iterations = np.arange(len(history["loss"]))
    style = {"marker": ".", "markersize": 2, "linewidth": 1}
    pairs = model.competition.architecture == "all_vs_all"  # an error in training: any pair lost
    labels = ("training", "training, any pair" if pairs else "training")
    for axis, name, scale, label in zip(axes, ("loss", "error"), (1, 100), labels, strict=True):
        axis.plot(iterations, scale * np.array(history[name]), label=label, **style)
        held_out = scale * np.array(history[f"val_{name}"])
        axis.plot(iterations + 1, held_out, label="validation", **style)
        axis.set(xlabel="iteration", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("negative log-likelihood")
    axes[1].set_ylabel("error / %")
    return figure


def _means(model, inputs):
    """Means of the capsules of all classes, `(n, num_classes, capsule_dim)`."""
    batches = [model.means(inputs[i : i + BATCH]) for i in range(0, len(inputs), BATCH)]
    return np.concatenate([keras.ops.convert_to_numpy(means)[:, 0] for means in batches])


def _latent(model, images):
    """Means of the test images in each capsule, coloured by class (Figures 2 and 3).

    The means of an image are divided by their joint length, so that the squared radius is the
    share that the class would have without noise: points of its own class come near the circle of
    unit radius, others near the centre.
    """
    means, labels = _means(model, images.test[0]), images.test[1]
    means = means / np.linalg.norm(means, axis=(1, 2), keepdims=True)
    colours = plt.get_cmap("tab10")(np.arange(images.num_classes))
    columns = min(5, images.num_classes)
    rows = -(-images.num_classes // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.3 * columns, 2.5 * rows + 1),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
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


def _prototypes(model, images):
    """For each class a row of training images, one for each direction of its capsule (Figure 4).

    The directions are the principal axes of the capsule's means over the class's training images:
    unlike the components, they do not depend on the basis, in which the model is free. Shown is
    the image whose mean lies nearest to the axis on either side, of the longer half of the means.
    """
    dim = model.competition.capsule_dim
    figure, axes = plt.subplots(
        images.num_classes,
        dim,
        figsize=(max(0.7 * dim + 1.5, 5), 0.7 * images.num_classes + 0.8),
        layout="compressed",
        squeeze=False,
    )
    figure.suptitle("Prototypes")
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
