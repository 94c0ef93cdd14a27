"""The coupling coefficients of the class capsules."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from kcaps.routing import Routing, couplings_to_fold
from kcaps.validation import positive_int
from kcaps.visualization.drawing import label_axis, names_of, panels
from kcaps.visualization.reading import class_call, images_of, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def couplings(
    model: keras.Model,
    images,
    class_names: Sequence[str] | None = None,
    num_images: int = 4,
) -> "Figure":
    """Draws how strongly each input capsule is coupled to each class capsule.

    Each image has a panel: rows are the capsules that enter the last `DigitCaps`, columns the
    classes, and the colour is the coupling coefficient of the last iteration. A routing whose
    coefficients no image changes has one panel, and the title says so: those of `"uniform"` are
    equal and fixed, those of `"l1"` and `"l2"` learned, and both can be folded into the kernel.

    Args:
        model: A functional model with class capsules, such as a `kcaps.models.CapsNet`.
        images: Array `(n, height, width, channels)` with 1 or 3 channels, in the unit of the
            model's input, or all inputs of a model with several, in a list or dict.
        class_names: Names of the classes. Defaults to their numbers.
        num_images: How many are drawn at most, the first ones. Defaults to 4.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: for a model without class capsules, or arguments that do not fit.
        NotImplementedError: if the routing implements `call` alone, which tells no couplings.

    Example:

    >>> figure = couplings(model, images)
    >>> len(figure.axes)  # four images, and the scale of colours
    5

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), Procedure 1.
    """
    call = class_call(model)
    _check_couplings(call.layer)
    num_images = positive_int("num_images", num_images)
    images_of(model, images)  # which checks them
    names = names_of(class_names, call.layer.num_capsules)
    first = keras.tree.map_structure(lambda x: x[:num_images], images)
    inputs, poses = predict(model, [call.inputs[0], call.outputs[0]], first)
    longest = np.linalg.norm(poses, axis=-1).argmax(-1)
    found = _last_couplings(call.layer, inputs)  # (n, i, j)
    size = (2.2 + len(found) * min(1.4 + 0.12 * len(names), 4), 5)
    is_of_image, words = _in_words(call.layer, found)
    title = f"Couplings of {call.layer.name}, {words}"
    figure, (axes,) = panels(title, 1, len(found), size)
    options = _colours(found)
    for axis, values, label in zip(axes, found, longest, strict=False):
        picture = axis.imshow(values, aspect="auto", interpolation="nearest", **options)
        label_axis(axis, "class capsule", "x", names)
        if is_of_image:
            axis.set_title(f"longest: {names[label]}", fontsize=9)
    axes[0].set_ylabel("input capsule")
    for axis in axes[1:]:
        axis.set_yticks([])
    figure.colorbar(picture, ax=list(axes), label="coupling coefficient")
    return figure


def _check_couplings(layer):
    """Raises a `NotImplementedError` for a layer whose routing tells no couplings."""
    if type(layer.routing).iterate is Routing.iterate:
        raise NotImplementedError(
            "`couplings` needs a routing that implements `iterate`, which gives them. "
            f"Received: {type(layer.routing).__name__} in layer {layer.name!r}."
        )


def _last_couplings(layer, inputs):
    """Returns the couplings of the last iteration, `(n, i, j)`, or `(1, i, j)` if all are alike."""
    kernel = ops.convert_to_tensor(layer.kernel)
    inputs = layer.routed(ops.cast(ops.convert_to_tensor(inputs), kernel.dtype))
    *_, (found, _) = layer.routing.iterate(inputs, kernel)
    return np.asarray(ops.convert_to_numpy(found), "float32")


def _in_words(layer, found):
    """Returns whether couplings are those of an image, and what a title says of them."""
    routing = type(layer.routing).__name__
    is_fixed = couplings_to_fold(layer.routing, tuple(layer.kernel.shape)) is not None
    if np.ptp(found) == 0:
        kind = "learned, but still" if layer.routing.routing_variables else "fixed or first ones:"
        return False, f"{routing}: {kind} all equal, {found.flat[0]:.3g}; nothing is routed"
    if is_fixed:
        return False, f"{routing}: learned, the same for every image, to be folded into the kernel"
    return True, f"{routing}: those of the last iteration, for each image its own"


def _colours(found):
    """Returns the colours of couplings: from zero on, or to both sides where some are negative."""
    low, high = float(found.min()), float(found.max())
    if low < 0:
        largest = max(-low, high)
        return {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    return {"cmap": "viridis", "vmin": 0.0, "vmax": high or 1.0}
