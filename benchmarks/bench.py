"""Speed and memory of kcaps beside a textbook formulation and the convolutions alone.

All rows of a table are measured in one run: each repeat runs every row once, in a new order, so
that a slow spell of the machine falls on all of them. Times are medians over the repeats; a ratio
is the median of the repeats' ratios.
"""

import argparse
import os

import program

from export.command import Parser, positive


def read_arguments():
    """Returns the command line's arguments, with the sizes of all tables."""
    from capsule_tables import QUICK, REFERENCE, SECTIONS
    from device import BACKEND
    from subjects import POSITIONS

    from harness.provenance import gpu_name
    from kcaps.routing import ROUTINGS

    parser = Parser(__doc__)
    size = {"type": positive(int), "default": argparse.SUPPRESS}
    parser.add_argument("--batch-size", help="of layer and step (default: 64)", **size)
    parser.add_argument("--repeats", help="runs of each row (default: 11)", **size)
    program.add_names(parser, "--only", SECTIONS, "SECTION,...", "tables to print")
    program.add_names(parser, "--routings", ROUTINGS, "NAME,...", "rows of layer, step and memory")
    program.add_quick(parser)
    parser.add_argument("--peak", choices=("textbook", *ROUTINGS), help=argparse.SUPPRESS)
    parser.refuse(
        ["--batch-size", "--repeats"],
        lambda args: set(args.only) == {"memory"},
        "the table of memory has one batch size, and calls each row twice",
    )
    parser.refuse(
        ["--routings"],
        lambda args: set(args.only) == {"scaling"},
        "the table of scaling has routings of its own",
    )
    args = parser.parse_args()
    sizes = QUICK if args.quick else REFERENCE
    args = argparse.Namespace(**sizes | vars(args))
    args.num_inputs = POSITIONS * args.types
    args.targets = (
        sizes is REFERENCE
        and args.batch_size == REFERENCE["batch_size"]
        and BACKEND == "tensorflow"
        and gpu_name() is None
    )
    return args


def main():
    # By default one process takes the whole GPU, and the fresh ones that measure memory find none.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    program.set_up()
    from capsule_tables import SECTIONS, print_peak
    from subjects import difference_to_textbook

    args = read_arguments()
    if args.peak:
        return print_peak(args)
    program.print_title("Benchmark")
    difference = difference_to_textbook(args.num_inputs)
    print(f"\nDynamic routing and the textbook agree to {difference:.1e} of the largest value.")
    for section in args.only:
        SECTIONS[section](args)


if __name__ == "__main__":
    main()
