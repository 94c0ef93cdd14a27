"""Pictures of a trained model, written into its checkpoint folder."""

import contextlib
import pathlib

import keras
import numpy as np
import sklearn.metrics  # noqa: F401  Without it, no training should begin that it is to picture.
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kcaps import visualization
from kcaps.visualization import drawing
from pictures_of import data

VARIED = 1000  # test images whose capsules say how far a component is varied


def draw(
    model: keras.Model,
    images: data.Images,
    lengths: np.ndarray,
    history: dict[str, list[float]],
    output: pathlib.Path,
) -> None:
    """Draws all pictures that the model allows.

    Those of capsules need a layer of class capsules, and those of reconstructions a decoder.

    Args:
        model: Trained network of raw images.
        images: Images in three splits.
        lengths: Outputs for the test images.
        history: Columns of history.csv.
        output: Checkpoint folder.
    """
    save(curves(history), images, output / "curves.png")
    save(confusion(images, lengths.argmax(-1)), images, output / "confusion.png")
    x, labels = (part[:VARIED] for part in images.test)
    if getattr(model, "class_layer", None) is not None:
        if len(x) > 1:
            figure = visualization.capsules(model, x, labels, images.class_names)
            save(figure, images, output / "capsules.png")
        with contextlib.suppress(NotImplementedError):  # Some routings tell no couplings.
            figure = visualization.couplings(model, x, images.class_names)
            save(figure, images, output / "couplings.png")
    if getattr(model, "decoder", None) is not None:
        figure = visualization.reconstructions(model, x, class_names=images.class_names)
        save(figure, images, output / "reconstructions.png")
        if np.bincount(labels).max() > 1:  # One image of a class tells no spread.
            figure = visualization.dimensions(model, x, labels, images.class_names)
            save(figure, images, output / "dimensions.png")


def panels(
    title: str,
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (6, 4),
    layout: str = "constrained",
    squeeze: bool = True,
    has_grid: bool = True,
) -> tuple[Figure, Axes | np.ndarray]:
    """Returns a figure with a title and its panels, as `pyplot.subplots` does."""
    figure, axes = plt.subplots(rows, columns, figsize=size, layout=layout, squeeze=squeeze)
    figure.suptitle(title)
    for axis in figure.axes if has_grid else ():
        axis.grid(alpha=0.3)
    return figure, axes


def save(figure: Figure, images: data.Images, path: pathlib.Path) -> None:
    """Writes a figure, with the name of the data in its title."""
    figure.suptitle(f"{figure.get_suptitle()} ({drawing.plain(images.title)})")
    write(figure, path)


def write(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure, whose title says already what it needs to say."""
    figure.suptitle(figure.get_suptitle(), wrap=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def curves(history: dict[str, list[float]], metric: str = "accuracy") -> Figure:
    """Returns a figure of the loss and the accuracy by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    figure.suptitle("Training curves")
    epochs = np.arange(1, len(history["loss"]) + 1)
    for axis, name in zip(axes, ("loss", metric), strict=True):
        axis.plot(epochs, history[name], marker=".", label="training")
        axis.plot(epochs, history[f"val_{name}"], marker=".", label="validation")
        axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    return figure


def confusion(images: data.Images, predictions: np.ndarray) -> Figure:
    """Returns a figure of the confusion matrix of the test images, given the predicted classes."""
    return visualization.confusion_matrix(images.test[1], predictions, images.class_names)


def show(axis: Axes, image: np.ndarray) -> None:
    """Fills a panel with an image of values from 0 to 255."""
    drawing.show(axis, image, (0, 255))
