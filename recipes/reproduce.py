"""Reproduces a table or a figure of the capsule papers under a budget, beside what they print.

A cell of a table is a method on a task from one seed. Finished cells are in cells.csv in --output,
each with its command, commit, machine and date, and are not run again; an interrupted one goes on.
The checkpoint folder of each cell is left there. --budget gpu has the papers' networks, and hours
of training. --budget cpu has smaller networks and fewer passes, for minutes on two cores: it
compares methods with each other, not with the papers. With KERAS_BACKEND=jax networks train on JAX;
pictures are made by TensorFlow on the CPU, which must be installed too.
"""

import dataclasses
import os
import time

import training

import keras
import numpy as np
import psutil
import tensorflow as tf

import studies
from export.command import Parser, fail, positive
from reproduction import cells, measures, pictures, provenance, summary, tasks
from reproduction.cells import Cell
from reproduction.methods import BUDGETS
from reproduction.tables import TABLES

SHOWN = 10  # test images in a picture
TYPES = {  # of the columns of measures; others hold floats
    "task": str,
    "method": str,
    "seed": int,
    "steps": int,
    "batch_size": int,
    "seconds": lambda text: float(text) if text else "",
    **dict.fromkeys(provenance.COLUMNS, str),
}


def read_arguments():
    parser = Parser(__doc__)
    parser.add_argument("table", choices=list(TABLES), metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--budget", choices=BUDGETS, default="cpu")
    parser.add_argument("--seeds", type=positive(int), default=3, help="cells of each method")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks of the table")
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="only these methods of the table"
    )
    parser.add_argument("--epochs", type=positive(int), help="instead of the budget's")
    studies.add_arguments(parser, "reproduction/")
    return parser.parse_args()


def chosen_cells():
    """The cells of the table that are asked for."""
    cells = table.cells(args.seeds)
    for name in ("task", "method"):
        chosen = getattr(args, f"{name}s")
        values = list(dict.fromkeys(getattr(cell, name) for cell in cells))
        for value in chosen or ():
            if value not in values:
                fail(f"--{name}s of {args.table} must be of {values}, received {value}")
        cells = [cell for cell in cells if getattr(cell, name) in (chosen or values)]
    return cells


def path(ending):
    return args.output / f"{args.table}{ending}"


def complete():
    """Trains the cells that are wanted and not finished; returns the rows of all of them."""
    for number, cell in enumerate(wanted, 1):
        if cell in cells.read(args.output):
            continue
        print(f"{number} of {len(wanted)}: {cell}", flush=True)
        row = cells.run(cell, args)
        # Read again: another process may have added some.
        training.write_csv(args.output / "cells.csv", [*cells.read(args.output).values(), row])
        print(f"  test error {row['test_error']:.2f} %", flush=True)
    found = cells.read(args.output)
    return {cell: found[cell] for cell in wanted}


def measured(name, measure):
    """Rows of `<name>.csv`, one a cell; `measure`, a function of a cell, gives those missing."""
    file = args.output / f"{name}.csv"

    def read():
        rows = studies.read_rows(file, TYPES)
        return {Cell(row["task"], row["method"], row["seed"]): row for row in rows}

    for number, cell in enumerate(wanted, 1):
        if cell not in read():
            print(f"{name}, {number} of {len(wanted)}: {cell}", flush=True)
            row = dataclasses.asdict(cell) | measure(cell) | provenance.here()
            training.write_csv(file, [*read().values(), row])
    found = read()
    return [found[cell] for cell in wanted]


def errors():
    """Test errors over seeds."""
    rows = summary.rows(table, complete())
    pictures.errors(f"{table.title}{note}", rows, path(".png"))
    return rows


def error_curves():
    """Test errors, and validation errors on the way, against steps."""
    found = complete()
    histories = {
        cell: training.read_history(cell.folder(args.output) / "history.csv") for cell in found
    }
    pictures.curves(f"{table.title}{note}", histories, path(".png"))
    return summary.rows(table, found)


def decoders():
    """Errors of images rebuilt by decoders that are trained after the rest."""
    complete()

    def measure(cell):
        decoder, poses, error = measures.train_decoder(cell, args)
        images = tasks.load(cell.task, args).test[0]
        title = f"{table.title}{note}"
        pictures.rebuilt(title, decoder, poses[:SHOWN], images[:SHOWN], path(".png"))
        return {"mean_squared_error": error}

    return measured("decoders", measure)


def robustness():
    """Test errors on images of other kinds than those of training."""
    rows = errors()
    found = measured("robustness", lambda cell: measures.robustness_of(cell, args))
    for row in rows:
        of_method = [r for r in found if r["method"] == row["method"]]
        row |= {name: float(np.mean([r[name] for r in of_method])) for name in measures.ROBUSTNESS}
    return rows


def step_times():
    """Times of training steps."""
    methods = list(dict.fromkeys(cell.method for cell in wanted))
    rows = [row | provenance.here() for row in measures.step_times(methods, args)]
    pictures.times(f"{table.title}{note}", rows, path(".png"))
    return rows


def times_to_goal():
    """Times from the program's start until enough of the validation images are right."""
    return measured("time_to_99", lambda cell: measures.time_to_goal(cell, args, start_up))


KINDS = {
    "figure2": decoders,
    "figure3": error_curves,
    "figure4": step_times,
    "affine": robustness,
    "time_to_99": times_to_goal,
}

start_up = time.time() - psutil.Process().create_time()
args = read_arguments()
training.check_backend(("tensorflow",) if args.table == "affine" else ("tensorflow", "jax"))
if keras.backend.backend() == "jax":
    tf.config.set_visible_devices([], "GPU")  # TensorFlow makes the pictures only
table = TABLES[args.table]
if args.synthetic:
    table = dataclasses.replace(table, published={})
wanted = chosen_cells()
note = f" (budget: {args.budget}{', synthetic images' if args.synthetic else ''})"
arguments = {name: getattr(args, name) for name in ("budget", "epochs", "synthetic", "limit")}
studies.open_folder(args.output, "reproduction", arguments)
rows = KINDS.get(args.table, errors)()
training.write_csv(path(".csv"), rows)
path(".md").write_text(summary.markdown(rows))
print(summary.markdown(rows), end="")
print(f"{table.title}{note}: {args.table}.md and .csv in {args.output}{os.sep}")
