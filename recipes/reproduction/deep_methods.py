"""The deep network as a method: under dense heads, under each routing, and in other designs."""

import dataclasses

import keras

from harness import network_settings, optimizers
from kcaps.losses import LogLoss
from kcaps.models import CapsNet, deep_capsnet
from kcaps.models.compilation import UPDATES
from networks import presets
from networks.deep_dense import deep_dense
from networks.deep_variants import deep_variant

DEEP = "deep_"  # before the name of a routing, of a head without capsules, or of a design
HEADS = {"pooled_dense": True, "dense": False}  # and whether features are pooled below it


@dataclasses.dataclass(frozen=True)
class Design:
    """What another design of the network changes.

    Args:
        training: Values of `networks.presets.Training`.
        network: Arguments of `networks.deep_variants.deep_variant`.
    """

    training: dict = dataclasses.field(default_factory=dict)
    network: dict = dataclasses.field(default_factory=dict)


def _loss(name, times=1.0):
    """Returns the design with another loss, and so many times the learning rate.

    The rate is that of the cross-entropy, whose slopes are steeper. The decay of a step stays.
    """
    standard = presets.training_of("cifar10", "deep")
    return Design(
        {
            "loss": name,
            "label_smoothing": 0.0,
            "learning_rate": standard.learning_rate * times,
            "weight_decay": standard.weight_decay / times,
        }
    )


DESIGNS = {
    "margin": _loss("margin"),
    "margin_4_times": _loss("margin", 4.0),
    "spread": _loss("spread"),
    "spread_4_times": _loss("spread", 4.0),
    "relu": Design(network={"activation": "relu"}),
    "16_types": Design(network={"num_primary_capsules": 16}),
    "64_types": Design(network={"num_primary_capsules": 64}),
    "16_components": Design(network={"num_primary_capsules": 16, "primary_dim": 16}),
    "8_of_a_class": Design(network={"class_dim": 8}),
    "unbiased": Design(network={"is_biased": False}),
    "positions": Design(network={"capsules": "positions"}),
    "positions_unbiased": Design(network={"capsules": "positions", "is_biased": False}),
    "two_layers": Design(network={"capsules": "two_layers"}),
    "narrow": Design({"widths": (64, 128, 256)}),
    "averaged": Design({"average_weights": 0.99}),
}

# What two cores have time for: nine heads from three seeds train for hours.
ON_CPU = {"epochs": 6, "widths": (64, 256, 256)}


@dataclasses.dataclass(frozen=True)
class DeepPlan:
    """The training of the deep network by `cifar10.py`, for other heads and fewer passes.

    Args:
        values: All that `cifar10.py` would take, but for the capsules.
    """

    values: presets.Training

    @property
    def epochs(self) -> int:
        return self.values.epochs

    @property
    def batch_size(self) -> int:
        return self.values.batch_size

    def compile(self, network: keras.Model, steps: int, metrics=None, update=UPDATES[0]) -> None:
        """Compiles a network for so many steps in all."""
        optimizer = optimizers.of(self.values, network, steps)
        if not isinstance(network, CapsNet):
            smoothed = LogLoss(label_smoothing=self.values.label_smoothing)
            network.compile(optimizer, smoothed, metrics=metrics)
            return
        loss = network_settings.loss_of(self.values)
        options = optimizers.routing_options(self.values, network, steps)
        network.compile(optimizer, loss, metrics=metrics, update=update, **options)


def plan_of(method: str, budget: str) -> DeepPlan:
    """Returns how the deep network trains under a budget; `method` begins with `DEEP`."""
    values = presets.training_of("cifar10", "deep")
    values = dataclasses.replace(values, **ON_CPU) if budget == "cpu" else values
    design = DESIGNS.get(method.removeprefix(DEEP), Design())
    return DeepPlan(dataclasses.replace(values, **design.training))


def build(method: str, budget: str, shape: tuple, num_classes: int) -> keras.Model:
    """Returns the deep network with a head, a routing or a design, not compiled.

    Args:
        method: `DEEP` and a name in `HEADS`, in `DESIGNS`, or of a routing.
        budget: A name in `reproduction.methods.BUDGETS`.
        shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
    """
    values, name = plan_of(method, budget).values, method.removeprefix(DEEP)
    options = {"widths": values.widths, "convolutions": values.convolutions}
    if name in HEADS:
        return deep_dense(shape, num_classes, HEADS[name], **options)
    if name in DESIGNS:
        return deep_variant(shape, num_classes, **DESIGNS[name].network, **options)
    return deep_capsnet(shape, num_classes, routing=name, **options)
