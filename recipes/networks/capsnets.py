"""The capsule networks that `--network` names, as the data sets have them."""

from harness.network_settings import NetworkSettings
from kcaps import models
from kcaps.models import CapsNet
from kcaps.routing import DiscriminativeRouting
from networks.backbones import on_backbone
from networks.small_capsnet import small_capsnet

# What the papers change for a data set.
REFERENCE = {
    "cifar10": {"num_primary_capsules": 64, "activation": "leaky_relu", "decoder_units": None}
}


def build(settings: NetworkSettings, input_shape: tuple, num_classes: int) -> CapsNet:
    """Returns the network that settings ask for, not compiled.

    Args:
        settings: Its settings.
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
    """
    routing, data_set = settings.routing, settings.data_set
    if routing in ("l1", "l2"):
        routing = DiscriminativeRouting(routing, penalty_weight=settings.penalty_weight)
    if settings.network == "backbone":
        weights, is_frozen = settings.backbone_weights, settings.freeze_backbone
        return on_backbone(settings.backbone, input_shape, num_classes, routing, weights, is_frozen)
    if settings.network == "small":
        decoder = {"decoder_units": None} if settings.no_decoder else {}
        return small_capsnet(input_shape, num_classes, routing=routing, **decoder)
    if settings.network == "efficient":
        return models.efficient_capsnet(input_shape, num_classes, routing=routing)
    if settings.network == "deep":
        options = {"widths": tuple(settings.widths), "convolutions": settings.convolutions}
        return models.deep_capsnet(input_shape, num_classes, routing=routing, **options)
    options = dict(REFERENCE.get(data_set, {}))
    if settings.no_decoder:
        options["decoder_units"] = None
    return models.capsnet(input_shape, num_classes, routing=routing, **options)
