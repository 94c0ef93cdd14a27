"""Rows of images under each other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kcaps.visualization.drawing import limits_of, panels, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST_WIDTH = 4.5  # inches, for the title


def image_grid(
    rows: Mapping[str, Sequence[np.ndarray]],
    title: str = "",
    headings: Sequence[str] = (),
    captions: Mapping[str, Sequence[str]] | None = None,
    limits: tuple[float, float] | None = None,
    panel_height: float = 1.0,
) -> "Figure":
    """Draws rows of equally many images, with words beside the rows and above the columns.

    Args:
        rows: Images of each row, `(n, height, width, channels)` with 1 or 3 channels, by the words
            beside it.
        title: Title of the figure. Defaults to none.
        headings: Words above each column. Defaults to none.
        captions: Words below the images of some rows, by the words beside the row. Defaults to
            none.
        limits: The values of black and of full brightness. Defaults to 0 and 255 for bytes, and
            for other numbers to the first of 0 and 1, 0 and 255 that holds all of the first row,
            or else to its smallest and largest value.
        panel_height: Height of an image in inches. Defaults to 1.

    Returns:
        A `matplotlib.figure.Figure`, of which `figure.axes` are the images row by row.

    Raises:
        ValueError: for no rows, or rows of different lengths.

    Example:

    >>> figure = image_grid({"image": images, "inverted": 1 - images})
    >>> len(figure.axes)
    8
    """
    arrays = {name: [np.asarray(image) for image in images] for name, images in rows.items()}
    sizes = {len(images) for images in arrays.values()}
    if len(sizes) != 1 or 0 in sizes:
        found = {name: len(images) for name, images in arrays.items()}
        raise ValueError(f"`rows` must have equally many images, 1 or more. Received: {found}.")
    first = next(iter(arrays.values()))
    limits = limits_of(np.stack(first)) if limits is None else limits
    (columns,), (height, width) = sizes, first[0].shape[:2]
    beside = 0.1 * max(len(line) for name in rows for line in name.split("\n"))
    above = 0.4 * bool(title) + 0.2 * max((1 + x.count("\n") for x in headings), default=0)
    below = 0.2 * len(captions or {})
    size = (
        max(columns * (panel_height * width / height + 0.05) + beside, _LEAST_WIDTH),
        len(rows) * (panel_height + 0.05) + above + below,
    )
    figure, axes = panels(title, len(rows), columns, size)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for row, (name, images) in zip(axes, arrays.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, image in zip(row, images, strict=True):
            show(axis, image, limits)
        for axis, text in zip(row, (captions or {}).get(name, ()), strict=False):
            axis.set_xlabel(text, fontsize=8)
    for axis, text in zip(axes[0], headings, strict=False):
        axis.set_title(text, fontsize=9)
    return figure
