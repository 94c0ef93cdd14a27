"""What a `CapsNet` trains on beside its compiled losses, and the labels that this needs."""

import keras

from kcaps.labels import check_rank, refuse_text
from kcaps.layers import CapsuleMask
from kcaps.losses import ReconstructionLoss
from kcaps.models import parts
from kcaps.models.targets import without_name
from kcaps.backend.replicas import num_replicas


def class_labels(model, y):
    """Returns the part of targets that has the labels of the class capsules.

    Args:
        model: A `CapsNet` with class capsules.
        y: Targets in a structure that Keras takes.

    Raises:
        ValueError: if the targets have no such part, or it is text.
    """
    output = model._class_graph.output
    labels = None if output is None else output.of(y, model.loss)
    if labels is None and output is not None and len(output.names) == 1:
        if isinstance(y, dict):
            parts.check(y)
        raise ValueError("`y` must be the labels of the examples. Received: y=None.")
    if labels is None:
        raise ValueError(
            "A decoder, and l1 or l2 routing, need the labels of the class capsules. Make their "
            "lengths an output, `CapsNet(inputs, [CapsuleLength()(poses), other])`, and give its "
            "labels beside the other targets; its loss may be None. Received: targets of the "
            f"outputs {model.output_names}, with no labels of {model.class_layer.name!r}."
        )
    if not parts.are_parts(labels):
        refuse_text(labels, "y")
        if output.num_capsules == 1:
            return keras.ops.reshape(labels, (-1, 1))
        check_rank(labels, output.num_capsules)
    return labels


def with_classes(model, y):
    """Returns targets with classes in the place of parts, and none of them text.

    Args:
        model: A `CapsNet`.
        y: Targets in a structure that Keras takes, or a dict with parts in the place of labels.
    """
    for target in keras.tree.flatten(y):
        if target is not None:
            refuse_text(target, "y")
    y = without_name(y, model.output_names)
    output = model._class_graph and model._class_graph.output
    if output is None:
        return parts.class_targets(y, model.output_shape[-1]) if parts.are_parts(y) else y
    target = output.of(y, model.loss)
    if parts.are_parts(target):
        return output.put(y, parts.class_targets(target, output.num_capsules))
    if output.num_capsules == 1 and target is not None:
        # Labels with one axis and with two in turn, whose rank TensorFlow would forget.
        return output.put(y, keras.ops.reshape(target, (-1, 1)))
    return y


def reconstruction_loss(model, y, tensors, sample_weight, training):
    """Returns the decoder's error on a batch.

    Args:
        model: A `CapsNet` with a decoder.
        y: Targets. In training, and of parts always, the capsules of the true classes are decoded,
            otherwise the longest one.
        tensors: Dict of the batch's `"image"` and `"poses"`.
        sample_weight: Weights of the examples, or None.
        training: Whether the decoder trains.
    """
    weight, poses = model.reconstruction_weight, tensors["poses"]
    sample_weight = _class_weights(model, sample_weight)
    output = model._class_graph.output
    labels = class_labels(model, y) if training else output and output.of(y, model.loss)
    if parts.are_parts(labels):
        return parts.reconstruction_loss(
            model.decoder, poses, labels, weight, sample_weight, training
        )
    masked = CapsuleMask()(poses, labels=labels if training else None)
    image = model.decoder(masked, training=training)
    return ReconstructionLoss(weight)(tensors["image"], image, sample_weight=sample_weight)


def routing_loss(model, y, tensors, sample_weight):
    """Returns the negative routing objective of the whole model on a batch.

    Args:
        model: A `CapsNet` with routing variables.
        y: Targets, with labels of the class capsules among them.
        tensors: Dict of the batch's `"capsules"`, those that enter the class capsules.
        sample_weight: Weights of the examples, or None.
    """
    layer = model.class_layer
    kernel = keras.ops.cast(layer.kernel, layer.compute_dtype)
    labels = parts.class_targets(class_labels(model, y), kernel.shape[2])
    sample_weight = _class_weights(model, sample_weight)
    gain = layer.routing.objective(tensors["capsules"], kernel, labels, sample_weight)
    routings = [digit_caps.routing for digit_caps in model._digit_caps()]
    penalty = sum(r.penalty_term() for r in routings if r.routing_variables)
    # Gradients are summed over replicas: what is no sum over examples counts once in all.
    replicas = num_replicas()
    if getattr(layer.routing, "reduction", "sum") == "mean":
        gain = gain / replicas
    return penalty / replicas - gain


def _class_weights(model, sample_weight):
    """The weights of the examples for the labels of the class capsules."""
    output = model._class_graph.output
    if output is None or not isinstance(sample_weight, dict | list | tuple):
        return sample_weight
    return output.of(sample_weight, model.loss)
