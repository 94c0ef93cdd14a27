"""Speed and memory of kcaps beside a textbook formulation and the convolutions alone.

All rows of a table are measured in one run: each repeat runs every row once, in a new order, so
that a slow spell of the machine falls on all of them. Times are medians over the repeats; a ratio
is the median of the repeats' ratios. On a GPU a repeat is the mean of ten calls that wait in its
queue, and float32 matrices are multiplied in TF32 on each backend.
"""

import argparse
import os
import pathlib

import program

from export.command import Parser, positive

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def read_arguments():
    """Returns the command line's arguments, with the sizes of all tables."""
    from capsule_tables import QUICK, REFERENCE, SECTIONS
    from device import BACKEND, compiling_threads, versions
    from records import Records
    from subjects import POSITIONS

    from harness.provenance import gpu_name
    from kcaps.routing import ROUTINGS

    parser = Parser(__doc__)
    size = {"type": positive(int), "default": argparse.SUPPRESS}
    parser.add_argument("--batch-size", help="of layer and step (default: 64)", **size)
    parser.add_argument("--repeats", help="runs of each row (default: 11)", **size)
    parser.add_argument("--calls", help="calls of a run (default: 1; 10 on a GPU)", **size)
    parser.add_argument(
        "--threads", help="programs compiled at once (default: JAX up to 8)", **size
    )
    program.add_names(parser, "--only", SECTIONS, "SECTION,...", "tables to print")
    program.add_names(parser, "--routings", ROUTINGS, "NAME,...", "rows of layer, step and memory")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of all rows")
    parser.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="all numbers, as CSV")
    program.add_quick(parser)
    parser.add_argument("--peak", choices=("textbook", *ROUTINGS), help=argparse.SUPPRESS)
    parser.refuse(
        ["--batch-size", "--repeats"],
        lambda args: set(args.only) == {"memory"},
        "the table of memory has one batch size, and calls each row twice",
    )
    parser.refuse(
        ["--routings"],
        lambda args: set(args.only) <= {"scaling", "votes"},
        "the tables of scaling and votes have routings of their own",
    )
    args = parser.parse_args()
    sizes = QUICK if args.quick else REFERENCE
    on_gpu = gpu_name() is not None
    defaults = {"calls": 10 if on_gpu else 1, "threads": compiling_threads()}
    args = argparse.Namespace(**defaults | sizes | vars(args))
    args.num_inputs = POSITIONS * args.types
    args.targets = (
        sizes is REFERENCE
        and args.batch_size == REFERENCE["batch_size"]
        and BACKEND == "tensorflow"
        and args.precision == "float32"
        and not on_gpu
    )
    args.records = Records(
        args.csv,
        {"versions": versions(), "commit": program.commit()},
        batch_size=args.batch_size,
        num_inputs=args.num_inputs,
        precision=args.precision,
    )
    return args


def main():
    # By default one process takes the whole GPU, and the fresh ones that measure memory find none.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    program.set_up()
    import keras
    from capsule_tables import SECTIONS, print_peak
    from device import use_tensor_cores
    from subjects import difference_to_textbook

    args = read_arguments()
    keras.config.set_dtype_policy(args.precision)
    if args.peak:
        return print_peak(args)
    program.print_title(
        "Benchmark" if args.precision == "float32" else f"Benchmark, {args.precision}"
    )
    if args.precision == "float32":
        difference = difference_to_textbook(args.num_inputs)
        print(f"\nDynamic routing and the textbook agree to {difference:.1e} of the largest value.")
    use_tensor_cores()
    for section in args.only:
        SECTIONS[section](args)
        args.records.write()


if __name__ == "__main__":
    main()
