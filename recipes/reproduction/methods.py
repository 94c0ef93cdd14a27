"""Methods that are compared: networks, and how each is trained on a task under a budget."""

import dataclasses

import keras

from harness.network_settings import adapt
from kcaps.losses import LogLoss
from kcaps.models import CapsNet, capsnet, efficient_capsnet
from kcaps.models.compilation import UPDATES
from kcaps.routing import ROUTINGS
from networks import baselines as networks
from reproduction import deep_methods
from reproduction.coefficients import VARIANTS
from reproduction.tasks import Task

NO_DECODER = "_fc"  # "/FC" in the paper: without the fully connected decoder
BUDGETS = ("cpu", "gpu_minutes", "gpu")

# Options and rates were chosen for the networks of the budget `"cpu"`, on validation images; the
# searches are in docs/results/search.csv. Options are λ, and the limit of EM's inverse temperature.
OPTIONS = {
    "l1": {"penalty_weight": 0.0501},
    "l2": {"penalty_weight": 0.0501},
    "em": {"inverse_temperature": 0.0209},
}
ROUTING_RATES = {"l1": 5e-6, "l2": 5e-6}  # γ at the start
# Adam's rates at the start.
RATES = {
    "dynamic": 1.26e-3,
    "l1": 2.72e-3,
    "l2": 2.72e-3,
    "em": 7.44e-4,
    "self_attention": 1.52e-3,
    "inverted_attention": 1.26e-3,  # the search's 8.57e-3 keeps some seeds at chance
    "uniform": 2.72e-3,
    "cnn": 1.52e-3,
    "efficient_capsnet": 2.22e-3,
}
MULTI_MNIST_PENALTY = 1e-3  # the paper's, for these pictures

# The reference networks, and small ones that train in minutes on two cores.
_PUBLISHED_CAPSNET = {"filters": 256, "num_primary_capsules": 32, "decoder_units": (512, 1024)}
CAPSNETS = {
    "cpu": {"filters": 32, "num_primary_capsules": 8, "decoder_units": (64, 128)},
    "gpu_minutes": _PUBLISHED_CAPSNET,
    "gpu": _PUBLISHED_CAPSNET,
}
_PUBLISHED_CNN = {"filters": (256, 256, 128), "units": (328, 192)}
CNNS = {
    "cpu": {"filters": (32, 32, 16), "units": (82, 48)},
    "gpu_minutes": _PUBLISHED_CNN,
    "gpu": _PUBLISHED_CNN,
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan of training: its length and its steps.

    Args:
        epochs: Passes over the training images.
        batch_size: Images of a step.
        rate: Adam's learning rate at the start.
        decay: Factor of the rates every `decay_steps` steps. None lets them fall along a cosine, to
            zero at the end.
        decay_steps: Positive integer.
        routing_rate: Rate of the routing coefficients at the start, where the network has some.
    """

    epochs: int
    batch_size: int
    rate: float = 1e-3
    decay: float | None = None
    decay_steps: int = 1000
    routing_rate: float = 0.0

    def schedule(self, rate: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
        """Returns a rate as it falls from its start over so many steps in all."""
        schedules = keras.optimizers.schedules
        if self.decay is None:
            return schedules.CosineDecay(rate, steps)
        return schedules.ExponentialDecay(rate, self.decay_steps, self.decay)

    def compile(self, network: keras.Model, steps: int, metrics=None, update=UPDATES[0]) -> None:
        """Compiles a network for so many steps in all."""
        optimizer = keras.optimizers.Adam(self.schedule(self.rate, steps))
        if not isinstance(network, CapsNet):
            network.compile(optimizer, LogLoss(), metrics=metrics)
            return
        rate = self.schedule(self.routing_rate, steps) if network.routing_variables else None
        network.compile(optimizer, update=update, routing_learning_rate=rate, metrics=metrics)


# On two cores, all networks have the same few passes, at `RATES`.
SHORT = Plan(3, 64)
# On a GPU that is at hand for minutes, all have the passes that fit, at the papers' rate.
MINUTES = Plan(20, 128)
# The papers' choices, where they tell them: Yang et al. give no number of epochs, no rate for
# CIFAR-10, and the schedule without a decoder for MNIST only.
PUBLISHED = {
    "mnist": Plan(30, 128, decay=0.96),
    f"mnist{NO_DECODER}": Plan(10, 32, decay=0.5),  # the rate has been halved 16 times by then
    "fashion_mnist": Plan(50, 128, decay=0.96),
    "cifar10": Plan(50, 32, 3e-4, decay=0.96),
    "moved_mnist": Plan(30, 128, decay=0.96),
    "moved_fashion_mnist": Plan(50, 128, decay=0.96),
    "multi_mnist": Plan(475, 128, decay=0.96, decay_steps=20_000),  # 200,000 steps
    "placed_mnist": Plan(30, 128, decay=0.96),
}
# Efficient-CapsNet trains longer on images that are changed in each pass.
EFFICIENT = {
    "cpu": {"distorted_mnist": Plan(20, 32), "moved_fashion_mnist": Plan(40, 32)},
    "gpu": dict.fromkeys(
        ("distorted_mnist", "moved_fashion_mnist"),
        Plan(150, 16, 5e-4, decay=0.97, decay_steps=3375),  # steps of an epoch
    ),
}


def has_coefficients(method: str) -> bool:
    """Returns whether a method has routing coefficients, which are updated beside the weights."""
    return method.removesuffix(NO_DECODER) in ROUTING_RATES or _variant(method) is not None


def _variant(method):
    return VARIANTS.get(method.removesuffix(NO_DECODER))


def training_of(method: str, task: str, budget: str) -> Plan | deep_methods.DeepPlan:
    """Returns how a method is trained on a task under a budget."""
    if method.startswith(deep_methods.DEEP):
        return deep_methods.plan_of(method, budget)
    if method == "efficient_capsnet" and task in EFFICIENT.get(budget, {}):
        return EFFICIENT[budget][task]
    variant, routing = _variant(method), method.removesuffix(NO_DECODER)
    if budget == "cpu":
        plan = dataclasses.replace(SHORT, rate=RATES[variant.penalty if variant else routing])
    elif budget == "gpu_minutes":
        plan = MINUTES
    else:
        ending = NO_DECODER if method.endswith(NO_DECODER) else ""
        plan = PUBLISHED.get(task + ending, PUBLISHED[task])
    rate = variant.rate if variant else ROUTING_RATES.get(routing, 0.0)
    return dataclasses.replace(plan, routing_rate=rate)


def options_of(method: str, task: str) -> dict[str, float]:
    """Returns arguments of a method's routing on a task."""
    options = dict(OPTIONS.get(method.removesuffix(NO_DECODER), {}))
    if task == "multi_mnist" and "penalty_weight" in options:
        options["penalty_weight"] = MULTI_MNIST_PENALTY
    return options


def build(
    method: str, task: str, budget: str, shape: tuple, num_classes: int, options: dict | None = None
) -> keras.Model:
    """Returns a network from pixels to one value for each class, not compiled.

    Args:
        method: `"efficient_capsnet"`, `"cnn"`, or the name of a routing, with `NO_DECODER` after it
            for a network without a decoder; or a name that `reproduction.deep_methods` or
            `reproduction.coefficients` knows.
        task: Name of the task.
        budget: One of `BUDGETS`.
        shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        options: Arguments of the routing, instead of those chosen for it.
    """
    if method.startswith(deep_methods.DEEP):
        return deep_methods.build(method, budget, shape, num_classes)
    if method == "efficient_capsnet":
        return efficient_capsnet(shape, num_classes)
    if method == "cnn":
        return networks.sabour_cnn(shape, num_classes, **CNNS[budget])
    routing = method.removesuffix(NO_DECODER)
    sizes = dict(CAPSNETS[budget])
    if task == "cifar10":
        sizes["num_primary_capsules"] *= 2
        sizes["activation"] = "leaky_relu"
    if method.endswith(NO_DECODER):
        sizes["decoder_units"] = None
    if variant := _variant(method):
        plain = capsnet(shape, num_classes, routing="uniform", **sizes)
        chosen = variant.routing(num_inputs=plain.class_inputs.shape[1])
    else:
        chosen = ROUTINGS[routing](**(options_of(method, task) if options is None else options))
    return capsnet(shape, num_classes, routing=chosen, **sizes)


def compiled(
    method: str, name: str, budget: str, task: Task, steps: int, metrics=None, update=UPDATES[0]
) -> keras.Model:
    """Returns a network, as from `build`, that is compiled for so many steps on the task `name`."""
    network = build(method, name, budget, task.input_shape, task.images.num_classes)
    adapt(network, task.images.train[0])
    training_of(method, name, budget).compile(network, steps, metrics, update)
    return network
