"""Losses for capsule networks."""

import keras

from kcaps.losses.margin import MarginLoss as MarginLoss
from kcaps.losses.reconstruction import ReconstructionLoss as ReconstructionLoss

LOSSES = {"margin": MarginLoss}


def get(identifier):
    """Returns a kcaps loss from its name; anything else goes to `keras.losses.get`.

    Example:

    >>> loss = kcaps.losses.get("margin")
    """
    if isinstance(identifier, str) and identifier in LOSSES:
        return LOSSES[identifier]()
    return keras.losses.get(identifier)
