"""Speed and memory of an iteration of capsule regression, beside its two matrix products.

In one run: each epoch of `fit` is timed after the products alone, so that a slow spell of the
machine falls on both. Times are medians; a ratio is the median of the epochs' ratios.
"""

import argparse

import program

from export.command import Parser, positive


def main():
    program.set_up()
    from em_tables import QUICK, REFERENCE, SECTIONS, print_peak

    parser = Parser(__doc__)
    program.add_names(parser, "--only", SECTIONS, "SECTION,...", "tables to print")
    parser.add_argument("--repeats", type=positive(int), default=21)
    program.add_quick(parser)
    parser.add_argument("--peak", type=positive(int), help=argparse.SUPPRESS)
    parser.refuse(
        ["--repeats"], lambda args: args.only == ["memory"], "memory is measured once, not timed"
    )
    args = parser.parse_args()
    sizes = QUICK if args.quick else REFERENCE
    if args.peak:
        return print_peak(args, sizes)
    program.print_title("Capsule regression")
    for name in args.only:
        SECTIONS[name](args, sizes)


if __name__ == "__main__":
    main()
