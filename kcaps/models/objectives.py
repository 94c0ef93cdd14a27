"""The decoder's error and the routing objective of a `CapsNet`, and the labels that they need."""

import keras
from keras import ops

from kcaps.backend.replicas import num_replicas
from kcaps.labels import check_rank, one_hot, refuse_text
from kcaps.layers import CapsuleMask
from kcaps.losses import ReconstructionLoss
from kcaps.models.class_graph import routed_layers
from kcaps.models.targets import are_parts, check_parts, class_targets, without_name


def class_labels(model: keras.Model, y):
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
            check_parts(y)
        raise ValueError("`y` must be the labels of the examples. Received: y=None.")
    if labels is None:
        raise ValueError(
            "A decoder, and l1 or l2 routing, need the labels of the class capsules. Make their "
            "lengths an output, `CapsNet(inputs, [CapsuleLength()(poses), other])`, and give its "
            "labels beside the other targets; its loss may be None. Received: targets of the "
            f"outputs {model.output_names}, with no labels of {model.class_layer.name!r}."
        )
    if not are_parts(labels):
        refuse_text(labels, "y")
        if output.num_capsules == 1:
            return ops.reshape(labels, (-1, 1))
        check_rank(labels, output.num_capsules)
    return labels


def needs_labels(model: keras.Model) -> bool:
    """Returns whether a training step of a `CapsNet` reads the labels of the class capsules."""
    return model.decoder is not None or bool(model.routing_variables)


def with_classes(model: keras.Model, y):
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
        return class_targets(y, model.output_shape[-1]) if are_parts(y) else y
    target = output.of(y, model.loss)
    if are_parts(target):
        return output.put(y, class_targets(target, output.num_capsules))
    if output.num_capsules == 1 and target is not None:
        # TensorFlow would forget the rank of labels that have one axis and two in turn.
        return output.put(y, ops.reshape(target, (-1, 1)))
    return y


def reconstruction_loss(model: keras.Model, y, tensors: dict, sample_weight, training: bool):
    """Returns the decoder's error on a batch.

    Args:
        model: A `CapsNet` with a decoder.
        y: Targets. In training, and of parts always, the capsules of the true classes are decoded,
            otherwise the longest one.
        tensors: Dict of the batch's `"image"` and `"poses"`.
        sample_weight: Weights of the examples, or None.
        training: Whether the decoder trains.
    """
    poses = tensors["poses"]
    sample_weight = _class_weights(model, sample_weight)
    output = model._class_graph.output
    labels = class_labels(model, y) if training else output and output.of(y, model.loss)
    if are_parts(labels):
        return _parts_loss(model, poses, labels, sample_weight, training)
    masked = CapsuleMask()(poses, labels=labels if training else None)
    image = model.decoder(masked, training=training)
    loss = ReconstructionLoss(model.reconstruction_weight)
    return loss(tensors["image"], image, sample_weight=sample_weight)


def _parts_loss(model, poses, targets, sample_weight, training):
    """Returns the error of each part, rebuilt from the capsule of its class, summed over parts."""
    check_parts(targets)
    masks = ops.cast(one_hot(targets["labels"], poses.shape[1]), poses.dtype)  # (b, n, j)
    masked = ops.expand_dims(masks, -1) * ops.expand_dims(poses, 1)  # (b, n, j, d)
    images = model.decoder(ops.reshape(masked, (-1, *poses.shape[1:])), training=training)
    parts = ops.cast(targets["parts"], images.dtype)
    images = ops.reshape(images, (-1, *parts.shape[1:]))
    return ReconstructionLoss(model.reconstruction_weight)(
        parts, images, sample_weight=sample_weight
    )


def routing_loss(model: keras.Model, y, tensors: dict, sample_weight):
    """Returns the negative routing objective of the whole model on a batch.

    Args:
        model: A `CapsNet` with routing variables.
        y: Targets, with labels of the class capsules among them.
        tensors: Dict of the batch's `"capsules"`, those that enter the class capsules.
        sample_weight: Weights of the examples, or None.
    """
    layer = model.class_layer
    kernel = ops.cast(layer.kernel, layer.compute_dtype)
    labels = class_targets(class_labels(model, y), kernel.shape[2])
    sample_weight = _class_weights(model, sample_weight)
    capsules = layer.routed(tensors["capsules"])
    gain = layer.routing.objective(capsules, kernel, labels, sample_weight)
    routings = [layer.routing for layer in routed_layers(model.layers)]
    penalty = sum(r.penalty_term() for r in routings if r.routing_variables and not r.proximal)
    # Gradients are summed over replicas: a term that is no sum over examples counts once in all.
    replicas = num_replicas()
    if getattr(layer.routing, "reduction", "sum") == "mean":
        gain = gain / replicas
    return penalty / replicas - gain


def proximal_routings(model: keras.Model) -> list:
    """Returns the routings whose penalty is taken by a proximal step, each once."""
    routings = {id(layer.routing): layer.routing for layer in routed_layers(model.layers)}
    return [
        routing
        for routing in routings.values()
        if routing.proximal and any(v.trainable for v in routing.routing_variables)
    ]


def _class_weights(model, sample_weight):
    """Returns the weights of the examples for the labels of the class capsules."""
    output = model._class_graph.output
    if output is None or not isinstance(sample_weight, dict | list | tuple):
        return sample_weight
    return output.of(sample_weight, model.loss)
