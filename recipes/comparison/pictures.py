"""The picture of the baselines' study."""

from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.figure import Figure

from harness import plots


def baselines(table: list[dict], curves: dict[str, list[dict]]) -> Figure:
    """Draws accuracy against parameters, and the learning curves of the last model of each kind."""
    title = "Baselines: all seeds, and the curves of the last one"
    figure, axes = plots.panels(title, 1, 3, (14, 4.2))
    for number, row in enumerate(table):
        colour, name = f"C{number}", row["model"].replace("_", " ")
        axes[0].errorbar(
            row["parameters"],
            row["mean"],
            yerr=row["deviation"] or None,
            marker="o",
            color=colour,
            capsize=3,
            linestyle="",
            label=name,
        )
        for axis, value, factor in zip(axes[1:], ("loss", "accuracy"), (1, 100), strict=True):
            x, y = _points(curves[row["model"]], value, factor)
            axis.plot(x, y, color=colour, linewidth=0.7, alpha=0.6)
            x, y = _points(curves[row["model"]], f"test_{value}", factor)
            axis.plot(x, y, color=colour, marker=".")
    axes[0].set(xlabel="parameters", xscale="log", ylabel="test accuracy / %")
    axes[0].xaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
    axes[0].xaxis.set_major_formatter(ticker.EngFormatter())
    axes[0].xaxis.set_minor_formatter(ticker.EngFormatter())
    axes[1].set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes[2].set(xlabel="step", ylabel="accuracy / %", ylim=(0, 100))
    handles, labels = axes[0].get_legend_handles_labels()
    handles += [plt.Line2D([], [], color="gray", marker=marker) for marker in ("", ".")]
    labels += ["training, mean of 10 steps", "some test images"]
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def _points(rows, name, factor):
    """Returns steps, and the values of a column at them, where it has some."""
    measured = [row for row in rows if row[name] != ""]
    return [row["step"] for row in measured], [factor * row[name] for row in measured]
