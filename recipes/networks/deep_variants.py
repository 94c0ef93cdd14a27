"""The deep capsule network with other capsules on its convolution blocks."""

from keras import ops

from kcaps.layers import CapsuleLength, ConvCaps2D, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet, deep_capsnet
from kcaps.routing import Routing

CAPSULES = ("flat", "pooled", "two_layers")


def deep_variant(
    input_shape: tuple,
    num_classes: int,
    capsules: str = "flat",
    routing: str | Routing = "uniform",
    num_primary_capsules: int = 32,
    primary_dim: int = 8,
    class_dim: int = 16,
    **options: object,
) -> CapsNet:
    """Returns the network of `deep_capsnet` with capsules of other sizes or in other layers.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        capsules: `"flat"`, as in `deep_capsnet`; `"pooled"`, with the mean of each type's capsules
            over all positions below the class capsules; or `"two_layers"`, with a `ConvCaps2D` of
            3×3 positions and as many capsules of as many components between them.
        routing: Routing of all layers but the first.
        num_primary_capsules: Types of primary capsules. Defaults to 32.
        primary_dim: Components of a primary capsule. Defaults to 8.
        class_dim: Components of a class capsule. Defaults to 16.
        **options: Further arguments of `deep_capsnet`.

    Returns:
        A network without a decoder, not compiled.
    """
    blocks = deep_capsnet(input_shape, num_classes, **options)
    maps = blocks.get_layer("primary_caps").input
    primary = PrimaryCaps(num_primary_capsules, primary_dim, 1, as_map=True, name="primary_caps")
    x = primary(maps)
    if capsules == "pooled":
        x = ops.mean(x, axis=(1, 2))
    elif capsules == "two_layers":
        x = ConvCaps2D(num_primary_capsules, primary_dim, 3, padding="same", routing=routing)(x)
    elif capsules != "flat":
        raise ValueError(f"`capsules` must be one of {CAPSULES}. Received: capsules={capsules!r}.")
    poses = DigitCaps(num_classes, class_dim, routing=routing, name="digit_caps")(x)
    return CapsNet(blocks.input, CapsuleLength(name="class_lengths")(poses), name="deep_variant")
