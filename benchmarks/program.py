"""The set-up, the arguments and the title of every benchmark."""

import argparse
import datetime
import pathlib
import sys
from collections.abc import Callable, Iterable

from export import command

RECIPES = str(pathlib.Path(__file__).parents[1] / "recipes")


def set_up(backend: str | None = None, start: bool = True) -> None:
    """Prepares this process, and lets it import the modules of the recipes.

    Args:
        backend: Keras' backend. Defaults to None, the environment's.
        start: As for `export.command.set_up`.
    """
    if RECIPES not in sys.path:
        sys.path.insert(0, RECIPES)
    command.set_up(backend, start=start)


def print_title(title: str) -> None:
    """Prints the first lines of a report: what is measured, where, when and of which commit."""
    import device

    name = commit()
    name = f", commit {name}" if name else ""
    print(f"# {title}\n\n{device.versions()}, {datetime.date.today()}{name}", flush=True)


def commit() -> str:
    """Returns the commit's short name; without git, what the environment's `KCAPS_COMMIT` says."""
    from harness import provenance

    return provenance.commit("-dirty")


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Returns an argument type: names from `known`, separated by commas."""

    def parse(text):
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}"
            )
        return names

    return parse


def add_names(
    parser: command.Parser, option: str, known: Iterable[str], metavar: str, text: str
) -> None:
    """Adds an option that takes some of the names in `known`, and by default takes all."""
    default = ",".join(known)
    parser.add_argument(option, type=names_of(known), default=default, metavar=metavar, help=text)


def add_quick(parser: command.Parser) -> None:
    """Adds the option that makes all sizes small."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
