"""The steps of a `CapsNet` on a batch, on every backend."""

import keras

from kcaps.backend.keras_private import mark_as_called
from kcaps.backend.replicas import num_replicas
from kcaps.backend.steps import minimise
from kcaps.graph import matched
from kcaps.models.objectives import proximal_routings, reconstruction_loss, routing_loss


def train_on(model: keras.Model, data) -> dict:
    """Takes the weight steps and the routing steps of a batch, and returns the logs.

    Args:
        model: A `CapsNet` with routing variables or a decoder.
        data: The batch, as Keras hands it to `train_step`.
    """
    batch = keras.utils.unpack_x_y_sample_weight(data)
    routed = bool(model.routing_variables)
    joint = routed and model.update == "joint"
    for _ in range(model.weight_steps):
        outputs, loss = _update(model, batch, weights=True, routing=joint)
    if routed and not joint:
        for _ in range(model.routing_steps):
            _update(model, batch, weights=False, routing=True)
    return _logs(model, batch, outputs, loss)


def evaluate_on(model: keras.Model, data) -> dict:
    """Returns the logs of a batch without training.

    Args:
        model: A `CapsNet` with a decoder.
        data: The batch, as Keras hands it to `test_step`.
    """
    batch = keras.utils.unpack_x_y_sample_weight(data)
    tensors = _forward(model, batch[0], training=False)
    return _logs(model, batch, tensors["outputs"], _loss(model, batch, tensors, training=False))


def other_variables(model: keras.Model) -> list:
    """Returns the trainable variables of a `CapsNet` that descend the loss."""
    routing = {id(v) for v in model.routing_variables}
    return [v for v in model.trainable_variables if id(v) not in routing]


def _update(model, batch, weights, routing):
    """Takes one step on the weights, on the routing variables, or on both; returns outputs, loss.

    Outputs and loss are None without a step on the weights.
    """
    steps = [(model.optimizer, other_variables(model))] * weights
    steps += [(model.routing_optimizer, model.routing_variables)] * routing

    def objectives():
        # The routing objective needs the class capsules' inputs alone.
        tensors = _forward(model, batch[0], training=True, capsules_only=not weights)
        loss, scaled = None, []
        if weights:
            loss = _loss(model, batch, tensors, training=True)
            scaled.append(model.optimizer.scale_loss(loss))
        if routing:
            negative = routing_loss(model, batch[1], tensors, batch[2])
            scaled.append(model.routing_optimizer.scale_loss(negative))
        return (tensors.get("outputs"), loss), scaled

    if not routing:
        return minimise(model, objectives, steps)
    rate = keras.ops.convert_to_tensor(model.routing_optimizer.learning_rate)  # of this step
    result = minimise(model, objectives, steps)
    for chosen in proximal_routings(model):
        chosen.proximal_step(rate)
    return result


def _forward(model, x, training, capsules_only=False):
    """Returns the tensors of one pass by their names, as `Networks` lists them."""
    mark_as_called(model)
    network = model._networks.below if capsules_only else model._networks.whole
    return network(matched(x, model.input), training=training)


def _loss(model, batch, tensors, training):
    """Returns the compiled loss of a batch, and the decoder's error with it."""
    x, y, sample_weight = batch
    reconstruction = 0.0
    if model.decoder is not None:  # This comes first: `compute_loss` collects the layers' losses.
        reconstruction = reconstruction_loss(model, y, tensors, sample_weight, training)
    loss = model.compute_loss(x, y, tensors["outputs"], sample_weight, training=training)
    return loss + reconstruction


def _logs(model, batch, outputs, loss):
    """Updates the metrics by a batch, and returns their results."""
    x, y, sample_weight = batch
    tracker = next(metric for metric in model.metrics if metric.name == "loss")
    # Keras divided the loss by the number of replicas.
    size = keras.ops.shape(keras.tree.flatten(outputs)[0])[0]
    tracker.update_state(loss * num_replicas(), sample_weight=size)
    return model.compute_metrics(x, y, outputs, sample_weight=sample_weight)
