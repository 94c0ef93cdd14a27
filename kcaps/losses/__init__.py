"""Losses for capsule networks and other classifiers."""

import keras

from kcaps.losses.classification import cauchy_schwarz as cauchy_schwarz
from kcaps.losses.classification import chebyshev as chebyshev
from kcaps.losses.classification import cubed_hinge as cubed_hinge
from kcaps.losses.classification import expectation as expectation
from kcaps.losses.classification import hinge as hinge
from kcaps.losses.classification import l1 as l1
from kcaps.losses.classification import l2 as l2
from kcaps.losses.classification import log as log
from kcaps.losses.classification import regularised_expectation as regularised_expectation
from kcaps.losses.classification import squared_hinge as squared_hinge
from kcaps.losses.classification import squared_log as squared_log
from kcaps.losses.classification import tanimoto as tanimoto
from kcaps.losses.classification_loss import CLASSIFICATION_LOSSES as CLASSIFICATION_LOSSES
from kcaps.losses.classification_loss import CauchySchwarzLoss as CauchySchwarzLoss
from kcaps.losses.classification_loss import ChebyshevLoss as ChebyshevLoss
from kcaps.losses.classification_loss import CubedHingeLoss as CubedHingeLoss
from kcaps.losses.classification_loss import ExpectationLoss as ExpectationLoss
from kcaps.losses.classification_loss import HingeLoss as HingeLoss
from kcaps.losses.classification_loss import L1Loss as L1Loss
from kcaps.losses.classification_loss import L2Loss as L2Loss
from kcaps.losses.classification_loss import LogLoss as LogLoss
from kcaps.losses.classification_loss import (
    RegularisedExpectationLoss as RegularisedExpectationLoss,
)
from kcaps.losses.classification_loss import SquaredHingeLoss as SquaredHingeLoss
from kcaps.losses.classification_loss import SquaredLogLoss as SquaredLogLoss
from kcaps.losses.classification_loss import TanimotoLoss as TanimotoLoss
from kcaps.losses.length_cross_entropy import LengthCrossEntropy as LengthCrossEntropy
from kcaps.losses.margin import MarginLoss as MarginLoss
from kcaps.losses.reconstruction import ReconstructionLoss as ReconstructionLoss
from kcaps.losses.spread import SpreadLoss as SpreadLoss

LOSSES = {
    "margin": MarginLoss,
    "spread": SpreadLoss,
    "length_cross_entropy": LengthCrossEntropy,
    **CLASSIFICATION_LOSSES,
}


def get(identifier):
    """Returns a kcaps loss from its name; anything else goes to `keras.losses.get`.

    Where both have a loss of one name, `"hinge"` and `"squared_hinge"`, it is kcaps' own.
    `CapsNet.compile` takes these names itself; a plain `keras.Model` knows only Keras' own names,
    and is given `loss=kcaps.losses.get("margin")`.

    Args:
        identifier: A name, or what `keras.losses.get` takes.

    Raises:
        ValueError: if neither kcaps nor Keras has a loss of that name.

    Example:

    >>> kcaps.losses.get("margin").name
    'margin'
    """
    if not isinstance(identifier, str):
        return keras.losses.get(identifier)
    if identifier in LOSSES:
        return LOSSES[identifier]()
    try:
        return keras.losses.get(identifier)
    except ValueError:
        listed = ", ".join(repr(name) for name in LOSSES)
        raise ValueError(
            f"`loss` must be one of {listed}, or a loss of Keras. Received: loss={identifier!r}."
        ) from None
