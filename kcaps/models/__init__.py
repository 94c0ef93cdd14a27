"""Capsule networks."""

from kcaps.models.architectures import capsnet as capsnet
from kcaps.models.capsnet import CapsNet as CapsNet
