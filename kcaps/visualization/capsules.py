"""Lengths and poses of the class capsules over many images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from kcaps.extras import needed_by
from kcaps.visualization.drawing import MOST_NAMES, label_axis, names_of, panels
from kcaps.visualization.reading import class_call, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def capsules(
    model: keras.Model, images, labels=None, class_names: Sequence[str] | None = None
) -> "Figure":
    """Draws mean lengths of the class capsules, and the poses of all images in two dimensions.

    On the left is the mean length of each capsule over the images of each class: rows are the
    classes of images, columns the capsules. On the right each image is a point. The poses of all
    its class capsules, `num_classes · capsule_dim` numbers, are projected on their two principal
    components over the given images; the share of the variance that each has is on its axis.

    Args:
        model: A functional model with class capsules, such as a `kcaps.models.CapsNet`.
        images: Array `(n, height, width, channels)` with 1 or 3 channels, in the unit of the
            model's input, or all inputs of a model with several, in a list or dict; two at least.
        labels: Classes of the images, integers, one-hot or k-hot, of which a point has the colour
            of the first. Defaults to the class of the longest capsule of each.
        class_names: Names of the classes. Defaults to their numbers.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: for a model without class capsules, a single image, or arguments that do not
            fit.

    Example:

    >>> figure = capsules(model, np.random.default_rng(0).uniform(size=(9, 8, 8, 1)))
    >>> [axis.get_ylabel()[:16] for axis in figure.axes[:2]]
    ['longest capsule', 'second component']
    """
    with needed_by("kcaps.visualization.capsules", "visualization", sklearn="scikit-learn"):
        from sklearn.decomposition import PCA

    names = names_of(class_names, class_call(model).layer.num_capsules)
    found = read(model, images, labels)
    flat = found.poses.reshape(len(found.poses), -1)
    if min(flat.shape) < 2:
        raise ValueError(
            "`images` must be two at least, and the poses of an image two numbers, for two "
            f"principal components. Received: {flat.shape[0]} images, {flat.shape[1]} numbers."
        )
    title = f"Class capsules of {len(flat):,} images"
    figure, ((left, right),) = panels(title, 1, 2, size=(12, 5.4))
    counts = found.present.sum(0)
    means = (found.present.T @ found.lengths) / np.maximum(counts, 1)[:, None]
    means = np.ma.masked_array(means, np.broadcast_to(counts[:, None] == 0, means.shape))
    picture = left.imshow(means, cmap="viridis", vmin=0, vmax=max(1.0, float(means.max())))
    figure.colorbar(picture, ax=left, label="mean length")
    label_axis(left, "capsule", "x", names)
    given = "longest capsule" if labels is None else "class of the images"
    label_axis(left, given, "y", names)
    pca = PCA(2, svd_solver="full")
    points = pca.fit_transform(flat.astype("float64"))
    _scatter(right, points, found.present, names)
    shares = np.nan_to_num(pca.explained_variance_ratio_)
    right.set_xlabel(f"first component ({100 * shares[0]:.0f} % of the variance)")
    right.set_ylabel(f"second component ({100 * shares[1]:.0f} %)")
    return figure


def _scatter(axis, points, present, names):
    """Draws the points of each class in its colour, with a legend where that is legible."""
    import matplotlib

    first = np.where(present.any(-1), present.argmax(-1), -1)  # -1: none of the classes
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "turbo"]
    for k in np.unique(first):
        place = k if len(names) <= 10 else k / max(len(names) - 1, 1)
        name = names[k] if k >= 0 else "none"
        colour = colours(place) if k >= 0 else "lightgray"
        axis.scatter(*points[first == k].T, s=8, linewidths=0, color=colour, label=name)
    if len(names) <= MOST_NAMES:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    axis.grid(alpha=0.3)
