"""Methods that are compared: networks, and how each is trained on a task under a budget."""

import dataclasses

import keras

import networks
from kcaps.losses import LogLoss
from kcaps.models import capsnet, efficient_capsnet
from kcaps.routing import ROUTINGS, DiscriminativeRouting

NO_DECODER = "_fc"  # "/FC" in the paper: without the fully connected decoder
METHODS = (
    *ROUTINGS,
    *(f"{name}{NO_DECODER}" for name in ROUTINGS),
    "efficient_capsnet",
    "cnn",
)
BUDGETS = ("cpu", "gpu")

# Chosen for the networks of the budget `"cpu"`, on validation images, by `tune.py`: docs/results.md
# has the searches. Penalty weight λ and routing rate γ; Adam's rate, of the others that of dynamic.
CHOSEN = {"l1": (0.0501, 1.37e-5), "l2": (0.0501, 1.37e-5)}
RATES = {"dynamic": 1.26e-3, "l1": 2.72e-3, "l2": 2.72e-3}
MULTI_MNIST_PENALTY = 1e-3  # the paper's, for these pictures

# The reference networks, and small ones that train in minutes on two cores.
CAPSNETS = {
    "cpu": {"filters": 32, "num_primary_capsules": 8, "decoder_units": (64, 128)},
    "gpu": {"filters": 256, "num_primary_capsules": 32, "decoder_units": (512, 1024)},
}
CNNS = {
    "cpu": {"filters": (32, 32, 16), "units": (82, 48)},
    "gpu": {"filters": (256, 256, 128), "units": (328, 192)},
}


@dataclasses.dataclass(frozen=True)
class Training:
    """How long a network is trained, by which steps.

    Args:
        epochs: Passes over the training images.
        batch_size: Images of a step.
        rate: Adam's learning rate at the start.
        decay: Factor of the rate every `decay_steps` steps. None lets it fall along a cosine, to
            zero at the end.
        decay_steps: Positive integer.
    """

    epochs: int
    batch_size: int
    rate: float = 1e-3
    decay: float | None = None
    decay_steps: int = 1000

    def optimizer(self, steps):
        """Adam for so many steps in all."""
        schedules = keras.optimizers.schedules
        if self.decay is None:
            return keras.optimizers.Adam(schedules.CosineDecay(self.rate, steps))
        rate = schedules.ExponentialDecay(self.rate, self.decay_steps, self.decay)
        return keras.optimizers.Adam(rate)


# On two cores, all networks have the same few passes, at `RATES`.
SHORT = Training(3, 64)
# The papers' otherwise, but for what they do not tell: Yang et al. give no number of epochs, and no
# rate for CIFAR-10.
PUBLISHED = {
    "mnist": Training(30, 32, decay=0.5),
    "fashion_mnist": Training(50, 128, decay=0.96),
    "cifar10": Training(50, 32, 3e-4, decay=0.96),
    "multi_mnist": Training(475, 128, decay=0.96, decay_steps=20_000),  # 200,000 steps
    "placed_mnist": Training(30, 128, decay=0.96),
}
EFFICIENT = {
    "cpu": Training(25, 64),
    "gpu": Training(150, 16, 5e-4, decay=0.97, decay_steps=3375),  # steps of an epoch
}


def training_of(method, task, budget):
    """The `Training` of a method on a task under a budget."""
    if method == "efficient_capsnet" and task.startswith(("distorted", "moved")):
        return EFFICIENT[budget]
    if budget == "gpu":
        return PUBLISHED[task]
    rate = RATES.get(method.removesuffix(NO_DECODER), RATES["dynamic"])
    return dataclasses.replace(SHORT, rate=rate)


def build(method, task, budget, shape, num_classes, chosen=None):
    """A network that is not compiled, and what `compile` takes beside its optimizer and metrics.

    Args:
        method: One of `METHODS`.
        task: Name of the task.
        budget: `"cpu"` or `"gpu"`.
        shape: Tuple `(height, width, channels)`.
        num_classes: Positive integer.
        chosen: Penalty weight and routing rate of `"l1"` and `"l2"`, in place of `CHOSEN`.

    Returns:
        Model from pixels to one value for each class, and a dict.
    """
    if method == "efficient_capsnet":
        return efficient_capsnet(shape, num_classes), {}
    if method == "cnn":
        network = networks.sabour_cnn(shape, num_classes, **CNNS[budget])
        return network, {"loss": LogLoss()}
    routing, compiled = method.removesuffix(NO_DECODER), {}
    options = dict(CAPSNETS[budget])
    if task == "cifar10":
        options["num_primary_capsules"] *= 2
        options["activation"] = "leaky_relu"
    if method.endswith(NO_DECODER):
        options["decoder_units"] = None
    if routing in CHOSEN:
        penalty, rate = chosen or CHOSEN[routing]
        if task == "multi_mnist":
            penalty = MULTI_MNIST_PENALTY
        routing = DiscriminativeRouting(routing, penalty_weight=penalty)
        compiled = {"routing_learning_rate": rate}
    return capsnet(shape, num_classes, routing=routing, **options), compiled
