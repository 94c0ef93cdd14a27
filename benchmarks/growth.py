"""How time and memory of each routing grow: with batch, capsules, sizes of maps and iterations.

A layer is computed forward and backward, compiled as Keras compiles a training step, at three sizes
along each axis, the others at their smallest. A slope is that of the logarithm of the time, or of
the memory, against the logarithm of the size: 1 where twice the size takes twice as much. The times
of a routing are measured in one run, as in bench.py. Memory is what is in use at the peak of a call
more than before it: inputs, weights and compilation do not count.
"""

import argparse
import concurrent.futures
import dataclasses
import inspect
import json
import os
import subprocess
import sys

import numpy as np
import program

from export.command import Parser, fail, positive

INPUT_DIM, WINDOW = 8, 3
OUTPUT_DIMS = {"DigitCaps": 16, "ConvCaps2D": 8}
SIZES = {
    "DigitCaps": {"batch": (32, 96, 288), "inputs": (1152, 3456, 10368), "outputs": (10, 30, 90)},
    "ConvCaps2D": {
        **{"batch": (8, 24, 72), "inputs": (4, 12, 36), "outputs": (8, 24, 72)},
        "side": (8, 14, 24),
    },
}
# Maps with fixed couplings are one convolution, which has hardly anything to do for such batches.
FIXED, MORE_EXAMPLES = ("l1", "l2", "uniform"), 16
QUICK = {
    "DigitCaps": {"batch": (2, 4), "inputs": (9, 18), "outputs": (2, 4)},
    "ConvCaps2D": {"batch": (2, 4), "inputs": (2, 4), "outputs": (2, 4), "side": (3, 4)},
}
ITERATIONS = (2, 4, 8)
AXES = {
    "batch": "batch",
    "inputs": "capsules in",
    "outputs": "capsules out",
    "side": "pixels",
    "iterations": "further iterations",  # The first has equal couplings, and is one product.
}
TARGET = 1.05


@dataclasses.dataclass(frozen=True)
class Point:
    """A layer and its sizes.

    Args:
        kind: `"DigitCaps"` or `"ConvCaps2D"`.
        routing: Name of its routing.
        batch: Number of examples.
        inputs: Number of input capsules; on maps, of their types.
        outputs: Number of output capsules.
        side: Height and width of the maps. Defaults to None: there are none.
        iterations: Those of the routing. Defaults to None: as many as it has by default.
    """

    kind: str
    routing: str
    batch: int
    inputs: int
    outputs: int
    side: int | None = None
    iterations: int | None = None

    def size(self, axis):
        """Returns what the work is expected to grow with on an axis."""
        value = getattr(self, axis)
        if axis == "iterations":
            return value - 1
        return value**2 if axis == "side" else value

    def call(self):
        """Returns a function without arguments: poses and gradients on one random batch."""
        from subjects import call_on

        from kcaps import layers
        from kcaps.routing import ROUTINGS

        options = {} if self.iterations is None else {"num_iterations": self.iterations}
        window = {} if self.side is None else {"kernel_size": WINDOW, "padding": "same"}
        layer = getattr(layers, self.kind)(
            self.outputs,
            OUTPUT_DIMS[self.kind],
            routing=ROUTINGS[self.routing](**options),
            **window,
        )
        places = () if self.side is None else (self.side, self.side)
        shape = (self.batch, *places, self.inputs, INPUT_DIM)
        layer.build((None, *shape[1:]))
        return call_on(layer, shape)


def curves(routing, is_quick):
    """Returns lists of points of growing size, by kind of layer and axis."""
    from kcaps.routing import ROUTINGS

    found = {}
    for kind, sizes in (QUICK if is_quick else SIZES).items():
        smallest = {axis: values[0] for axis, values in sizes.items()}
        axes = dict(sizes)
        if "num_iterations" in inspect.signature(ROUTINGS[routing]).parameters:
            axes["iterations"] = ITERATIONS
        more = MORE_EXAMPLES if kind == "ConvCaps2D" and routing in FIXED else 1
        for axis, values in axes.items():
            rows = [{**smallest, axis: value} for value in values]
            rows = [{**row, "batch": row["batch"] * more} for row in rows]
            found[kind, axis] = [Point(kind, routing, **row) for row in rows]
    return found


def print_measured(args):
    """Prints milliseconds and MiB of the points on each curve of a routing, as JSON."""
    from device import more_at_peak
    from timing import interleaved

    found = curves(args.worker, args.quick)
    calls = {point: point.call() for points in found.values() for point in points}
    values = {"ms": {}, "MiB": {}}
    if "time" in args.only:
        for point, seconds in interleaved(calls, args.repeats).items():
            values["ms"][point] = 1e3 * np.median(seconds)
    if "memory" in args.only:
        for point, call in calls.items():
            more_at_peak(call)  # The first call compiles.
            values["MiB"][point] = max(more_at_peak(call) for _ in range(4))
    rows = []
    for (kind, axis), points in found.items():
        row = {"layer": kind, "routing": args.worker, "grows": AXES[axis]}
        row["sizes"] = [point.size(axis) for point in points]
        row |= {unit: [of[point] for point in points] for unit, of in values.items() if of}
        rows.append(row)
    print(json.dumps(rows))


def measured(args, table):
    """Returns the rows of a table, which a process of its own measures for each routing."""
    # TensorFlow's own allocator is the faster one, and gives nothing back that it once had.
    environment = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"} if table == "memory" else {}

    def rows(routing):
        command = [sys.executable, __file__, "--worker", routing, "--repeats", str(args.repeats)]
        process = subprocess.run(
            [*command, "--only", table, *["--quick"] * args.quick],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        if process.returncode:
            last = process.stderr.strip().rpartition("\n")[-1]
            fail(f"{routing} cannot be measured: exit code {process.returncode}, {last}")
        return json.loads(process.stdout.splitlines()[-1])

    # What a process takes of memory does not depend on others, as its times do.
    with concurrent.futures.ThreadPoolExecutor(2 if table == "memory" else 1) as pool:
        return [row for found in pool.map(rows, args.routings) for row in found]


def slope(sizes, values):
    """Returns the slope of the logarithm of values against that of sizes."""
    return np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0]


def growth_table(args, title, unit, rows):
    """Prints values of the points on all curves, and their slopes."""
    from timing import table, verdict

    lines, steepest = [], {}
    for row in rows:
        steep = slope(row["sizes"], row[unit])
        names = (row["layer"], row["routing"], row["grows"])
        sizes = ", ".join(map(str, row["sizes"]))
        numbers = ", ".join(f"{value:.4g}" for value in row[unit])
        target = verdict(steep, not args.quick and TARGET)
        lines.append((*names, sizes, numbers, f"{steep:.2f}", target))
        steepest[steep] = ", ".join(names)
    header = ("layer", "routing", "grows", "sizes", unit, "slope", "target")
    table(title, header, lines)
    print(f"\nThe steepest slope is {max(steepest):.2f}: {steepest[max(steepest)]}.")


def main():
    program.set_up()
    from kcaps.routing import ROUTINGS

    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=positive(int), default=5, help="runs of each row")
    program.add_names(parser, "--only", ("time", "memory"), "TABLE,...", "tables to print")
    program.add_names(parser, "--routings", ROUTINGS, "NAME,...", "rows")
    program.add_quick(parser)
    parser.add_argument("--worker", choices=ROUTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return print_measured(args)
    program.print_title("Growth")
    if "time" in args.only:
        growth_table(args, "Time, forward and backward", "ms", measured(args, "time"))
    if "memory" in args.only:
        growth_table(args, "Memory at the peak of a call", "MiB", measured(args, "memory"))


if __name__ == "__main__":
    main()
