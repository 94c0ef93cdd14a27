"""Compares the twelve classification losses: speed, accuracy, robustness (Janocha and Czarnecki).

Networks that differ in their losses only are trained side by side. --preset paper has the paper's
iterations and learning rate (0.00003), and needs hours. --preset quick has a twentieth of the
iterations for the toys, a fiftieth for images and a fifth for linear networks, each with a learning
rate that is larger in proportion; for MNIST it has 256 instead of 512 units, and 0, 1, 3 and 5
hidden layers, and those with hidden layers meet changed labels on 1,200 images at a fifth of that
rate: log loss then learns such labels by heart. For CIFAR-10 it has half of the filters and 1,000
iterations at 0.001. Results are in --output: curves.csv,
input_noise.csv, table.csv, table.md, findings.md and the figures.
"""

import time

from export.command import set_up


def main():
    set_up()
    from harness import settings, study, training
    from losses.settings import LossSettings

    asked = settings.read(LossSettings, __doc__, output="studies/losses")
    training.check_backend(("tensorflow",))
    from losses import cells, pictures, summary
    from losses.findings import findings

    output = asked.output
    made = study.open_folder(output, "study", asked.arguments)
    started = time.perf_counter()
    with study.work_in(output, "study", made):
        curves, noise = cells.complete(asked)
    examples = {name: cells.load(name, asked) for name in dict.fromkeys(x["data"] for x in curves)}
    titles = {name: found.title for name, found in examples.items()}
    table = summary.table(curves)
    judged = findings(table, curves, noise)
    summary.write(output, table, judged, titles)
    pictures.draw_losses(output / "losses.png")
    for name, found in examples.items():
        pictures.draw(name, found, (curves, noise, table), output)
    reproduced = sum(finding["verdict"] == "reproduced" for finding in judged)
    measured = sum(finding["verdict"] != "not measured" for finding in judged)
    print(
        f"{', '.join(titles.values())}: {reproduced} of {measured} findings reproduced in "
        f"{time.perf_counter() - started:.0f} s; {output / 'findings.md'} written"
    )


if __name__ == "__main__":
    main()
