"""Checks of what a `CapsNet` is given to train on and to judge, before Keras sees it."""

import keras

from kcaps.losses import LOSSES
from kcaps.models import advice
from kcaps.models.objectives import class_labels
from kcaps.models.targets import as_array, check_labels


def check_data(model, x, y, training=False) -> None:
    """Refuses labels that are no classes, and warns of pixels in the wrong unit.

    Targets of another task pass; where a decoder or the routing objective needs labels in training,
    targets without them do not. Batches of a stream cannot be read here.

    Args:
        model: A compiled `CapsNet`.
        x: Its inputs, of which arrays are looked at.
        y: Targets, or None for a stream that has them.
        training: Whether the model is to train on them.

    Raises:
        ValueError: for labels that are missing or no classes.
    """
    advice.on_pixels(model, x)
    needs_labels = training and model._needs_labels
    losses = getattr(model, "loss", None)
    if y is None:
        parts = keras.tree.flatten(x) if isinstance(x, dict | list | tuple) else [x]
        if losses is not None and all(as_array(part) is not None for part in parts):
            raise ValueError("`y` must be the labels of the examples. Received: y=None.")
        return
    output = model._class_graph and model._class_graph.output
    if needs_labels:
        check_labels(class_labels(model, y), output.num_capsules, exact=True)
    elif output is not None:
        if output.is_length or _tells_classes(output.loss(losses)):
            _check_unless_ignored(output.of(y, losses), output.num_capsules, output.loss(losses))
    elif isinstance(model.output, keras.KerasTensor) and _tells_classes(losses):
        if len(model.output.shape) == 2:
            _check_unless_ignored(y, model.output.shape[1], losses)


def _check_unless_ignored(labels, num_classes, loss):
    if getattr(loss, "ignore_class", None) is None:
        check_labels(labels, num_classes)


def _tells_classes(loss):
    """Whether a loss compares an output with classes."""
    names = "sparse_categorical_crossentropy", *LOSSES
    return isinstance(loss, (keras.losses.SparseCategoricalCrossentropy, *LOSSES.values())) or (
        isinstance(loss, str) and loss in names
    )
