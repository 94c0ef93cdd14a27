"""Inputs of any shape as rows of features."""

import math

from keras import ops


def flattened(inputs, num_features):
    """Inputs `(batch, ...)` as `(batch, num_features)`.

    Raises:
        ValueError: if their sizes do not give that number, of which `ops.reshape` would make a
            batch of another size.
    """
    sizes = tuple(inputs.shape[1:])
    if None not in sizes and math.prod(sizes) != num_features:
        raise ValueError(
            f"`inputs` must have {num_features} numbers an example. "
            f"Received: inputs of shape {tuple(inputs.shape)}."
        )
    return ops.reshape(inputs, (-1, num_features))
