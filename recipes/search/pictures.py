"""A picture of all trials of a search."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from harness import plots

ABSENT = -0.12  # height of the values that a trial has no use for, on axes from 0 to 1


def parallel_coordinates(trials: Sequence, space: Sequence) -> Figure:
    """Returns one line a trial across one axis a hyper-parameter, coloured by its accuracy.

    The axes have the scale on which the search draws values, so that categories and logarithmic
    ranges need no special care.

    Args:
        trials: Completed trials of keras-tuner, the best first.
        space: Its hyper-parameters.
    """
    scores = np.array([100 * trial.score for trial in trials])
    low, high = scores.min(), scores.max()
    margin = max(high - low, 1e-3)
    figure, axis = plots.panels("Trials", size=(1.5 * len(space) + 3, 5), has_grid=False)
    norm = plt.Normalize(low, low + margin)
    for trial, score in reversed(list(zip(trials, scores, strict=True))):  # the best is drawn last
        values = trial.hyperparameters.values
        heights = [
            hp.value_to_prob(values[hp.name]) if hp.name in values else ABSENT for hp in space
        ]
        colour = plt.get_cmap("viridis")(norm(score))
        axis.plot([*heights, norm(score)], color=colour, alpha=0.8, marker=".")
    for place, hp in enumerate(space):
        _ticks(axis, place, [(hp.value_to_prob(value), text_of(value)) for value in _marks(hp)])
        if any(hp.name not in trial.hyperparameters.values for trial in trials):
            _ticks(axis, place, [(ABSENT, "not used")])
    _ticks(axis, len(space), [(x, f"{low + x * margin:.4g} %") for x in (0, 0.25, 0.5, 0.75, 1)])
    names = [*(hp.name.replace("_", "\n") for hp in space), "validation\naccuracy"]
    axis.set_xticks(range(len(names)), names)
    axis.set(yticks=(), xlim=(-0.1, len(names) - 0.5))
    axis.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axis.tick_params(length=0)
    return figure


def text_of(value: object) -> str:
    """Returns a value of a hyper-parameter as a table shows it, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _marks(hp):
    """Returns values that are written along an axis."""
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
