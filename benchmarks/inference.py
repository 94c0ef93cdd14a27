"""Speed and size of exported ONNX files beside the convolutions alone and Keras.

All rows are measured in one run on the CPU, as in bench.py. The networks have random weights: the
time does not depend on them. With --one-thread, each file is computed by one thread, and the times
are those that the processor spends on it: other work on the machine lengthens these least.
"""

import argparse
import pathlib
import tempfile

import program

from export.command import Parser, positive


def main():
    program.set_up("tensorflow")
    import keras
    from onnx_tables import export_all, keras_table, network_table, size_table, speed_table

    from kcaps.routing import ROUTINGS

    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=positive(int), default=21, help="runs of each row")
    parser.add_argument("--one-thread", action="store_true", help="times of the processor")
    program.add_names(parser, "--routings", ROUTINGS, "NAME,...", "rows")
    program.add_quick(parser)
    args = parser.parse_args()
    sizes = {"filters": 8, "types": 2} if args.quick else {"filters": 256, "types": 32}
    args = argparse.Namespace(**vars(args), **sizes, targets=not args.quick)
    program.print_title("Inference")
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        paths, networks = export_all(args, pathlib.Path(folder))
        size_table(args, paths)
        for batch in (1, 64):
            speed_table(args, paths, batch)
        if not args.one_thread:  # Keras has threads of its own.
            keras_table(args, paths, networks, 64)
        network_table(args, pathlib.Path(folder))


if __name__ == "__main__":
    main()
