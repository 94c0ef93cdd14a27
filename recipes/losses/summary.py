"""Tables of a study of losses."""

import pathlib
import statistics

from harness import tables

SETTLED = 0.1  # share of the iterations after which the speed of learning is taken
_KEYS = ("data", "depth", "label_noise", "loss")


def table(curves: list[dict]) -> list[dict]:
    """Returns last accuracies of each network, and as its speed the mean ones once settled."""
    networks = {}
    for row in curves:
        networks.setdefault(tuple(row[name] for name in _KEYS), []).append(row)
    rows = []
    for key, curve in networks.items():
        row = dict(zip(_KEYS, key, strict=True))
        settled = [x for x in curve if x["iteration"] >= SETTLED * curve[-1]["iteration"]]
        for split in ("train", "test"):
            accuracies = [x[f"{split}_accuracy"] for x in settled]
            row[f"{split}_accuracy"] = accuracies[-1]
            row[f"{split}_speed"] = round(statistics.fmean(accuracies), 6)
        rows.append(row)
    return rows


def write(
    output: pathlib.Path, rows: list[dict], findings: list[dict], titles: dict[str, str]
) -> None:
    """Writes the table as CSV and Markdown with titles of data, and the findings as Markdown."""
    tables.write_csv(output / "table.csv", rows)
    found = [dict(zip(("claim", "", "numbers"), row.values(), strict=True)) for row in findings]
    tables.write(output / "findings.md", f"# Findings\n\n{tables.markdown(found, ' --- ')}")
    text = "# Accuracy in training / in the test, in percent, by hidden layers\n"
    for name, title in titles.items():
        text += f"\n## {title}\n\n{_accuracies([row for row in rows if row['data'] == name])}"
    tables.write(output / "table.md", text)


def _accuracies(rows):
    """Returns a table in Markdown: a row for each loss, and a column for networks of one kind."""
    cells = {(row["label_noise"], row["depth"], row["loss"]): row for row in rows}
    table = []
    for loss in dict.fromkeys(row["loss"] for row in rows):
        shown = {"loss": loss}
        for level, depth in sorted({key[:2] for key in cells}):
            heading = f"depth {depth}{f', {100 * level:g} % of labels changed' * bool(level)}"
            row = cells.get((level, depth, loss))
            both = row and (100 * row["train_accuracy"], 100 * row["test_accuracy"])
            shown[heading] = f"{both[0]:.1f} / {both[1]:.1f}" if row else ""
        table.append(shown)
    return tables.markdown(table, rule=" ---: ", first_rule=" --- ")
