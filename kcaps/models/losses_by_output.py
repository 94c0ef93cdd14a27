"""The losses of a model's outputs, in the forms in which `compile` takes them."""

from kcaps import losses


def losses_of(loss, names, outputs):
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
    """A structure of losses with those of kcaps in the place of their names."""
    if isinstance(loss, dict):
        return {name: _by_name(part) for name, part in loss.items()}
    if isinstance(loss, list | tuple):
        return type(loss)(_by_name(part) for part in loss)
    return losses.get(loss) if isinstance(loss, str) else loss
