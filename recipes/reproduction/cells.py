"""Cells of the tables: one method on one task from one seed, trained into a checkpoint folder.

Settings of functions here, and in the other modules of this folder, are those of
`reproduction.settings.Settings`.
"""

import dataclasses
import pathlib

import keras
import numpy as np

from harness import checkpoints, run_folder, study, training
from harness.settings import StudySettings
from networks import baselines as networks
from reproduction import methods, tasks
from reproduction.deep_methods import DeepPlan


@dataclasses.dataclass(frozen=True)
class Cell:
    """A method on a task from one seed."""

    task: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, {self.method}, seed {self.seed}"

    def folder(self, output: pathlib.Path) -> pathlib.Path:
        """Returns the checkpoint folder in a folder of results."""
        return output / self.task / f"{self.method}-{self.seed}"

    def plan(self, budget: str) -> methods.Plan | DeepPlan:
        """Returns how its network is trained under a budget."""
        return methods.training_of(self.method, self.task, budget)


def train(cell: Cell, settings: StudySettings) -> dict:
    """Trains a cell, or goes on with it; returns values of its row in `cells.csv`.

    The weights that are best on the validation images are kept; the test images are read once.
    """
    task = tasks.load(cell.task, settings)
    run = _run(cell, settings, len(task.images.train[0]))
    run_folder.check_output(run)
    keras.utils.set_random_seed(cell.seed)
    passes, size = len(task.images.train[0]) // run.batch_size, run.batch_size
    steps, metrics = run.epochs * passes, [task.make_metric()]
    model = methods.compiled(
        cell.method, cell.task, settings.budget, task, steps, metrics, settings.update
    )

    batches = task.batches(cell.seed, size)
    history = training.fit(model, task.images, run, batches, task.validation)
    parameters = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    if model.layers[-1].name == "logits":
        model = networks.with_probabilities(model)
        checkpoints.write_model(model, run.output / "model.keras")
    accuracy = task.accuracy(model, size)
    training.write_report(run, task.images, model, history, accuracy, task.metric)
    best = int(np.argmin(history["val_loss"]))
    return {
        "test_error": round(100 * (1 - accuracy), 3),
        "validation_error": round(100 * (1 - history[f"val_{task.metric}"][best]), 3),
        "best_epoch": best + 1,
        "epochs": run.epochs,
        "batch_size": size,
        "parameters": parameters,
        "seconds": round(sum(history["seconds"]), 1),
    }


def _run(cell, settings, count):
    """Returns the run of a cell on so many training images."""
    plan = cell.plan(settings.budget)
    size = min(plan.batch_size, count)
    arguments = {
        "recipe": "reproduce",
        **dataclasses.asdict(cell),
        "budget": settings.budget,
        "update": settings.update,
        # A cell goes on with the same training, options and backend only.
        "training": dataclasses.asdict(plan),
        "options": methods.options_of(cell.method, cell.task),
        "backend": keras.backend.backend(),
        "precision": settings.precision,
        "synthetic": settings.synthetic,
        "limit": settings.limit,
        "batch_size": size,
    }
    return study.continued(
        run_folder.Run(
            recipe="reproduce",
            output=cell.folder(settings.output),
            epochs=settings.epochs or plan.epochs,
            seed=cell.seed,
            arguments=arguments,
            batch_size=size,
        )
    )
