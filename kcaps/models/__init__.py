"""Capsule networks."""

from kcaps.models.architectures import capsnet as capsnet
from kcaps.models.architectures import efficient_capsnet as efficient_capsnet
from kcaps.models.capsnet import CapsNet as CapsNet
from kcaps.models.deep_capsnet import deep_capsnet as deep_capsnet
