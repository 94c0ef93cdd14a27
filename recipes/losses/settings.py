"""Settings of the study of losses: its presets, and the options of its command line."""

import argparse
import dataclasses

from export.command import Parser, fail, positive
from harness.settings import StudySettings, option
from kcaps.losses import CLASSIFICATION_LOSSES
from losses.toys import TOYS

IMAGES = ("mnist", "cifar10")
CONVNET_DEPTH = 4  # CIFAR-10's network is of one shape: three convolutions and a hidden layer
_GROUPS = {"toy": tuple(TOYS), "all": (*TOYS, *IMAGES)}
_LAST_SEED = 2**31 - 11
_ARGUMENTS = tuple("preset losses seed iterations learning_rate units limit synthetic".split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Iterations, learning rates and sizes, by default the paper's.

    A travel is a learning rate times its iterations: 0.00003 × 60,000 for toys, for example.
    """

    toy_iterations: int = 60_000
    toy_travel: float = 1.8
    linear_iterations: int = 100_000  # of MNIST's networks without hidden layers
    image_iterations: int = 100_000  # of those with hidden layers
    image_travel: float = 3.0
    units: int = 512
    depths: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    label_noise: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    noisy_size: int | None = None  # images with changed labels for deep networks; None for all
    noisy_travel: float = 3.0
    convnet_iterations: int = 100_000
    convnet_filters: int = 64
    convnet_travel: float = 3.0


PRESETS = {
    "paper": Preset(),
    "quick": Preset(
        toy_iterations=3_000,
        linear_iterations=20_000,
        image_iterations=2_000,
        units=256,
        depths=(0, 1, 3, 5),
        label_noise=(0.5,),
        # As many passes as in the paper: log loss learns the changed labels by heart. And a rate
        # with which deep networks train well.
        noisy_size=1_200,
        noisy_travel=0.6,
        convnet_iterations=1_000,
        convnet_filters=32,
        convnet_travel=1.0,
    ),
}


def _share(text):
    """Argument type: a number above 0, and at most 1."""
    if not 0 < (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, received {text}")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings(StudySettings):
    """Settings of `loss_study.py`."""

    study: list[str] = option(("toy",), "data", choices=(*TOYS, *IMAGES, *_GROUPS), nargs="+")
    preset: str = option(
        "quick", "iterations, learning rates and sizes, as above", choices=list(PRESETS)
    )
    losses: list[str] = option(
        tuple(CLASSIFICATION_LOSSES),
        "that are compared",
        choices=list(CLASSIFICATION_LOSSES),
        nargs="+",
    )
    depths: list[int] | None = option(
        None,
        "numbers of hidden layers; by default 0 to 5, and 0, 1, 3, 5 of the quick MNIST",
        type=int,
        choices=range(6),
        nargs="+",
    )
    label_noise: list[float] | None = option(
        None,
        "shares of MNIST's training labels that are changed, besides none",
        type=_share,
        nargs="*",
    )
    iterations: int | None = option(
        None, "instead of the preset's, the rate in proportion", type=positive(int)
    )
    learning_rate: float | None = option(
        None, "instead of the one in proportion", type=positive(float)
    )
    units: int | None = option(None, "of MNIST's hidden layers", type=positive(int))
    seed: int = option(0, "of all that is drawn at random", type=int)

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        parser.refuse(
            ["--precision"],
            lambda args: args.precision != "float32",
            "networks that are trained side by side compute in float32",
        )
        parser.refuse(
            ["--label-noise", "--units"],
            lambda args: "mnist" not in _names(args.study),
            "only --study mnist uses it",
        )
        parser.refuse(
            ["--units"],
            lambda args: args.depths and not any(args.depths),
            "no network has hidden layers",
        )
        parser.refuse(
            ["--depths"],
            lambda args: _names(args.study) == ["cifar10"],
            "the network of --study cifar10 has one depth",
        )
        parser.refuse(
            ["--data-dir", "--limit", "--synthetic"],
            lambda args: not set(_names(args.study)) & set(IMAGES),
            "toys are points and no images",
        )

    def __post_init__(self):
        if not 0 <= self.seed <= _LAST_SEED:
            fail(f"--seed must be from 0 to {_LAST_SEED}, received {self.seed}")

    @property
    def compared(self) -> tuple[str, ...]:
        """The losses that are compared, in kcaps' order."""
        return tuple(loss for loss in CLASSIFICATION_LOSSES if loss in self.losses)

    @property
    def arguments(self) -> dict:
        """All that makes the study what it is, as plain values."""
        arguments = {name: getattr(self, name) for name in _ARGUMENTS}
        return arguments | {"losses": list(self.compared)}

    def cells(self) -> list[dict]:
        """Returns data, depth and label noise of all cells; of CIFAR-10, also the loss."""
        names, preset = _names(self.study), PRESETS[self.preset]
        levels = preset.label_noise if self.label_noise is None else self.label_noise
        keys = [(name, d, 0.0) for d in self.depths or range(6) for name in names if name in TOYS]
        if "mnist" in names:
            depths = self.depths or preset.depths
            keys += [("mnist", depth, level) for depth in depths for level in (0.0, *levels)]
        cells = [dict(zip(("data", "depth", "label_noise"), key, strict=True)) for key in keys]
        if "cifar10" in names:
            common = {"data": "cifar10", "depth": CONVNET_DEPTH, "label_noise": 0.0}
            cells += [common | {"loss": loss} for loss in self.compared]
        return cells


def _names(groups):
    """Returns the names of data in groups of them, each once."""
    return list(dict.fromkeys(name for group in groups for name in _GROUPS.get(group, (group,))))
