"""Settings of `baselines.py`."""

import dataclasses
import pathlib

from comparison.models import BASELINES
from export.command import Parser, fail, positive
from harness.settings import MEASUREMENTS, StudySettings, option
from pictures_of import data

SHORT, LONG = 10, 100  # steps that training values are averaged over, and between two tests
REGRESSION, ITERATIONS = "capsule_regression", 20_000
MODELS = (*BASELINES, REGRESSION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonSettings(StudySettings):
    """Settings of `baselines.py`."""

    data: str = option("cifar10", "images", choices=list(data.SHAPES))
    models: list[str] = option(
        tuple(name for name, baseline in BASELINES.items() if baseline.published),
        ", ".join(MODELS),
        choices=MODELS,
        nargs="+",
        metavar="MODEL",
    )
    seeds: int = option(1, "models of each kind", type=positive(int))
    steps: int | None = option(
        None,
        "at most so many steps of each network and iterations of capsule regression (default: as "
        "published)",
        type=positive(int),
    )
    measurements: pathlib.Path | None = MEASUREMENTS

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        parser.refuse(
            ["--seeds"],
            lambda args: set(args.models) == {REGRESSION},
            "capsule regression starts from the data, and all seeds are the same",
        )

    def __post_init__(self):
        if self.steps and self.steps > LONG and self.steps % LONG:
            fail(f"--steps must be a multiple of {LONG}, or less than it. Received: {self.steps}.")

    @property
    def arguments(self) -> dict:
        """All that makes the study what it is, as plain values."""
        names = ("data", "precision", "synthetic", "limit")
        return {name: getattr(self, name) for name in names}

    def count_steps(self, model: str) -> int:
        """Returns how many steps a model is trained for at most."""
        most = ITERATIONS if model == REGRESSION else BASELINES[model].steps
        return min(self.steps or most, most)

    def cells(self) -> list[dict]:
        """Returns models and seeds; capsule regression starts from the data, and needs one seed."""
        return [
            {"model": model, "seed": seed}
            for model in dict.fromkeys(self.models)
            for seed in range(1 if model == REGRESSION else self.seeds)
        ]
