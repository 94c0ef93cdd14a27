"""Results of a search: the best trial, a table, and a picture."""

import numpy as np
from matplotlib import pyplot as plt

from harness import plots, run_folder
from search.oracles import COMPLETED, OBJECTIVE

FILES = ("trials.csv", "trials.md", "parallel.png")
ABSENT = -0.12  # height of the values that a trial has no use for, on axes from 0 to 1


def ranked(trials):
    """Completed trials, the best first: by validation accuracy, then by validation loss."""
    completed = [trial for trial in trials if trial.status == COMPLETED]
    return sorted(completed, key=lambda trial: (-trial.score, _metric(trial, "val_loss")))


def write(oracle, images, folder):
    """Writes the table, as CSV and as Markdown, and the picture.

    Returns:
        The table as Markdown, the best trial first.
    """
    trials = sorted(oracle.trials.values(), key=lambda trial: int(trial.trial_id))
    rows = {trial.trial_id: _row(trial, oracle.hyperparameters.space) for trial in trials}
    run_folder.write_csv(folder / "trials.csv", list(rows.values()))
    best_first = ranked(trials)
    others = [trial for trial in trials if trial not in best_first]
    table = _markdown([rows[trial.trial_id] for trial in (*best_first, *others)])
    (folder / "trials.md").write_text(table)
    if best_first:
        figure = _parallel_coordinates(best_first, oracle.hyperparameters.space)
        plots.save(figure, images, folder / "parallel.png")
    return table


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


def _text(value):
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown(rows):
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[_text(value) for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _parallel_coordinates(trials, space):
    """One line a trial across one axis a hyper-parameter, coloured by its validation accuracy.

    The axes have the scale on which the search draws values, so that categories and logarithmic
    ranges need no special care.
    """
    scores = np.array([100 * trial.score for trial in trials])
    low, high = scores.min(), scores.max()
    margin = max(high - low, 1e-3)
    figure, axis = plt.subplots(figsize=(1.5 * len(space) + 3, 5), layout="constrained")
    figure.suptitle("Trials")
    norm = plt.Normalize(low, low + margin)
    for trial, score in reversed(list(zip(trials, scores, strict=True))):  # the best on top
        values = trial.hyperparameters.values
        heights = [
            hp.value_to_prob(values[hp.name]) if hp.name in values else ABSENT for hp in space
        ]
        colour = plt.get_cmap("viridis")(norm(score))
        axis.plot([*heights, norm(score)], color=colour, alpha=0.8, marker=".")
    for place, hp in enumerate(space):
        _ticks(axis, place, [(hp.value_to_prob(value), _text(value)) for value in _marks(hp)])
        if any(hp.name not in trial.hyperparameters.values for trial in trials):
            _ticks(axis, place, [(ABSENT, "not used")])
    _ticks(axis, len(space), [(x, f"{low + x * margin:.4g} %") for x in (0, 0.25, 0.5, 0.75, 1)])
    names = [*(hp.name.replace("_", "\n") for hp in space), "validation\naccuracy"]
    axis.set_xticks(range(len(names)), names)
    axis.set(yticks=(), xlim=(-0.1, len(names) - 0.5))
    axis.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axis.tick_params(length=0)
    return figure


def _marks(hp):
    """Values that are written along an axis."""
    if hasattr(hp, "sampling"):
        return [float(f"{hp.prob_to_value(x):.2g}") for x in (0, 0.25, 0.5, 0.75, 1)]
    return hp.values


def _ticks(axis, place, marks):
    axis.axvline(place, color="lightgray", zorder=0)
    for height, text in marks:
        axis.annotate(
            text,
            (place, height),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0},
        )
