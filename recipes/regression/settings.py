"""Settings of the programs of capsule regression."""

import dataclasses

from export.command import Parser, non_negative, positive
from harness.settings import DistributedSettings, RunSettings, StudySettings, option
from kcaps.regression.competition import ARCHITECTURES

_DATA = ("digits", "mnist", "fashion_mnist")
_ARCHITECTURE = "which classes a capsule tells from which"
STUDIES = ("updates", "initialisations")


def refuse_precision(parser: Parser) -> None:
    """Tells the parser that EM computes in float32 at least, and takes no other `--precision`."""
    parser.refuse(
        ["--precision"], lambda args: args.precision != "float32", "EM needs float32 at least"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressionSettings(DistributedSettings):
    """Settings of `capsule_regression.py`."""

    data: str = option("digits", "images", choices=_DATA)
    capsule_dim: int = option(2, "components of a capsule", type=positive(int))
    architecture: str = option("multiclass", _ARCHITECTURE, choices=list(ARCHITECTURES))
    components: int | None = option(
        None,
        "singular directions that images are projected on (default: a quarter of the pixels, at "
        "least 32)",
        type=positive(int),
    )
    ridge: float = option(0.0, "precision of a prior on the weights", type=non_negative)
    distorted: int | None = option(
        None,
        "so many distorted images, drawn once, join the training images",
        type=positive(int),
    )
    momentum: float = option(0.9, "of steps of EM", type=non_negative)
    sweep: bool = option(
        False,
        "all architectures with capsules of --dims components; the model with the lowest "
        "validation error is kept",
    )
    dims: list[int] = option(
        (1, 2, 4, 8, 16), "components of a capsule, with --sweep", type=positive(int), nargs="+"
    )

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        parser.refuse(["--dims"], lambda args: not args.sweep, "only --sweep has several of them")
        parser.refuse(
            ["--capsule-dim", "--architecture"],
            lambda args: args.sweep,
            "--sweep has all architectures, and the capsules of --dims",
        )
        refuse_precision(parser)
        parser.refuse(
            ["--distorted"],
            lambda args: args.data == "digits",
            "distortions are of a size for images of 28 pixels, not of 8",
        )
        parser.refuse(
            ["--seed"],
            lambda args: args.distorted is None,
            "EM starts from the data, and draws nothing at random but --distorted",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistortedSettings(RunSettings):
    """Settings of `distorted_mnist.py`."""

    capsule_dim: int = option(16, "components of a capsule", type=positive(int))
    architecture: str = option("all_vs_all", _ARCHITECTURE, choices=list(ARCHITECTURES))
    examples: int = option(1_000_000, "distorted digits to train on", type=positive(int))
    chunk: int = option(50_000, "digits that are held at once", type=positive(int))
    components: int = option(
        196, "singular directions that images are projected on", type=positive(int)
    )
    momentum: float = option(0.9, "of steps of EM", type=non_negative)
    rate: float = option(
        2.0,
        "factor of each step of EM, which falls to zero with the examples: 1 is plain EM",
        type=positive(float),
    )
    threshold: float = option(
        0.4,
        "digits whose second class is at most this times as probable as their own do not pull",
        type=non_negative,
    )
    ridge: float = option(0.0, "precision of a prior on the weights", type=non_negative)

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        refuse_precision(parser)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonSettings(StudySettings):
    """Settings of `regression_studies.py`."""

    study: str | None = option(None, "what is compared", choices=STUDIES, required=True)
    data: str = option("digits", "images", choices=_DATA)
    capsule_dim: int = option(4, "components of a capsule", type=positive(int))
    epochs: int = option(1000, "iterations of each model", type=positive(int))
    levels: list[float] = option(
        (0.001, 0.01, 0.1, 1.0),
        "standard deviations of random weights",
        type=positive(float),
        nargs="+",
    )
    draws: int = option(20, "models of each level", type=positive(int))

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        refuse_precision(parser)
        parser.refuse(
            ["--levels", "--draws"],
            lambda args: args.study != "initialisations",
            "only --study initialisations draws weights at random",
        )
