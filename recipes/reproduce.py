"""Reproduces a table or a figure of the capsule papers under a budget, beside what they print.

A cell of a table is a method on a task from one seed. Finished cells are in cells.csv in --output,
each with its command, commit, machine and date, and are not run again; an interrupted one goes on.
The checkpoint folder of each cell is left there. --budget gpu has the papers' networks, and hours
of training; gpu_minutes has them too, and twenty passes along a cosine. --budget cpu has smaller
networks and fewer passes, for minutes on two cores (an hour for Efficient-CapsNet): it compares
methods with each other, not with the papers.
"""

import dataclasses
import os
import pathlib

from export.command import set_up


def main():
    set_up()
    from harness import measurements, settings, study, tables, training
    from reproduction import summary
    from reproduction.settings import Settings

    asked = settings.read(Settings, __doc__, output=pathlib.Path("reproduction/"))
    training.check_backend()
    # Cells without updates are the same under either, and go on with that of the folder.
    if asked.cells and not asked.has_updates():
        begun_with = study.arguments_in(asked.output, "reproduction")
        asked = dataclasses.replace(asked, update=begun_with.get("update", asked.update))
    made = study.open_folder(asked.output, "reproduction", asked.study)
    with study.work_in(asked.output, "reproduction", made):
        rows = asked.contents.report(asked)
    tables.write_csv(asked.path(".csv"), rows)
    text = f"{asked.title}\n\n{summary.markdown(rows)}"
    asked.path(".md").write_text(text)
    print(text, end="")
    print(f"{asked.table}.md and .csv in {asked.output}{os.sep}")
    measurements.add(asked.measurements, summary.measured(asked, rows))


if __name__ == "__main__":
    main()
