"""Settings of `tune.py`: what is searched, by which trials, and where."""

import dataclasses
import pathlib

import keras

from export.command import Parser, fail, positive
from harness import settings, training
from harness.run_folder import Run
from harness.settings import RunSettings, option
from pictures_of import data
from reproduction import methods
from search.capsnets import CapsNetHyperModel
from search.oracles import ORACLES
from search.perceptrons import MLPHyperModel
from search.regression_models import CapsuleRegressionHyperModel
from search.reproduced import METHODS, ReproducedHyperModel
from search.trials import read_role

HYPERMODELS = {
    "capsnet": CapsNetHyperModel,
    "capsule_regression": CapsuleRegressionHyperModel,
    "mlp": MLPHyperModel,
    **dict.fromkeys(METHODS, ReproducedHyperModel),
}
# A search with other values of these is another one; --max-trials may be raised.
_STUDY = ("model", "data", "budget", "tuner", "executions", "epochs", "batch_size")
_STUDY += ("seed", "precision", "limit", "synthetic")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """Settings of `tune.py`."""

    model: str = option("capsnet", "whose space is searched", choices=list(HYPERMODELS))
    data: str = option("digits", "images", choices=list(data.SHAPES))
    tuner: str = option("random", "how trials are chosen", choices=list(ORACLES))
    max_trials: int = option(20, "trials; may be raised later", type=positive(int))
    executions: int = option(1, "trainings of each trial", type=positive(int))
    budget: str = option(
        "cpu",
        f"of reproduce.py's networks and training: {', '.join(METHODS)}",
        choices=methods.BUDGETS,
    )
    batch_size: int | None = option(None, "default: by --model", type=positive(int))
    search: pathlib.Path | None = option(
        None,
        "folder of the search and its results (default: --output with -search after it)",
        may_change=True,
        type=pathlib.Path,
    )
    silence: float = option(
        60.0,
        "seconds without a sign of life after which a worker of several counts as dead",
        may_change=True,
        type=positive(float),
    )
    export: bool = option(False, "write and verify model.onnx too", may_change=True)

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        def is_regression(args):
            return args.model == "capsule_regression"

        parser.refuse(
            ["--export"],
            lambda args: keras.backend.backend() != "tensorflow",
            "exporters need TensorFlow: python -m export.onnx --model FOLDER writes it later",
        )
        parser.refuse(
            ["--budget"],
            lambda args: args.model not in METHODS,
            "only the models of reproduce.py have budgets, such as --model l1_routing",
        )
        parser.refuse(
            ["--batch-size"], is_regression, "capsule regression takes all images in each iteration"
        )
        parser.refuse(
            ["--executions"],
            is_regression,
            "capsule regression starts from the data, and all trainings of a trial are the same",
        )
        parser.refuse(
            ["--seed"],
            lambda args: is_regression(args) and args.tuner == "grid",
            "a grid of capsule regression draws nothing at random",
        )
        parser.refuse(
            ["--silence"],
            lambda args: read_role() == "alone",
            "the search has no workers. docs/tuning.md tells how to start some",
        )

    @property
    def run(self) -> Run:
        return dataclasses.replace(super().run, how_to_resume="the same command")

    @property
    def study(self) -> dict:
        """Values that must not change in a folder of a search."""
        return {name: getattr(self, name) for name in _STUDY}


def read(description: str) -> Settings:
    """Returns what the command line asks for, with the model's own epochs and batch size."""
    asked = settings.read(Settings, description)
    training.check(asked)
    if asked.budget != "cpu" and not (asked.model in METHODS and asked.data in methods.PUBLISHED):
        names = ", ".join(name for name in data.SHAPES if name in methods.PUBLISHED)
        fail(
            f"--budget {asked.budget} is not for --model {asked.model} on --data {asked.data}: "
            f"give one of {', '.join(METHODS)} on one of {names}"
        )
    epochs, batch_size = HYPERMODELS[asked.model].defaults(asked)
    return dataclasses.replace(
        asked,
        epochs=asked.epochs or epochs,
        batch_size=asked.batch_size or batch_size,
        search=asked.search or pathlib.Path(f"{asked.output}-search"),
    )
