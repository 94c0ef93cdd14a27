"""Settings of `reproduce.py`: a table, its cells that are asked for, and how they are trained."""

import dataclasses
import functools
import pathlib

from export.command import Parser, fail, positive
from harness.settings import MEASUREMENTS, StudySettings, option
from kcaps.models.compilation import UPDATES
from reproduction.cells import Cell
from reproduction.methods import BUDGETS, has_coefficients
from reproduction.tables import TABLES, Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """Settings of `reproduce.py`."""

    table: str = option(
        None, ", ".join(TABLES), positional=True, choices=list(TABLES), metavar="TABLE"
    )
    budget: str = option("cpu", "of networks and training", choices=BUDGETS)
    seeds: int = option(3, "cells of each method", type=positive(int))
    tasks: list | None = option(None, "only these tasks of the table", nargs="+", metavar="TASK")
    methods: list | None = option(
        None, "only these methods of the table", nargs="+", metavar="METHOD"
    )
    epochs: int | None = option(None, "instead of the budget's", type=positive(int))
    update: str = option(
        UPDATES[0], "of weights and of the routing coefficients of l1 and l2", choices=UPDATES
    )
    measurements: pathlib.Path | None = MEASUREMENTS

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        parser.refuse(
            ["--seeds"], lambda args: args.table == "figure4", "figure4 times each method once"
        )
        parser.refuse(
            ["--update"],
            lambda args: not cls.has_updates(args),
            "none of the methods has routing coefficients, as l1 and l2 have",
        )

    def has_updates(self) -> bool:
        """Returns whether a method asked for has routing coefficients, which `update` is about."""
        asked = [
            cell.method
            for cell in TABLES[self.table].cells(1)
            if cell.task in (self.tasks or [cell.task])
            and cell.method in (self.methods or [cell.method])
        ]
        # A command line without any method of the table is refused later, for that reason.
        return not asked or any(map(has_coefficients, asked))

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """The cells of the table that are asked for; ends the program where it has not them."""
        cells = TABLES[self.table].cells(self.seeds)
        for name in ("task", "method"):
            chosen = getattr(self, f"{name}s")
            values = list(dict.fromkeys(getattr(cell, name) for cell in cells))
            for value in chosen or ():
                if value not in values:
                    fail(f"--{name}s of {self.table} must be of {values}, received {value}")
            cells = [cell for cell in cells if getattr(cell, name) in (chosen or values)]
        return cells

    @property
    def contents(self) -> Table:
        """The table, without the published errors where images are not the published ones."""
        table = TABLES[self.table]
        if self.synthetic or self.limit:
            return dataclasses.replace(table, published={}, best_known={})
        return table

    @property
    def title(self) -> str:
        """The table's title, and how its cells are trained."""
        return f"{TABLES[self.table].title} (budget: {self.setting})"

    @property
    def setting(self) -> str:
        """The budget, and in what the cells are trained otherwise."""
        note = self.budget
        note += f", {self.epochs} epochs" if self.epochs else ""
        has_other = self.update != UPDATES[0] and self.has_updates()
        note += f", {self.update} updates" if has_other else ""
        return note + self.remarks

    @property
    def study(self) -> dict:
        """Values that all tables in a folder of results have in common."""
        names = ("budget", "epochs", "update", "precision", "synthetic", "limit")
        return {name: getattr(self, name) for name in names}

    def path(self, ending: str) -> pathlib.Path:
        """Returns the path of a result of the table."""
        return self.output / f"{self.table}{ending}"
