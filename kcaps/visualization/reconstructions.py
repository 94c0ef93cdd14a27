"""Images above what the decoder makes of their capsules."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
from keras import ops

from kcaps.layers import CapsuleMask
from kcaps.validation import positive_int
from kcaps.visualization.drawing import limits_of, names_of
from kcaps.visualization.image_grid import image_grid
from kcaps.visualization.reading import class_call, decode, decoder_of, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstructions(
    model: keras.Model,
    images,
    labels=None,
    class_names: Sequence[str] | None = None,
    num_images: int = 10,
) -> "Figure":
    """Draws images above what the decoder makes of the longest capsule of each, and its class.

    Args:
        model: A `kcaps.models.CapsNet` with a decoder.
        images: Array `(n, height, width, channels)` with 1 or 3 channels, in the unit of the
            model's input, or all inputs of a model with several, in a list or dict.
        labels: Classes of the images, integers, one-hot or k-hot. If they are given, images are
            rebuilt from the capsules of these, also where another one is longer. Defaults to none.
        class_names: Names of the classes. Defaults to their numbers.
        num_images: How many are drawn at most, the first ones. Defaults to 10.

    Returns:
        A `matplotlib.figure.Figure`. Above each image is its class, if there are labels; below
        each rebuilt one the class of the longest capsule, with its length.

    Raises:
        ValueError: for a model without class capsules or a decoder, or arguments that do not fit.

    Example:

    >>> model = kcaps.models.capsnet((20, 20, 1), 3, filters=4, decoder_units=(8,))
    >>> figure = reconstructions(model, np.zeros((2, 20, 20, 1)))
    >>> len(figure.axes)
    4
    """
    decoder_of(model)
    num_images = positive_int("num_images", num_images)
    names = names_of(class_names, class_call(model).layer.num_capsules)
    found = read(model, images, labels)
    poses = found.poses[:num_images]
    if labels is None:
        masked, headings = CapsuleMask()(poses), ()
    else:
        present = found.present[:num_images]
        masked = CapsuleMask()(poses, labels=present.astype("float32"))
        headings = [", ".join(names[k] for k in row.nonzero()[0]) for row in present]
    rebuilt = decode(model, ops.convert_to_numpy(masked))
    longest = found.lengths[:num_images].argmax(-1)
    captions = [
        f"{names[k]}: {row[k]:.2f}"
        for k, row in zip(longest, found.lengths[: len(poses)], strict=True)
    ]
    return image_grid(
        {"image": found.images[:num_images], "rebuilt": rebuilt},
        "Images and their reconstructions",
        headings,
        {"rebuilt": captions},
        limits_of(found.images),
    )
