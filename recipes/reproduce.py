"""Reproduces a table or a figure of the capsule papers under a budget, beside what they print.

A cell of a table is a method on a task from one seed. Finished cells are in cells.csv in --output,
each with its command, commit, machine and date, and are not run again; an interrupted one goes on.
The checkpoint folder of each cell is left there. --budget gpu has the papers' networks, and hours
of training. --budget cpu has smaller networks and fewer passes, for minutes on two cores (an hour
for Efficient-CapsNet): it compares methods with each other, not with the papers. With
KERAS_BACKEND=jax networks train on JAX; pictures are made by TensorFlow on the CPU, which must be
installed too.
"""

import dataclasses
import os
import time

import numpy as np
import psutil

from export.command import Parser, fail, positive
from harness import run_folder, study, training
from kcaps.models.capsnet import UPDATES
from reproduction import measures, pictures, provenance, reconstructions, summary
from reproduction.cells import Cell, run
from reproduction.methods import BUDGETS, NO_DECODER, ROUTING_RATES
from reproduction.tables import TABLES

SHOWN = 10  # test images in a picture
TYPES = {  # of the columns of cells.csv and of measures; others hold floats
    "task": str,
    "method": str,
    "seed": int,
    "best_epoch": int,
    "epochs": int,
    "steps": int,
    "batch_size": int,
    "parameters": int,
    **dict.fromkeys(("seconds", *reconstructions.DECODERS), study.number_or_nothing),
    **dict.fromkeys(provenance.COLUMNS, str),
}


def read_arguments():
    parser = Parser(__doc__)
    parser.add_argument("table", choices=list(TABLES), metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--budget", choices=BUDGETS, default="cpu", help="of networks and training")
    parser.add_argument("--seeds", type=positive(int), default=3, help="cells of each method")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks of the table")
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="only these methods of the table"
    )
    parser.add_argument("--epochs", type=positive(int), help="instead of the budget's")
    parser.add_argument(
        "--update",
        choices=UPDATES,
        default=UPDATES[0],
        help="of weights and of the routing coefficients of l1 and l2",
    )
    parser.refuse(
        ["--seeds"], lambda args: args.table == "figure4", "figure4 times each method once"
    )
    parser.refuse(
        ["--update"],
        lambda args: not has_updates(args),
        "none of the methods has routing coefficients, as l1 and l2 have",
    )
    study.add_arguments(parser, "reproduction/")
    return parser.parse_args()


def has_updates(args):
    """Whether a method asked for has routing coefficients, which `--update` is about."""
    asked = [
        cell.method
        for cell in TABLES[args.table].cells(1)
        if cell.task in (args.tasks or [cell.task])
        and cell.method in (args.methods or [cell.method])
    ]
    # Where none is of the table, the error is of that.
    return not asked or any(method.removesuffix(NO_DECODER) in ROUTING_RATES for method in asked)


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


def measured(name, measure, asked=None):
    """Rows of `<name>.csv` by cell, for the cells asked for: by default the wanted ones.

    `measure`, a function of a cell, gives those missing. If some diverge, the program ends after
    the last one.
    """
    file = args.output / f"{name}.csv"
    asked, diverged = asked or wanted, []

    def read():
        rows = study.read_rows(file, TYPES)
        return {Cell(row["task"], row["method"], row["seed"]): row for row in rows}

    for number, cell in enumerate(asked, 1):
        if cell not in read():
            print(f"{name}, {number} of {len(asked)}: {cell}", flush=True)
            source = provenance.here()  # a commit made while this trains has not trained it
            try:
                row = dataclasses.asdict(cell) | measure(cell) | source
            except training.Diverged:
                diverged.append(cell)
                continue
            # Read again: another process may have added some.
            run_folder.write_csv(file, [*read().values(), row])
            if "test_error" in row:
                print(f"  test error {row['test_error']:.2f} %", flush=True)
    if diverged:
        fail(f"no {args.table} without {'; '.join(map(str, diverged))}: training diverged", code=1)
    found = read()
    return {cell: found[cell] for cell in asked}


def complete(asked=None):
    """Rows of cells, by default of the wanted ones; trains those that are not finished."""
    return measured("cells", lambda cell: run(cell, args), asked)


def errors():
    """Test errors over seeds."""
    rows = summary.rows(table, complete())
    pictures.errors(f"{table.title}{note}", rows, path(".png"))
    return rows


def overlapping():
    """Test errors; leaves in each cell's folder a picture of its digits, each rebuilt apart."""
    rows = errors()
    reconstructions.draw_parts(wanted, args)
    return rows


def error_curves():
    """Test errors, and validation errors on the way, against steps."""
    found = complete()
    histories = {
        cell: run_folder.read_history(cell.folder(args.output) / "history.csv") for cell in found
    }
    pictures.curves(f"{table.title}{note}", histories, path(".png"))
    return summary.rows(table, found)


def decoders():
    """Errors of rebuilt images; dynamic routing's decoders rebuild those of other networks, too."""
    complete(list(dict.fromkeys([*map(reconstructions.with_decoder, wanted), *wanted])))
    rows = list(measured("decoders", lambda cell: reconstructions.measure(cell, args)).values())
    panels, right = {}, True
    for cell in wanted:
        if cell.seed == wanted[0].seed:
            images, known, rebuilt = reconstructions.rebuild(cell, args)
            right &= known
            panels |= {f"{cell.method}, {name}": pixels for name, pixels in rebuilt.items()}
    shown = np.argsort(~right, kind="stable")[:SHOWN]  # those that all networks classify right
    panels = {name: pixels[shown] for name, pixels in {"test": images, **panels}.items()}
    pictures.rebuilt(f"{table.title}{note}", panels, path(".png"))
    return rows


def robustness():
    """Test errors on images of other kinds than those of training."""
    rows = errors()
    found = measured("robustness", lambda cell: measures.robustness_of(cell, args))
    for row in rows:
        of_method = [r for cell, r in found.items() if cell.method == row["method"]]
        for name in measures.ROBUSTNESS:
            row |= summary.spread(name, [r[name] for r in of_method])
    return rows


def step_times():
    """Times of training steps."""
    methods = list(dict.fromkeys(cell.method for cell in wanted))
    source = provenance.here()
    rows = [row | source for row in measures.step_times(methods, args)]
    pictures.times(f"{table.title}{note}", rows, path(".png"))
    return rows


def times_to_goal():
    """Times from the program's start until enough of the validation images are right."""
    found = measured("time_to_99", lambda cell: measures.time_to_goal(cell, args, start_up))
    return list(found.values())


KINDS = {
    "figure2": decoders,
    "figure3": error_curves,
    "figure4": step_times,
    "multi_mnist": overlapping,
    "affine": robustness,
    "time_to_99": times_to_goal,
}

start_up = time.time() - psutil.Process().create_time()
args = read_arguments()
training.check_backend(("tensorflow", "jax"))
table = TABLES[args.table]
if args.synthetic or args.limit:
    table = dataclasses.replace(table, published={}, best_known={})
wanted = chosen_cells()
if not has_updates(args):  # whose cells are the same under either
    args.update = study.arguments_in(args.output, "reproduction").get("update", args.update)
note = f" (budget: {args.budget}"
note += f", {args.epochs} epochs" if args.epochs else ""
note += f", {args.update} updates" if args.update != UPDATES[0] and has_updates(args) else ""
note += f", at most {args.limit} images" if args.limit else ""
note += ", synthetic images)" if args.synthetic else ")"
arguments = {
    name: getattr(args, name) for name in ("budget", "epochs", "update", "synthetic", "limit")
}
made = study.open_folder(args.output, "reproduction", arguments)
with study.work_in(args.output, "reproduction", made):
    rows = KINDS.get(args.table, errors)()
run_folder.write_csv(path(".csv"), rows)
text = f"{table.title}{note}\n\n{summary.markdown(rows)}"
path(".md").write_text(text)
print(text, end="")
print(f"{args.table}.md and .csv in {args.output}{os.sep}")
