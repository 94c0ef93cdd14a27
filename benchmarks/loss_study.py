"""Speed of networks that train together in a stack, beside Keras' `fit` of one after another.

The networks are those of the loss study's toys: twelve losses, 200 units, 800 points, batches of
50. In one run: after each epoch of `fit`, the stack takes its steps, so that a slow spell of the
machine falls on both. Both have compiled before. `fit` of all twelve is taken to last twelve times
that of the network measured, of log loss. The total is that of a study of three toys, with the
compilations, which the stack needs once for all toys and `fit` once for each network, and without
the measurements of accuracy. On a machine that is shared, trust the processor's time: `fit` of
small networks waits for its turn more often.
"""

import argparse

import program

from export.command import Parser, positive


def main():
    program.set_up("tensorflow")
    from stack_tables import print_table

    parser = Parser(__doc__)
    parser.add_argument("--depths", type=int, choices=range(6), nargs="+", default=[*range(6)])
    parser.add_argument("--repeats", type=positive(int), default=15, help="epochs of `fit`")
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    program.print_title("Loss study")
    print_table(args.depths[:1] if args.quick else args.depths, args.repeats)


if __name__ == "__main__":
    main()
