"""The deep capsule network with other capsules on its convolution blocks."""

from keras import layers

from kcaps.layers import CapsuleLength, ConstantCaps, ConvCaps2D, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet, deep_capsnet
from kcaps.routing import Routing

CAPSULES = ("pooled", "positions", "two_layers")


def deep_variant(
    input_shape: tuple,
    num_classes: int,
    capsules: str = "pooled",
    is_biased: bool = True,
    num_primary_capsules: int = 32,
    primary_dim: int = 8,
    class_dim: int = 16,
    routing: str | Routing = "uniform",
    **options: object,
) -> CapsNet:
    """Returns the network of `deep_capsnet` with capsules of other sizes or in other layers.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        capsules: `"pooled"`, as in `deep_capsnet`; `"positions"`, with primary capsules at each
            position of the last map; or `"two_layers"`, with a `ConvCaps2D` of 3×3 positions and
            as many capsules of as many components between these and the class capsules.
        is_biased: Whether there is a constant capsule, as in `deep_capsnet`. Defaults to True.
        num_primary_capsules: Types of primary capsules. Defaults to 32.
        primary_dim: Components of a primary capsule. Defaults to 8.
        class_dim: Components of a class capsule. Defaults to 16.
        routing: Routing of all layers but the first. Defaults to `"uniform"`.
        **options: Further arguments of `deep_capsnet`.

    Returns:
        A network without a decoder, not compiled.
    """
    if capsules not in CAPSULES:
        raise ValueError(f"`capsules` must be one of {CAPSULES}. Received: capsules={capsules!r}.")
    blocks = deep_capsnet(input_shape, num_classes, **options)
    below = "primary_caps" if capsules == "pooled" else "strongest_features"
    primary = PrimaryCaps(num_primary_capsules, primary_dim, 1, as_map=True, name="primary_caps")
    x = primary(blocks.get_layer(below).input)
    if capsules == "two_layers":
        x = ConvCaps2D(num_primary_capsules, primary_dim, 3, padding="same", routing=routing)(x)
    x = layers.Reshape((-1, primary_dim))(x)
    if is_biased:
        x = ConstantCaps()(x)
    poses = DigitCaps(num_classes, class_dim, routing=routing, name="digit_caps")(x)
    return CapsNet(blocks.input, CapsuleLength(name="class_lengths")(poses), name="deep_variant")
