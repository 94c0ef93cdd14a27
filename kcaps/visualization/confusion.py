"""The confusion matrix of a model on images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from kcaps.graph import class_calls, length_calls
from kcaps.visualization.confusion_matrix import confusion_matrix
from kcaps.visualization.drawing import names_of
from kcaps.visualization.reading import predict, presence

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion(
    model: keras.Model, images, labels, class_names: Sequence[str] | None = None
) -> "Figure":
    """Draws how many images of each class a model gives which class.

    The class of an image is that of the longest capsule, or, for a model without capsules, of the
    largest number of its only output. A model of one class gives it to images where its length is
    0.5 at least.

    Args:
        model: A functional model of images.
        images: Array `(n, …)`, or all inputs of a model with several, in a list or dict.
        labels: Class of each image: integers, or a one-hot matrix.
        class_names: Names of the classes. Defaults to their numbers.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: for images of several classes, a model whose classes are not clear, or
            arguments that do not fit.

    Example:

    >>> figure = confusion(model, images, labels, ["a", "b", "c"])
    >>> figure.get_suptitle()
    'Confusion matrix of 4 images, 2 of them right'
    """
    tensor = _class_output(model)
    num_classes = tensor.shape[-1]
    known = names_of(class_names, num_classes)
    names = known if class_names is None else class_names  # which `confusion_matrix` makes plain
    num_images = len(keras.tree.flatten(images)[0])
    present = presence(labels, num_classes, num_images)
    several = np.flatnonzero(present.sum(-1) != 1)
    if num_classes > 1 and len(several):
        raise ValueError(
            "`labels` must be one class an image. Received: "
            f"{present[several[0]].sum()} classes of image {several[0]}."
        )
    outputs = predict(model, tensor, images)
    if num_classes > 1:
        return confusion_matrix(present.argmax(-1), outputs.argmax(-1), names)
    of_one = ["absent", "present"] if class_names is None else [f"not {names[0]}", names[0]]
    return confusion_matrix(present[:, 0] * 1, (outputs[:, 0] >= 0.5) * 1, of_one)


def _class_output(model):
    """Returns the output tensor of a model that has a number for each class."""
    outputs = keras.tree.flatten(model.output)
    if len(outputs) > 1 and class_calls(model.output):
        poses = class_calls(model.output)[-1].outputs[0]
        measured = [x for x in length_calls(model.output) if x.inputs[0] is poses]
        outputs = [x.outputs[0] for x in measured] or outputs
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            "`model` must have one output (batch, num_classes), or one with the lengths of its "
            f"class capsules. Received: outputs of shapes {[x.shape for x in outputs]}."
        )
    return outputs[0]
