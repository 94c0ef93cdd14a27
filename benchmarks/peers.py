"""Speed of kcaps beside its peers: PyTorch as its users write it, JAX and TensorFlow.

Each backend has a process of its own, and one computes at a time: each repeat runs every row once,
in a new order. A call of less than a second is timed after another one, because other processes
have had the caches; a row that takes longer in all than 20 seconds is left out of the last repeats.
"""

import argparse
import contextlib
import datetime
import os
import pathlib
import sys

import program

from export.command import Parser, fail, positive, set_up
from export.commit import commit

ROOT = pathlib.Path(__file__).parents[1]
PRECISIONS = ("float32", "mixed_bfloat16")
TABLES = ("layer", "step")
BACKENDS = ("torch", "jax", "tensorflow")  # PyTorch's come first, and others are compared with them
REFERENCE = {"batch_size": 64, "repeats": 11, "filters": 256, "types": 32, "product": 2048}
QUICK = {"batch_size": 4, "repeats": 2, "filters": 8, "types": 2, "product": 64}
POSITIONS = 36  # of the primary capsules


def read_arguments():
    """Returns the command line's arguments, with all sizes."""
    parser = Parser(__doc__)
    size = {"type": positive(int), "default": argparse.SUPPRESS}
    parser.add_argument("--batch-size", help="of layer and step (default: 64)", **size)
    parser.add_argument("--repeats", help="runs of each row (default: 11)", **size)
    parser.add_argument("--calls", type=positive(int), default=1, help="calls of a run")
    program.add_names(parser, "--only", TABLES, "TABLE,...", "tables to print")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of all rows")
    parser.add_argument(
        "--python",
        metavar="FILE",
        default=".venv-backends/bin/python",
        help="of an environment with PyTorch and JAX, in the repository's folder or absolute",
    )
    parser.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="all numbers, as CSV")
    program.add_quick(parser)
    parser.add_argument("--worker", choices=BACKENDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = QUICK if args.quick else REFERENCE
    args = argparse.Namespace(**sizes | vars(args))
    args.num_inputs = POSITIONS * args.types
    args.targets = not args.quick and args.batch_size == REFERENCE["batch_size"]
    return args


def start(args, stack):
    """Returns the processes of all backends, which end with the stack."""
    from peers_worker import Worker

    python = ROOT / args.python
    if not os.access(python, os.X_OK) or not python.is_file():
        fail(
            "--python must be the interpreter of an environment with PyTorch and JAX, as `make "
            f".venv-backends/installed` makes one. Received: {args.python}"
        )
    pythons = {"tensorflow": sys.executable}
    return [
        stack.enter_context(Worker(name, pythons.get(name, str(python)), sys.argv[1:]))
        for name in BACKENDS
    ]


def main():
    set_up(tensorflow=False)  # This process computes nothing.
    args = read_arguments()
    if args.worker:
        from peers_serving import serve

        return serve(args)
    from peers_tables import print_table
    from records import Records

    with contextlib.ExitStack() as stack:
        workers = start(args, stack)
        parts = [part for worker in workers for part in worker.about["versions"].split(", ")]
        versions = ", ".join(dict.fromkeys(parts))  # machine and Keras once
        args.targets &= not any(worker.about["gpu"] for worker in workers)
        args.records = Records(
            args.csv,
            {"versions": versions, "commit": commit("-dirty")},
            batch_size=args.batch_size,
            num_inputs=args.num_inputs,
            precision=args.precision,
        )
        name = f", commit {commit('-dirty')}" if commit() else ""
        print(f"# Peers, {args.precision}\n\n{versions}, {datetime.date.today()}{name}", flush=True)
        for table in args.only:
            print_table(args, workers, table)
            try:
                args.records.write()
            except OSError as error:
                fail(f"--csv {args.csv} cannot be written: {error}")


if __name__ == "__main__":
    main()
