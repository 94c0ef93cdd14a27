"""Cells of the tables: one method on one task from one seed, trained into a checkpoint folder."""

import argparse
import dataclasses

import keras
import numpy as np

from harness import checkpoints, run_folder, study, training
from networks.baselines import baselines as networks
from reproduction import methods, tasks


@dataclasses.dataclass(frozen=True)
class Cell:
    task: str
    method: str
    seed: int

    def __str__(self):
        return f"{self.task}, {self.method}, seed {self.seed}"

    def folder(self, output):
        return output / self.task / f"{self.method}-{self.seed}"


def run(cell, args):
    """Trains a cell, or goes on with it; returns what `cells.csv` tells of it.

    The weights that are best on the validation images are kept; the test images are read once.
    """
    task = tasks.load(cell.task, args)
    plan = methods.training_of(cell.method, cell.task, args.budget)
    count = len(task.images.train[0])
    size = min(plan.batch_size, count)
    epochs = args.epochs or plan.epochs
    own = argparse.Namespace(
        recipe="reproduce",
        **dataclasses.asdict(cell),
        budget=args.budget,
        update=args.update,
        # What must not change between an interruption and the rest.
        training=dataclasses.asdict(plan),
        options=methods.options_of(cell.method, cell.task),
        backend=keras.backend.backend(),
        synthetic=args.synthetic,
        limit=args.limit,
        batch_size=size,
        output=cell.folder(args.output),
        epochs=epochs,
    )
    study.open_cell(own)
    run_folder.check_output(own)
    keras.utils.set_random_seed(cell.seed)
    steps, metrics = epochs * (count // size), [task.make_metric()]
    model = methods.compiled(cell.method, cell.task, args.budget, task, steps, metrics, args.update)

    def batches(first_step):
        return task.batches(size, cell.seed, first_step)

    history, seconds = training.fit(
        model, task.images, own, batches, count // size, task.validation
    )
    parameters = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    if model.layers[-1].name == "logits":
        model = networks.with_probabilities(model)
        checkpoints.write_model(model, own.output / "model.keras")
    accuracy = task.accuracy(model, size)
    training.write_report(own, task.images, model, history, seconds, accuracy, task.metric)
    best = int(np.argmin(history["val_loss"]))
    return {
        "test_error": round(100 * (1 - accuracy), 3),
        "validation_error": round(100 * (1 - history[f"val_{task.metric}"][best]), 3),
        "best_epoch": best + 1,
        "epochs": epochs,
        "batch_size": size,
        "parameters": parameters,
        "seconds": round(seconds, 1),
    }
