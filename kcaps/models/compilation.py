"""Checks the options of `CapsNet.compile`: losses by name, optimizers and numbers of steps."""

import keras

from kcaps import losses
from kcaps.validation import non_negative, one_of, positive_int

UPDATES = ("alternating", "joint")


def losses_of(loss, names: list, outputs):
    """Returns losses in a form that Keras takes, with those of kcaps in the place of their names.

    Args:
        loss: One loss for all outputs, or a list or dict of losses, each a name of kcaps or
            whatever Keras takes.
        names: Names of the outputs.
        outputs: The model's `output`.

    Raises:
        ValueError: for a name that is no loss or no output, or another number of losses than of
            outputs.
    """
    loss = _by_name(loss)
    if isinstance(loss, dict):
        known = set(names) | set(outputs if isinstance(outputs, dict) else ())
        if not set(loss) <= known:
            raise ValueError(
                f"`loss` must have the names of outputs, {names}. Received: {sorted(loss)}."
            )
        by_name = not isinstance(outputs, dict) and len(names) > 1
        return {name: loss.get(name) for name in names} if by_name else loss
    if isinstance(loss, list | tuple) and len(names) > 1 and len(loss) != len(names):
        raise ValueError(
            f"`loss` must be one for all outputs, or one for each of {names}, or None. "
            f"Received: {len(loss)} losses."
        )
    return loss


def _by_name(loss):
    """Returns a structure of losses with those of kcaps in the place of their names."""
    if isinstance(loss, dict):
        return {name: _by_name(part) for name, part in loss.items()}
    if isinstance(loss, list | tuple):
        return type(loss)(_by_name(part) for part in loss)
    return losses.get(loss) if isinstance(loss, str) else loss


def routing_optimizer_of(routing_optimizer, rate, optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer of the routing variables, by default plain gradient steps.

    Args:
        routing_optimizer: An optimizer, its name or config, or None for plain steps.
        rate: Rate of the plain steps, a number or a schedule, or None for 1e-5.
        optimizer: Optimizer of the other weights, which must be another one.

    Raises:
        ValueError: for an optimizer and a rate, one optimizer for both, or a negative rate.
    """
    if routing_optimizer is not None and rate is not None:
        raise ValueError(
            "Give `routing_optimizer` or `routing_learning_rate`, not both. Received: "
            f"routing_optimizer={routing_optimizer!r}, routing_learning_rate={rate!r}."
        )
    is_object = isinstance(routing_optimizer, keras.optimizers.Optimizer)
    if is_object and routing_optimizer is optimizer:  # A name would make two optimizers.
        raise ValueError(
            "`routing_optimizer` must be another optimizer than `optimizer`: each keeps the "
            f"state of its own variables. Received: {routing_optimizer!r} for both."
        )
    if routing_optimizer is not None:
        return keras.optimizers.get(routing_optimizer)
    rate = 1e-5 if rate is None else rate
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = non_negative("routing_learning_rate", rate)
    return keras.optimizers.SGD(rate)


def scaled_like(routing_optimizer, optimizer):
    """Returns the routing optimizer, with a scale of its loss if the other one has such a scale."""
    scaling = keras.optimizers.LossScaleOptimizer
    if not isinstance(optimizer, scaling) or isinstance(routing_optimizer, scaling):
        return routing_optimizer
    # Sums of squares over the batch: Keras' first scale of 2^15 overflows float16 at once.
    return scaling(routing_optimizer, initial_scale=2.0**10)


def update_steps(update: str, weight_steps: int, routing_steps: int) -> tuple[int, int]:
    """Returns the two numbers of steps, or raises a `ValueError` where `update` excludes them."""
    one_of("update", update, UPDATES)
    steps = positive_int("weight_steps", weight_steps), positive_int("routing_steps", routing_steps)
    if update == "joint" and steps != (1, 1):
        raise ValueError(
            "`update='joint'` takes both gradients from one pass: `weight_steps` and "
            "`routing_steps` must be 1. Use update='alternating' for more. "
            f"Received: weight_steps={weight_steps}, routing_steps={routing_steps}."
        )
    return steps
