"""Capsule networks for Keras."""

from kcaps import activations as activations
from kcaps import diagnostics as diagnostics
from kcaps import initializers as initializers
from kcaps import layers as layers
from kcaps import losses as losses
from kcaps import metrics as metrics
from kcaps import models as models
from kcaps import regression as regression
from kcaps import routing as routing
from kcaps import visualization as visualization

__version__ = "0.1.0"
