"""What a study of losses found: its table, and each claim of the paper beside its numbers."""

import functools
import statistics

import numpy as np

HINGES = ("hinge", "squared_hinge", "cubed_hinge")
EXPECTATIONS = ("expectation", "regularised_expectation")
STRUGGLING = ("l1", "chebyshev", "tanimoto", "expectation")
ROBUST = (
    ("the expectation loss is", ("expectation",)),
    ("the regularised expectation loss is", ("regularised_expectation",)),
    ("the Tanimoto loss is", ("tanimoto",)),
    ("margin losses are", HINGES),
)
SETTLED = 0.1  # share of the iterations after which the speed of learning is taken
PRINTED_LINEAR = 0.93
LINEAR_TOLERANCE = 0.005  # the paper prints whole percents
UNTRAINED = 0.3  # accuracy below which ten classes are not learned
AS_GOOD = 0.002  # what "equally well" may be worse by
OVERLAP = 0.02
CONVNET = ("cifar10", 4)  # data and depth
LINEAR = (0,)
HIDDEN = {"1 hidden layer": (1,), "2 or 3 hidden layers": (2, 3), "4 or 5 hidden layers": (4, 5)}


def table(curves):
    """A row for each network: last accuracies, and the mean ones after a tenth of the training."""
    networks = {}
    for row in curves:
        key = tuple(row[name] for name in ("data", "depth", "label_noise", "loss"))
        networks.setdefault(key, []).append(row)
    rows = []
    for (data, depth, label_noise, loss), own in networks.items():
        start = SETTLED * own[-1]["iteration"]
        settled = [row for row in own if row["iteration"] >= start]
        row = {"data": data, "depth": depth, "label_noise": label_noise, "loss": loss}
        for split in ("train", "test"):
            name = f"{split}_accuracy"
            row[name] = own[-1][name]
            row[f"{split}_speed"] = round(statistics.fmean(row[name] for row in settled), 6)
        rows.append(row)
    return rows


class Results:
    """Numbers of a study by loss; a claim whose numbers are missing raises KeyError."""

    def __init__(self, table, curves, noise):
        self.table, self.curves, self.noise = table, curves, noise

    def by_loss(self, column, data, depth, label_noise=0.0):
        found = {
            row["loss"]: row[column]
            for row in self.table
            if (row["data"], row["depth"], row["label_noise"]) == (data, depth, label_noise)
        }
        if not found:
            raise KeyError(data)
        return found

    def depths(self, at_least):
        """Depths of MNIST's networks from `at_least` hidden layers on."""
        found = {row["depth"] for row in self.table if row["data"] == "mnist"}
        if not (deep := sorted(depth for depth in found if depth >= at_least)):
            raise KeyError(at_least)
        return deep

    def label_noises(self, depths):
        """(depth, level) of MNIST's networks of these depths that learned changed labels."""
        found = {
            (row["depth"], row["label_noise"])
            for row in self.table
            if row["data"] == "mnist" and row["depth"] in depths and row["label_noise"]
        }
        if not found:
            raise KeyError("label noise")
        return sorted(found)


def percent(value):
    return f"{100 * value:.2f} %"


def listed(values, names):
    return ", ".join(f"{name} {percent(values[name])}" for name in names)


def fits(results, data):
    values = results.by_loss("train_accuracy", data, 5)
    worst = max(STRUGGLING, key=values.__getitem__)
    others = [loss for loss in values if loss not in STRUGGLING]
    best = min(others, key=values.__getitem__)
    numbers = f"{listed(values, STRUGGLING)}; the others from {listed(values, [best])} on"
    return values[worst] < values[best], numbers


def linear_strongest(results):
    numbers, holds = [], True
    for split in ("train", "test"):
        values = results.by_loss(f"{split}_accuracy", "mnist", 0)
        best = max(values, key=values.__getitem__)
        holds &= best == "regularised_expectation"
        numbers.append(f"{split}: best {listed(values, dict.fromkeys((best, EXPECTATIONS[1])))}")
    return holds, "; ".join(numbers)


def linear_accuracy(results):
    values = results.by_loss("test_accuracy", "mnist", 0)
    names = ("regularised_expectation", "cauchy_schwarz")
    near = all(abs(values[name] - PRINTED_LINEAR) <= LINEAR_TOLERANCE for name in names)
    return near, f"{listed(values, (*names, 'log'))} on the test images"


def fastest(results):
    numbers, holds = [], True
    for depth in results.depths(at_least=2):
        values = results.by_loss("train_speed", "mnist", depth)
        first = sorted(values, key=values.__getitem__, reverse=True)[:3]
        holds &= set(first) == {"squared_hinge", "cubed_hinge", "l2"}
        numbers.append(f"depth {depth}: fastest {listed(values, first)}")
    return holds, "; ".join(numbers)


def slowest(results):
    numbers, holds = [], True
    for depth in results.depths(at_least=1):
        values = results.by_loss("train_speed", "mnist", depth)
        holds &= max(values[name] for name in EXPECTATIONS) < values["log"]
        numbers.append(f"depth {depth}: {listed(values, (*EXPECTATIONS, 'log'))}")
    return holds, "; ".join(numbers)


def l1_fails(results):
    values = {
        depth: results.by_loss("test_accuracy", "mnist", depth)["l1"]
        for depth in results.depths(at_least=2)
    }
    numbers = (f"depth {depth}: {percent(value)}" for depth, value in values.items())
    return max(values.values()) < UNTRAINED, "; ".join(numbers)


def margins_generalise(results):
    numbers, holds = [], True
    for depth in results.depths(at_least=1):
        values = results.by_loss("test_accuracy", "mnist", depth)
        best = max(values, key=values.__getitem__)
        margin = max(HINGES, key=values.__getitem__)
        holds &= best == margin
        names = dict.fromkeys((best, margin, "log"))
        numbers.append(f"depth {depth}: best {listed(values, names)}")
    return holds, "; ".join(numbers)


def cauchy_schwarz_beats_log(results, data):
    numbers, holds = [], True
    for depth in results.depths(at_least=0) if data == "mnist" else CONVNET[1:]:
        differences = []
        for column in ("test_accuracy", "test_speed"):
            values = results.by_loss(column, data, depth)
            differences.append(values["cauchy_schwarz"] - values["log"])
        holds &= min(differences) >= -AS_GOOD
        last, speed = (f"{100 * difference:+.2f}" for difference in differences)
        numbers.append(f"depth {depth}: {last} points in the end, {speed} in speed")
    return holds, "; ".join(numbers)


def convnet_margins(results):
    speed, last = (results.by_loss(f"test_{name}", *CONVNET) for name in ("speed", "accuracy"))
    names = ("squared_hinge", "cubed_hinge", "l2")
    holds = all(min(values[name] for name in names) > values["log"] for values in (speed, last))
    shown = (*names, "log")
    return holds, f"speed: {listed(speed, shown)}; in the end: {listed(last, shown)}"


def convnet_expectations(results):
    values = results.by_loss("train_speed", *CONVNET)
    plain, regularised = (values[name] - values["log"] for name in EXPECTATIONS)
    holds = plain < -OVERLAP and abs(regularised) <= OVERLAP
    return holds, listed(values, (*EXPECTATIONS, "log"))


def input_noise(results):
    numbers, holds = [], True
    for depth in results.depths(at_least=1):
        values = {}
        for row in results.noise:
            if row["data"] == "mnist" and row["depth"] == depth and row["variance"]:
                values.setdefault(row["loss"], []).append(row["train_accuracy"])
        values = {loss: statistics.fmean(own) for loss, own in values.items()}
        holds &= min(values[name] for name in EXPECTATIONS) > values["log"]
        numbers.append(f"depth {depth}: {listed(values, (*EXPECTATIONS, 'log'))}")
    return holds, f"mean over the levels of noise: {'; '.join(numbers)}"


def label_noise(results, names, depths):
    numbers, holds = [], True
    for depth, level in results.label_noises(depths):
        values = results.by_loss("test_accuracy", "mnist", depth, level)
        best = max(values, key=values.__getitem__)
        holds &= min(values[name] for name in names) > values["log"]
        shown = listed(values, dict.fromkeys((*names, "log", best)))
        # At least: what it has right of the other labels is at most all of them.
        trained = results.by_loss("train_accuracy", "mnist", depth, level)["log"]
        by_heart = max(0, trained - (1 - level)) / level
        numbers.append(
            f"depth {depth}, {100 * level:g} %: {shown} (best: {best}; changed labels that log "
            f"loss learned by heart: at least {100 * by_heart:.0f} %)"
        )
    return holds, "; ".join(numbers)


def linear_margins_under_label_noise(results):
    numbers, holds = [], True
    for depth, level in results.label_noises(LINEAR):
        values = results.by_loss("test_accuracy", "mnist", depth, level)
        holds &= max(values[name] for name in HINGES) < values["log"]
        numbers.append(f"{100 * level:g} %: {listed(values, (*HINGES, 'log'))}")
    return holds, "; ".join(numbers)


def overlap(results):
    keys = [(0.0, depth) for depth in results.depths(at_least=0)]
    keys += [(level, depth) for depth, level in results.label_noises(range(6))]
    largest = 0.0
    for level, depth in keys:
        curves = {"expectation": [], "chebyshev": []}
        for row in results.curves:
            key = (row["data"], row["label_noise"], row["depth"])
            if key == ("mnist", level, depth) and row["loss"] in curves:
                curves[row["loss"]].append(row["test_accuracy"])
        differences = np.subtract(*curves.values())
        if not len(differences):
            raise KeyError("expectation")
        largest = max(largest, float(np.abs(differences).mean()))
    return (
        largest <= OVERLAP,
        f"mean distance of the test curves at most {100 * largest:.2f} points",
    )


CLAIMS = (
    (
        "Checkerboard, 5 hidden layers: L1, Chebyshev, Tanimoto and expectation losses fit the "
        "training points worse than all others",
        lambda results: fits(results, "checkerboard"),
    ),
    ("Spiral, 5 hidden layers: the same", lambda results: fits(results, "spiral")),
    ("Random labels, 5 hidden layers: the same", lambda results: fits(results, "random")),
    (
        "Linear MNIST: the regularised expectation loss is the strongest, in training and test",
        linear_strongest,
    ),
    (
        "Linear MNIST: regularised expectation and Cauchy-Schwarz reach 93 % test accuracy",
        linear_accuracy,
    ),
    ("MNIST, 2 or more hidden layers: hinge², hinge³ and L2 are the fastest", fastest),
    ("MNIST with hidden layers: both expectation losses learn slower than log loss", slowest),
    ("MNIST, 2 or more hidden layers: L1 does not learn (below 30 %; printed: 20 %)", l1_fails),
    ("MNIST with hidden layers: a margin loss generalises best", margins_generalise),
    (
        "MNIST: Cauchy-Schwarz is as good as log loss or better, in the end and in speed",
        lambda results: cauchy_schwarz_beats_log(results, "mnist"),
    ),
    (
        "CIFAR-10: the same",
        lambda results: cauchy_schwarz_beats_log(results, CONVNET[0]),
    ),
    (
        "CIFAR-10: hinge², hinge³ and L2 learn faster than log loss, and end better",
        convnet_margins,
    ),
    (
        "CIFAR-10: the expectation loss learns far slower than log loss in training, the "
        "regularised one at its level",
        convnet_expectations,
    ),
    (
        "MNIST with hidden layers: expectation losses are more robust against input noise than "
        "log loss",
        input_noise,
    ),
    *(
        (
            f"MNIST, {hidden}: {title} more robust against label noise than log loss",
            functools.partial(label_noise, names=names, depths=depths),
        )
        for hidden, depths in HIDDEN.items()
        for title, names in ROBUST
    ),
    (
        "Linear MNIST: log loss is more robust against label noise than margin losses",
        linear_margins_under_label_noise,
    ),
    ("MNIST: the curves of expectation and Chebyshev losses overlap", overlap),
)


def findings(table, curves, noise):
    """Each claim with its verdict and its numbers."""
    results = Results(table, curves, noise)
    rows = []
    for claim, check in CLAIMS:
        try:
            holds, numbers = check(results)
            verdict = "reproduced" if holds else "not reproduced"
        except (KeyError, ValueError):  # of data, depths or losses that were left out
            verdict, numbers = "not measured", ""
        rows.append({"claim": claim, "verdict": verdict, "numbers": numbers})
    return rows


def write_markdown(output, table, findings, titles):
    """findings.md, and table.md with a row for each loss."""
    lines = ["| claim | | numbers |", "| --- | --- | --- |"]
    lines += [f"| {row['claim']} | {row['verdict']} | {row['numbers']} |" for row in findings]
    (output / "findings.md").write_text("\n".join(["# Findings", "", *lines, ""]))
    lines = ["# Accuracy in training / in the test, in percent, by hidden layers"]
    for data, title in titles.items():
        own = [row for row in table if row["data"] == data]
        columns = sorted({(row["label_noise"], row["depth"]) for row in own})
        cells = {(row["loss"], row["label_noise"], row["depth"]): row for row in own}
        heads = [
            f"depth {depth}{f', {100 * level:g} % of labels changed' * bool(level)}"
            for level, depth in columns
        ]
        lines += ["", f"## {title}", "", f"| loss | {' | '.join(heads)} |"]
        lines.append("| --- |" + " ---: |" * len(columns))
        for loss in dict.fromkeys(row["loss"] for row in own):
            found = (cells.get((loss, *column)) for column in columns)
            shown = (
                f"{100 * row['train_accuracy']:.1f} / {100 * row['test_accuracy']:.1f}"
                if row
                else ""
                for row in found
            )
            lines.append(f"| {loss} | {' | '.join(shown)} |")
    (output / "table.md").write_text("\n".join([*lines, ""]))
