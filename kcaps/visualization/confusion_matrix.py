"""The confusion matrix of predictions that are known."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kcaps.extras import needed_by
from kcaps.visualization.drawing import MOST_NAMES, label_axis, panels, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> "Figure":
    """Draws how many images of each class were given which class.

    Args:
        labels: Classes of the images, integers `(n,)`.
        predictions: Classes that they were given, integers `(n,)`.
        class_names: Names of all classes.

    Returns:
        A `matplotlib.figure.Figure`, with numbers in its cells where 20 classes or fewer are.

    Example:

    >>> figure = confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0]), ["cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1', '0', '1', '1']
    """
    with needed_by("kcaps.visualization.confusion", "visualization", sklearn="scikit-learn"):
        from sklearn import metrics

    names = [plain(name) for name in class_names]
    counts = metrics.confusion_matrix(labels, predictions, labels=range(len(names)))
    side = 3 + 0.35 * min(max(len(names), 2), MOST_NAMES)
    title = f"Confusion matrix of {len(labels):,} images, {np.trace(counts):,} of them right"
    figure, ((axis,),) = panels(title, size=(side + 0.5, side))
    has_numbers = len(names) <= MOST_NAMES
    metrics.ConfusionMatrixDisplay(counts, display_labels=names).plot(
        include_values=has_numbers, colorbar=not has_numbers, cmap="Blues", ax=axis
    )
    if not has_numbers:  # The display writes all names over each other.
        axis.set_xticks([])
        axis.set_yticks([])
    label_axis(axis, "predicted class", "x", names)
    label_axis(axis, "class", "y", names)
    return figure
