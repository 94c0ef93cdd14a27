"""What the figures have in common: panels, images in them, and names of the classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kcaps.extras import needed_by

if TYPE_CHECKING:  # Who draws nothing needs no Matplotlib.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMES = 20  # classes whose names are still legible along an axis
_FEW_PIXELS = 16  # Of fewer a side, one sees squares rather than the thing that they show.


def panels(
    title: str, rows: int = 1, columns: int = 1, size: tuple[float, float] = (6, 4)
) -> tuple["Figure", np.ndarray]:
    """Returns a figure with a title, and its panels as an array `(rows, columns)`.

    Args:
        title: Title of the figure.
        rows: Number of rows.
        columns: Number of columns.
        size: Width and height in inches.

    Raises:
        ModuleNotFoundError: where Matplotlib is not installed, with the way to have it.
    """
    with needed_by("kcaps.visualization", "visualization", matplotlib="matplotlib"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.08)  # Labels may overlap the edge by less.
    figure.suptitle(title, wrap=True)
    return figure, figure.subplots(rows, columns, squeeze=False)


def show(axis: "Axes", image: np.ndarray, limits: tuple[float, float]) -> None:
    """Fills a panel with an image; one of fewer than 16 pixels a side is drawn smoothly.

    Args:
        axis: The panel.
        image: Array `(height, width)`, or `(height, width, channels)` with 1 or 3 channels.
        limits: The values of black and of full brightness.
    """
    low, high = limits
    smooth = "bicubic" if min(image.shape[:2]) < _FEW_PIXELS else "nearest"
    if image.ndim == 3 and image.shape[-1] == 3:
        shares = (np.asarray(image, "float32") - low) / (high - low)
        axis.imshow(shares.clip(0, 1), interpolation=smooth)
    else:
        gray = image[..., 0] if image.ndim == 3 else image
        axis.imshow(gray, cmap="gray", vmin=low, vmax=high, interpolation=smooth)
    axis.set_xticks([])
    axis.set_yticks([])


def limits_of(images: np.ndarray) -> tuple[float, float]:
    """Returns the values of black and of full brightness that images are meant to have.

    They are 0 and 255 for bytes, and for other numbers the first of 0 and 1, 0 and 255 that holds
    them all, or else their own smallest and largest value.

    Args:
        images: Array of any shape.
    """
    if np.issubdtype(images.dtype, np.integer):
        return 0.0, 255.0
    low, high = float(np.min(images)), float(np.max(images))
    for known in (1.0, 255.0):
        if 0 <= low and high <= known:
            return 0.0, known
    return (low, high) if low < high else (low, low + 1.0)


def plain(text: object) -> str:
    """Returns text as Matplotlib writes it as it is: between two dollars it would read formulas."""
    return str(text).replace("$", r"\$")


def names_of(class_names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Returns the names of classes for panels, which are their numbers where none are given.

    Raises:
        ValueError: for another number of names than of classes.
    """
    if class_names is None:
        return [str(number) for number in range(num_classes)]
    names = [str(name) for name in class_names]
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must be {num_classes}, one for each class. Received: {len(names)} "
            f"names, {names[:5]}{' and others' if len(names) > 5 else ''}."
        )
    return [plain(name) for name in names]


def label_axis(axis: "Axes", name: str, which: str, names: Sequence[str]) -> None:
    """Writes the name of an axis, and the names of classes along it as far as they are legible.

    Args:
        axis: The panel.
        name: What is along the axis.
        which: `"x"` or `"y"`.
        names: Names of the classes.
    """
    getattr(axis, f"set_{which}label")(name)
    if len(names) <= MOST_NAMES:
        is_long = which == "x" and max(map(len, names)) > 2
        options = {"rotation": "vertical"} if is_long else {}
        getattr(axis, f"set_{which}ticks")(range(len(names)), names, **options)
