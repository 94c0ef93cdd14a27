"""Settings of `reproduce.py`: a table, its cells that are asked for, and how they are trained."""

import dataclasses
import functools
import pathlib

from export.command import Parser, fail, positive
from harness.settings import StudySettings, option
from kcaps.models.capsnet import UPDATES
from reproduction.cells import Cell
from reproduction.methods import BUDGETS, NO_DECODER, ROUTING_RATES
from reproduction.tables import BEST_KNOWN, TABLES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    table: str = option(
        None,
        ", ".join(TABLES),
        place="beginning",
        positional=True,
        choices=list(TABLES),
        metavar="TABLE",
    )
    budget: str = option("cpu", "of networks and training", place="beginning", choices=BUDGETS)
    seeds: int = option(3, "cells of each method", place="beginning", type=positive(int))
    tasks: list[str] | None = option(
        None, "only these tasks of the table", place="beginning", nargs="+", metavar="TASK"
    )
    methods: list[str] | None = option(
        None, "only these methods of the table", place="beginning", nargs="+", metavar="METHOD"
    )
    epochs: int | None = option(
        None, "instead of the budget's", place="beginning", type=positive(int)
    )
    update: str = option(
        UPDATES[0],
        "of weights and of the routing coefficients of l1 and l2",
        place="beginning",
        choices=UPDATES,
    )

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        parser.refuse(
            ["--seeds"], lambda args: args.table == "figure4", "figure4 times each method once"
        )
        parser.refuse(
            ["--update"],
            lambda args: not _has_updates(args),
            "none of the methods has routing coefficients, as l1 and l2 have",
        )

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
    def has_updates(self) -> bool:
        """Whether a method asked for has routing coefficients, which `update` is about."""
        return _has_updates(self)

    @property
    def published(self) -> dict[tuple[str, str], str]:
        """Errors that the table's paper printed, none of images that are not its own."""
        return {} if self.synthetic or self.limit else TABLES[self.table].published

    @property
    def best_known(self) -> dict[str, str]:
        """The lowest errors that anybody published, by task, as `published` has them."""
        return {} if self.synthetic or self.limit else BEST_KNOWN

    @property
    def title(self) -> str:
        """The table's title, and what its cells have been trained on and how."""
        notes = [f"budget: {self.budget}"]
        notes += [f"{self.epochs} epochs"] if self.epochs else []
        notes += (
            [f"{self.update} updates"] if self.update != UPDATES[0] and self.has_updates else []
        )
        notes += [f"at most {self.limit} images"] if self.limit else []
        notes += ["synthetic images"] if self.synthetic else []
        return f"{TABLES[self.table].title} ({', '.join(notes)})"

    @property
    def study(self) -> dict:
        """What all tables in a folder of results have in common."""
        names = ("budget", "epochs", "update", "synthetic", "limit")
        return {name: getattr(self, name) for name in names}

    def path(self, ending: str) -> pathlib.Path:
        """Returns the path of a result of the table."""
        return self.output / f"{self.table}{ending}"


def _has_updates(args):
    """Returns whether a method asked for has routing coefficients, as far as the table has any."""
    asked = [
        cell.method
        for cell in TABLES[args.table].cells(1)
        if cell.task in (args.tasks or [cell.task])
        and cell.method in (args.methods or [cell.method])
    ]
    return not asked or any(method.removesuffix(NO_DECODER) in ROUTING_RATES for method in asked)
