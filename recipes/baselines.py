"""Compares Daza's multi-layer perceptrons and CNN with capsules: one table, several seeds.

All training images train, for a number of steps that is fixed beforehand: the test images choose
nothing. (Capsule regression holds some out, for its rounds of thresholds. The peak of the curve, on
the way, is for comparison only: the test images chose it.) A cell of the study is a model and a
seed. Finished cells are in cells.csv and not run again; an interrupted one goes on.
"""

import os

from export.command import set_up


def main():
    set_up()
    from comparison import cells, curves, models, pictures, summary
    from comparison.settings import ComparisonSettings
    from harness import measurements, plots, settings, study, tables, training

    asked = settings.read(ComparisonSettings, __doc__, output="baselines/")
    training.check_backend()
    images, output = asked.load_images(), asked.output
    models.check(asked.models, images)
    study.open_folder(output, "baselines", asked.arguments)
    is_published = images.name == "cifar10" and not images.is_synthetic
    table = summary.table(cells.complete(asked, images), is_published)
    tables.write_csv(output / "table.csv", table)
    text = summary.markdown(table)
    tables.write(output / "table.md", text)
    by_model = {row["model"]: curves.read(output / row["model"] / "curve.csv") for row in table}
    plots.save(pictures.baselines(table, by_model), images, output / "baselines.png")
    print(text, end="")
    best = max(table, key=lambda row: row["mean"])
    print(
        f"best on {images.title}: {best['model']}, {best['mean']:.2f} %; table.md, table.csv and "
        f"baselines.png in {output}{os.sep}"
    )
    measurements.add(asked.measurements, summary.measured(asked, table))


if __name__ == "__main__":
    main()
