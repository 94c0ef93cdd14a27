"""Pictures of a trained capsule network, written into its checkpoint folder."""

import pathlib

import keras
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from kcaps.layers import CapsuleMask
from pictures_of import data

COLUMNS = 10
SHIFTS = np.linspace(-0.25, 0.25, 11)


def draw(
    model: keras.Model,
    images: data.Images,
    lengths: np.ndarray,
    history: dict[str, list[float]],
    output: pathlib.Path,
) -> None:
    """Draws all pictures that the model allows; those of reconstructions need a decoder.

    Args:
        model: Trained network of raw images.
        images: Images in three splits.
        lengths: Outputs for the test images.
        history: Columns of history.csv.
        output: Checkpoint folder.
    """
    predictions = lengths.argmax(-1)
    save(curves(history), images, output / "curves.png")
    save(confusion(images, predictions), images, output / "confusion.png")
    if getattr(model, "decoder", None) is not None:
        poses = _class_poses(model, images.test[0][:COLUMNS])
        figure = _reconstructions(model, images, poses)
        save(figure, images, output / "reconstructions.png")
        save(_dimensions(model, images, poses), images, output / "dimensions.png")


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
    figure.suptitle(f"{figure.get_suptitle()} ({images.title})", wrap=True)
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
    figure, axis = plt.subplots(figsize=(6.5, 6), layout="constrained")
    figure.suptitle("Confusion matrix of the test images")
    ConfusionMatrixDisplay.from_predictions(
        images.test[1],
        predictions,
        labels=range(images.num_classes),
        display_labels=images.class_names,
        xticks_rotation="vertical",
        colorbar=False,
        cmap="Blues",
        ax=axis,
    )
    return figure


def _class_poses(model, test_images):
    network = keras.Model(model.input, model.class_poses)
    poses = network(test_images.astype("float32"), training=False)
    return keras.ops.convert_to_numpy(poses)


def _decode(model, masked):
    return keras.ops.convert_to_numpy(model.decoder(masked, training=False))


def show(axis: Axes, image: np.ndarray) -> None:
    """Fills a panel with an image of values from 0 to 255."""
    axis.imshow(image.clip(0, 255).astype("uint8"), cmap="gray", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])


def _reconstructions(model, images, poses):
    """Returns a figure of test images above their reconstructions from the longest capsule."""
    decoded = _decode(model, CapsuleMask()(poses))
    figure, axes = plt.subplots(
        2, len(poses), figsize=(len(poses), 2.6), layout="constrained", squeeze=False
    )
    figure.suptitle("Test images and their reconstructions")
    for column in range(len(poses)):
        show(axes[0, column], images.test[0][column])
        show(axes[1, column], decoded[column])
    axes[0, 0].set_ylabel("original")
    axes[1, 0].set_ylabel("decoded")
    return figure


def _dimensions(model, images, poses):
    """Returns a figure of the first test image, each component of its capsule varied in turn."""
    pose = poses[0]  # (j, d)
    winner = int(np.linalg.norm(pose, axis=-1).argmax())
    size = pose.shape[-1]
    varied = np.zeros((size, len(SHIFTS), *pose.shape), "float32")
    for component in range(size):
        varied[component, :, winner] = pose[winner]
        varied[component, :, winner, component] += SHIFTS
    decoded = _decode(model, varied.reshape(-1, *pose.shape))
    decoded = decoded.reshape(size, len(SHIFTS), *decoded.shape[1:])
    figure, axes = plt.subplots(
        size, len(SHIFTS), figsize=(0.7 * len(SHIFTS), 0.7 * size), layout="constrained"
    )
    figure.suptitle(f"Capsule of class {images.class_names[winner]}: one component varied a row")
    for row in range(size):
        for column, shift in enumerate(SHIFTS):
            show(axes[row, column], decoded[row, column])
            if row == size - 1:
                axes[row, column].set_xlabel(f"{shift:+.2f}", fontsize=7)
        axes[row, 0].set_ylabel(row, rotation=0, labelpad=8)
    return figure
