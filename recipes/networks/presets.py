"""How each network is trained on each data set by default: one table of plain values.

An option of the command line replaces a value; see docs/training.md.
"""

import dataclasses

NETWORKS = ("reference", "efficient", "deep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Values of a training, by the names of the options that replace them."""

    epochs: int
    batch_size: int
    learning_rate: float
    routing: str = "dynamic"
    optimizer: str = "adam"
    momentum: float = 0.85
    routing_rate: float = 1e-5
    weight_decay: float = 0.0
    average_weights: float = 0.0
    schedule: str = "exponential"
    decay_steps: int = 1000
    warm_up: float = 0.0
    final_rate: float = 0.0
    loss: str = "margin"
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ("none",)
    max_shift: int = 2
    cutout_size: int = 8
    early_stopping: int = 0
    precision: str = "float32"
    validation_share: float = 0.1
    widths: tuple[int, ...] | None = None
    convolutions: int = 2


_EFFICIENT = Training(epochs=10, batch_size=32, learning_rate=5e-4, routing="self_attention")
# As Jordan trains networks of these blocks (2024, https://arxiv.org/abs/2404.00498), with fewer
# images in a step, for which the rate is lower.
_DEEP = Training(
    epochs=12,
    batch_size=500,
    learning_rate=0.73,
    routing="uniform",
    optimizer="sgd",
    weight_decay=0.009,
    schedule="linear",
    warm_up=0.2,
    loss="length_cross_entropy",
    label_smoothing=0.2,
    precision="mixed_bfloat16",
    widths=(64, 256, 256),
)

TRAININGS = {
    ("digits", "small"): Training(
        epochs=30, batch_size=32, learning_rate=2e-3, schedule="cosine", augment=("half-pixel",)
    ),
    ("mnist", "reference"): Training(epochs=10, batch_size=32, learning_rate=1e-3),
    ("mnist", "efficient"): _EFFICIENT,
    ("mnist", "deep"): dataclasses.replace(
        _DEEP, epochs=40, augment=("shift", "elastic"), validation_share=0.02
    ),
    ("fashion_mnist", "reference"): Training(epochs=10, batch_size=128, learning_rate=1e-3),
    ("fashion_mnist", "efficient"): _EFFICIENT,
    ("fashion_mnist", "deep"): dataclasses.replace(
        _DEEP,
        epochs=36,
        augment=("mirror", "shift", "cutout"),
        widths=(128, 384, 384),
        validation_share=0.02,
    ),
    ("cifar10", "reference"): Training(epochs=20, batch_size=32, learning_rate=3e-4),
    ("cifar10", "efficient"): _EFFICIENT,
    ("cifar10", "deep"): dataclasses.replace(
        _DEEP,
        epochs=38,
        learning_rate=0.57,
        augment=("mirror", "shift", "cutout"),
        max_shift=4,
        widths=(64, 240, 240),
        convolutions=3,
        validation_share=0.02,
    ),
    ("cifar10", "deep", "best"): dataclasses.replace(
        _DEEP,
        epochs=40,
        learning_rate=0.57,
        augment=("mirror", "shift", "cutout"),
        max_shift=4,
        cutout_size=12,
        widths=(128, 384, 384),
        validation_share=0.02,
        convolutions=3,
    ),
    ("multi_mnist", "reference"): Training(
        epochs=20, batch_size=128, learning_rate=1e-3, decay_steps=20_000
    ),
    ("multi_mnist", "efficient"): dataclasses.replace(_EFFICIENT, epochs=20, batch_size=128),
    ("multi_mnist", "deep"): dataclasses.replace(_DEEP, epochs=60, label_smoothing=0.0),
    # A user's own pictures, often some hundreds. Mirrored letters would be wrong, and not every
    # processor has products of bfloat16.
    ("images", "reference"): Training(
        epochs=50, batch_size=32, learning_rate=3e-4, validation_share=0.15
    ),
    ("images", "efficient"): dataclasses.replace(_EFFICIENT, epochs=50, validation_share=0.15),
    ("images", "deep"): dataclasses.replace(
        _DEEP,
        epochs=50,
        batch_size=32,
        learning_rate=0.1,
        augment=("shift",),
        precision="float32",
        widths=(32, 64, 128),
        validation_share=0.15,
    ),
}

# A network of `keras.applications` on a user's own pictures.
BACKBONE = Training(
    epochs=50,
    batch_size=32,
    learning_rate=1e-3,
    routing="uniform",
    schedule="cosine",
    warm_up=0.1,
    loss="length_cross_entropy",
    label_smoothing=0.1,
    augment=("shift",),
    validation_share=0.15,
)

DEFAULT_NETWORKS = {
    "digits": "small",
    "mnist": "deep",
    "fashion_mnist": "deep",
    "cifar10": "deep",
    "multi_mnist": "deep",
    "images": "deep",
}

# Rate and weight decay of an optimizer where the table has another one: Keras' own, but for SGD.
OPTIMIZERS = {
    "adam": {"learning_rate": 1e-3, "weight_decay": 0.0},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.004},
    "sgd": {"learning_rate": 0.1, "weight_decay": 5e-4},
    "muon": {"learning_rate": 1e-3, "weight_decay": 0.004},
}


def networks_of(data_set: str, preset: str = "standard") -> list[str]:
    """Returns the networks that a data set has a preset of, the default first.

    Args:
        data_set: Name in `DEFAULT_NETWORKS`.
        preset: `"standard"` or `"best"`.
    """
    ending = () if preset == "standard" else (preset,)
    found = [key[1] for key in TRAININGS if key[0] == data_set and key[2:] == ending]
    return sorted(found, key=lambda network: network != DEFAULT_NETWORKS[data_set])


def training_of(data_set: str, network: str, preset: str = "standard") -> Training:
    """Returns how a network is trained on a data set; arguments are those of `networks_of`."""
    return TRAININGS[(data_set, network) + (() if preset == "standard" else (preset,))]
