"""Capsule layers."""

from kcaps.layers.capsule_length import CapsuleLength as CapsuleLength
from kcaps.layers.capsule_mask import CapsuleMask as CapsuleMask
from kcaps.layers.concurrent_caps import ConcurrentCaps as ConcurrentCaps
from kcaps.layers.constant_caps import ConstantCaps as ConstantCaps
from kcaps.layers.conv_caps_2d import ConvCaps2D as ConvCaps2D
from kcaps.layers.digit_caps import DigitCaps as DigitCaps
from kcaps.layers.fused_batch_normalization import (
    FusedBatchNormalization as FusedBatchNormalization,
)
from kcaps.layers.primary_caps import PrimaryCaps as PrimaryCaps
from kcaps.layers.quick_gelu import QuickGELU as QuickGELU
from kcaps.layers.whitening import Whitening as Whitening
