"""The optimizer that settings of a training ask for, and the weights that do not decay."""

import math

import keras

from harness import schedules
from harness.settings import CapsNetSettings


def of(settings: CapsNetSettings, model: keras.Model, steps: int) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a model that is to be compiled.

    Args:
        settings: `harness.network_settings.NetworkSettings`.
        model: The model, all of whose variables exist.
        steps: Steps of the training.
    """
    rate = _scheduled(settings, settings.learning_rate, steps)
    options = {"weight_decay": settings.weight_decay or None}
    if settings.average_weights:
        options |= {"use_ema": True, "ema_momentum": settings.average_weights}
    optimizer = _make(settings, rate, options)
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_list=without_decay(model))
    return optimizer


def routing_options(settings: CapsNetSettings, model: keras.Model, steps: int) -> dict:
    """Returns arguments of `CapsNet.compile` for coupling coefficients, where a model has some.

    Their rate follows the schedule of the other weights. Args are those of `of`.
    """
    if not getattr(model, "routing_variables", None):
        return {}
    return {"routing_learning_rate": _scheduled(settings, settings.routing_rate, steps)}


def _scheduled(settings, rate, steps):
    """Returns a highest rate along the schedule that settings ask for."""
    return schedules.of(
        settings.schedule,
        rate,
        steps,
        warm_up=settings.warm_up,
        final_rate=settings.final_rate,
        decay_steps=settings.decay_steps,
    )


def _make(settings, rate, options):
    """Returns an optimizer with a rate and the options that all of them have."""
    if settings.optimizer == "sgd":
        return keras.optimizers.SGD(rate, settings.momentum, nesterov=True, **options)
    if settings.optimizer == "adamw":
        # Keras' class refuses None, which others take for no decay.
        return keras.optimizers.AdamW(rate, **{**options, "weight_decay": settings.weight_decay})
    if settings.optimizer == "muon":
        # What is no matrix takes AdamW's step, with a decay of its own.
        decay = options["weight_decay"]
        return keras.optimizers.Muon(rate, adam_weight_decay=decay, **options)
    return keras.optimizers.Adam(rate, **options)


def without_decay(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables of a model that weight decay leaves alone: all but kernels that train.

    Those are biases, scales and offsets of norms and of routings, coupling coefficients, moving
    averages, and frozen weights.
    """
    return [
        variable
        for variable in model.variables
        if not (variable.trainable and "kernel" in variable.name and len(variable.shape) > 1)
    ]


def count_matrices(model: keras.Model) -> tuple[int, int]:
    """Returns how many weights of the optimizer are in matrices, and how many it has.

    Keras' Muon takes its own step for matrices alone. Coupling coefficients are those of another
    optimizer.
    """
    others = {id(variable) for variable in getattr(model, "routing_variables", ())}
    own = [variable for variable in model.trainable_variables if id(variable) not in others]
    sizes = [(len(variable.shape), math.prod(variable.shape)) for variable in own]
    return sum(size for axes, size in sizes if axes == 2), sum(size for _, size in sizes)
