"""Reproduces a table or a figure of the capsule papers under a budget, beside what they print.

A cell of a table is a method on a task from one seed. Finished cells are in cells.csv in --output,
each with its command, commit, machine and date, and are not run again; an interrupted one goes on.
The checkpoint folder of each cell is left beside it. --budget gpu has the papers' networks and
hours of training; --budget cpu has smaller networks and minutes, and is no reproduction of their
numbers.
"""

import training

import studies
from export.command import Parser, fail, positive
from reproduction import cells
from reproduction.methods import BUDGETS
from reproduction.tables import TABLES


def read_arguments():
    parser = Parser(__doc__)
    parser.add_argument("table", choices=list(TABLES), metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--budget", choices=BUDGETS, default="cpu")
    parser.add_argument("--seeds", type=positive(int), default=3, help="cells of each method")
    parser.add_argument("--tasks", nargs="+", help="only these tasks of the table")
    parser.add_argument("--methods", nargs="+", help="only these methods of the table")
    parser.add_argument("--epochs", type=positive(int), help="other passes than the budget's")
    studies.add_arguments(parser, "reproduction/")
    return parser.parse_args()


def chosen_cells(args):
    """The cells of the table that are asked for."""
    table = TABLES[args.table]
    every = {"tasks": list(table.methods)}
    every["methods"] = list(dict.fromkeys(m for methods in table.methods.values() for m in methods))
    for name, values in every.items():
        for value in getattr(args, name) or ():
            if value not in values:
                fail(f"--{name} of {args.table} are {', '.join(values)}. Received: {value}.")
    return [
        cell
        for cell in table.cells(args.seeds)
        if cell.task in (args.tasks or every["tasks"])
        and cell.method in (args.methods or every["methods"])
    ]


args = read_arguments()
wanted = chosen_cells(args)
arguments = {name: getattr(args, name) for name in ("budget", "epochs", "synthetic", "limit")}
studies.open_folder(args.output, "reproduction", arguments)
for number, cell in enumerate(wanted, 1):
    if cell in cells.read(args.output):
        continue
    print(f"{number} of {len(wanted)}: {cell}", flush=True)
    row = cells.run(cell, args)
    # Read again: another process may have added some.
    training.write_csv(args.output / "cells.csv", [*cells.read(args.output).values(), row])
    print(f"  test error {row['test_error']:.2f} %", flush=True)
