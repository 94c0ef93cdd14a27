"""Results of a search: a table, a picture, and the best model."""

import dataclasses
import pathlib
from collections.abc import Iterable

import keras
import keras_tuner

from export import pipeline
from export.command import fail
from harness import plots, tables
from pictures_of.data import Images
from search import pictures
from search.oracles import COMPLETED, OBJECTIVE, failure
from search.settings import Settings
from search.trials import TrialSearch

Trial = keras_tuner.engine.trial.Trial


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Returns completed trials, the best first: by validation accuracy, then by loss."""
    completed = [trial for trial in trials if trial.status == COMPLETED]
    return sorted(completed, key=lambda trial: (-trial.score, _metric(trial, "val_loss")))


def write(oracle: keras_tuner.Oracle, images: Images, folder: pathlib.Path) -> str:
    """Writes the table, as CSV and as Markdown, and the picture.

    Returns:
        The table as Markdown, the best trial first.
    """
    trials, space = oracle.trials.values(), oracle.hyperparameters.space
    in_order = sorted(trials, key=lambda trial: int(trial.trial_id))
    rows = {trial.trial_id: _row(trial, space) for trial in in_order}
    tables.write_csv(folder / "trials.csv", list(rows.values()))
    best_first = ranked(in_order)
    others = [trial for trial in in_order if trial not in best_first]
    texts = [
        {name: pictures.text_of(value) for name, value in rows[trial.trial_id].items()}
        for trial in (*best_first, *others)
    ]
    table = tables.markdown(texts, rule=" --- ")
    (folder / "trials.md").write_text(table)
    if best_first:
        figure = pictures.parallel_coordinates(best_first, space)
        plots.save(figure, images, folder / "parallel.png")
    return table


def finish(search: TrialSearch, images: Images, settings: Settings) -> None:
    """Tells the results of a search, and trains the best model again in the checkpoint folder."""
    oracle = search.oracle
    print(write(oracle, images, settings.search))
    best, *_ = ranked(oracle.trials.values()) or [None]
    if best is None:
        reason = failure(oracle.trials[oracle.start_order[0]]) or "its worker tells why"
        fail(f"all {len(oracle.trials)} trials failed; the first: {reason}", code=1)
    report = _report(oracle, best)
    default = report.get("default_validation_accuracy")
    print(
        f"best of {len(oracle.trials)} trials: {best.trial_id}, validation accuracy "
        f"{100 * best.score:.2f} %; default: "
        f"{'failed' if default is None else f'{100 * default:.2f} %'}. Training it again",
        flush=True,
    )
    hp, run = best.hyperparameters.copy(), settings.run
    hp.values = {name: value for name, value in hp.values.items() if not name.startswith("tuner/")}
    run = dataclasses.replace(run, arguments=run.arguments | {"hyperparameters": hp.values})
    keras.backend.clear_session()
    search.hypermodel.retrain(hp, run, report)
    if settings.export:
        from export.onnx_target import Onnx

        pipeline.export_checkpoint(Onnx(), run.output, run.output / Onnx.file_name)


def _report(oracle, best):
    """Returns further values of `report.json`, on the search."""
    default = oracle.trials[oracle.start_order[0]]
    values = {
        "trials": len(oracle.trials),
        "failed_trials": sum(trial.status == "FAILED" for trial in oracle.trials.values()),
        "best_trial": int(best.trial_id),
        "best_trial_validation_accuracy": best.score,
        "best_trial_validation_loss": _metric(best, "val_loss"),
    }
    if default.score is not None:
        values |= {
            "default_validation_accuracy": default.score,
            "default_validation_loss": _metric(default, "val_loss"),
        }
    return values


def _metric(trial, name):
    return trial.metrics.get_last_value(name) if trial.metrics.exists(name) else None


def _row(trial, space):
    values = trial.hyperparameters.values
    epochs = {"epochs": values["tuner/epochs"]} if "tuner/epochs" in values else {}
    return {
        "trial": trial.trial_id,
        "status": trial.status.lower(),
        **{name: _metric(trial, name) for name in (OBJECTIVE, "val_loss", "seconds")},
        **epochs,
        **{hp.name: values.get(hp.name) for hp in space},
    }
