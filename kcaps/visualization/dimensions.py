"""What each component of a capsule does to the image that is rebuilt from it."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from kcaps.validation import positive, positive_int
from kcaps.visualization.drawing import limits_of, names_of
from kcaps.visualization.image_grid import image_grid
from kcaps.visualization.reading import class_call, decode, decoder_of, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kcaps.visualization.reading import Reading

MOST_CLASSES = 6


@dataclasses.dataclass(frozen=True)
class _Column:
    """One component of a class capsule, varied.

    Args:
        label: The class.
        component: Number of the component.
        example: Number of the image that is drawn above it.
        varied: Images rebuilt with it, from its lowest value to its highest.
        effect: Mean squared difference of the first and the last of these.
    """

    label: int
    component: int
    example: int
    varied: np.ndarray
    effect: float


def dimensions(
    model: keras.Model,
    images,
    labels=None,
    class_names: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    num_components: int = 1,
    deviations: float = 2.0,
) -> "Figure":
    """Draws images rebuilt from a capsule of which one component is varied over its own spread.

    Each column begins with an image and its reconstruction: the image of its class whose capsule
    is nearest to the mean of the class. Below, one component of that capsule is set to
    `mean - deviations · σ`, to `mean`, and to `mean + deviations · σ`: the mean and the standard
    deviation that it has over the given images of the class. The other components stay. Those are
    drawn that change the image most from the first value to the last, by the sum of squares.

    Args:
        model: A `kcaps.models.CapsNet` with a decoder.
        images: Array `(n, height, width, channels)` with 1 or 3 channels, in the unit of the
            model's input, or all inputs of a model with several, in a list or dict; some dozens of
            each class.
        labels: Classes of the images, integers, one-hot or k-hot. Defaults to the class of the
            longest capsule of each.
        class_names: Names of the classes. Defaults to their numbers.
        classes: Numbers of the classes to be drawn. Defaults to all that at least two images have,
            of more than six those six whose components change the image most.
        num_components: Components, each a column, of a class. Defaults to 1.
        deviations: Positive number of standard deviations to each side. Defaults to 2.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: for a model without class capsules or a decoder, a class of fewer than two
            images, or arguments that do not fit.

    Example:

    >>> model = kcaps.models.capsnet((20, 20, 1), 3, filters=4, decoder_units=(8,))
    >>> images = np.random.default_rng(0).uniform(0, 255, (6, 20, 20, 1))
    >>> figure = dimensions(model, images, labels=[0, 1] * 3)
    >>> [axis.get_title().split()[0] for axis in figure.axes[:2]]
    ['0', '1']
    """
    decoder_of(model)
    deviations = positive("deviations", deviations)
    names = names_of(class_names, class_call(model).layer.num_capsules)
    found = read(model, images, labels)
    size = found.poses.shape[-1]
    num_components = positive_int("num_components", num_components)
    if num_components > size:
        raise ValueError(
            f"`num_components` must not exceed the {size} components of a capsule. "
            f"Received: num_components={num_components}."
        )
    steps = np.array([-deviations, 0.0, deviations])
    drawn = [
        _widest(model, found, label, steps, num_components)
        for label in _classes(classes, found.present)
    ]
    if classes is None:
        most = sorted(drawn, key=lambda of_class: -of_class[0].effect)[:MOST_CLASSES]
        drawn = sorted(most, key=lambda of_class: of_class[0].label)
    columns = [column for of_class in drawn for column in of_class]
    rows = {
        "image": [found.images[column.example] for column in columns],
        "rebuilt": decode(model, _alone(found, columns)),
    }
    for place, step in enumerate(steps):
        name = f"mean {'-' if step < 0 else '+'} {abs(step):g} σ" if step else "mean"
        rows[name] = [column.varied[place] for column in columns]
    headings = [f"{names[column.label]}\ncomponent {column.component}" for column in columns]
    title = "Each column: an image, rebuilt, and one component of its capsule varied"
    return image_grid(rows, title, headings, limits=limits_of(found.images), panel_height=1.2)


def _classes(classes, present):
    """Returns the numbers of the classes to be drawn, all of which have images enough."""
    counts = present.sum(0)
    if classes is None:
        found = np.flatnonzero(counts > 1)
        if not len(found):
            raise ValueError(
                "`images` must have two of a class at least, whose capsules have a spread. "
                f"Received: {len(present)} images, {counts.max()} of a class at most."
            )
        return found
    found = np.asarray(classes)
    is_known = found.ndim == 1 and found.size and np.isin(found, np.arange(len(counts))).all()
    if not is_known:
        raise ValueError(
            f"`classes` must be numbers of classes from 0 to {len(counts) - 1}. "
            f"Received: classes={classes!r}."
        )
    for label in found:
        if counts[label] < 2:
            raise ValueError(
                "`images` must have two at least of each of `classes`, whose capsules have a "
                f"spread. Received: {counts[label]} of class {label}."
            )
    return found


def _widest(model: keras.Model, found: "Reading", label: int, steps, count: int) -> list[_Column]:
    """Returns columns of a class for the components that change its image most."""
    members = np.flatnonzero(found.present[:, label])
    poses = found.poses[members, label]  # (m, d)
    mean, deviation = poses.mean(0), poses.std(0)
    nearest = int(np.linalg.norm(poses - mean, axis=-1).argmin())
    size = len(mean)
    values = mean[:, None] + deviation[:, None] * steps  # (d, steps)
    varied = np.zeros((size, len(steps), *found.poses.shape[1:]), "float32")
    varied[:, :, label] = poses[nearest]
    each = np.arange(size)
    varied[each, :, label, each] = values
    images = decode(model, varied.reshape(-1, *found.poses.shape[1:]))
    images = images.reshape(size, len(steps), *images.shape[1:])
    effects = np.square(images[:, -1] - images[:, 0]).mean((1, 2, 3))
    widest = np.argsort(-effects, kind="stable")[:count]
    example = int(members[nearest])
    return [_Column(int(label), int(c), example, images[c], float(effects[c])) for c in widest]


def _alone(found, columns):
    """Returns the poses of the examples, all zero but for the capsule of the column's class."""
    poses = np.zeros((len(columns), *found.poses.shape[1:]), "float32")
    for row, column in zip(poses, columns, strict=True):
        row[column.label] = found.poses[column.example, column.label]
    return poses
