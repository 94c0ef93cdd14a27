"""Speed and memory of capsule maps beside textbook formulations, and what windows cost.

The textbooks build the tensor of the votes of each window: one by broadcasting, as capsule
libraries do, and one by products of matrices. All rows of a table are measured in one run, as in
bench.py: forward and backward, compiled as Keras compiles a training step.
"""

import argparse
import subprocess
import sys

import numpy as np
import program

from export.command import Parser, positive

SIZES = {"batch_size": 16, "side": 14, "types": 8, "memory_batch": 64, "windows": (1, 2, 3, 4, 5)}
QUICK = {"batch_size": 2, "side": 6, "types": 2, "memory_batch": 2, "windows": (1, 3)}
INPUT_DIM, CAPSULES, OUTPUT_DIM, WINDOW = 8, 8, 16, 3
TEXTBOOKS = "textbook", "textbook, products"
TARGET = 0.5  # of the textbook's time, for dynamic routing


def make_layer(args, name, window=WINDOW, padding="valid"):
    """Returns a built layer on maps: a textbook's, or `ConvCaps2D` with the routing of a name."""
    from textbook import ProductCaps, TextbookCaps, TextbookMaps

    from kcaps.layers import ConvCaps2D

    if name in TEXTBOOKS:
        kind = TextbookCaps if name == "textbook" else ProductCaps
        layer = TextbookMaps(kind(CAPSULES, OUTPUT_DIM), window)
    else:
        layer = ConvCaps2D(CAPSULES, OUTPUT_DIM, window, padding=padding, routing=name)
    layer.build((None, args.side, args.side, args.types, INPUT_DIM))
    return layer


def layer_call(args, layer, batch_size):
    """Returns a function without arguments: poses and gradients on one random batch."""
    from subjects import call_on

    return call_on(layer, (batch_size, args.side, args.side, args.types, INPUT_DIM))


def print_difference(args):
    """Prints how far poses and gradients are from the textbook's.

    Raises:
        RuntimeError: if it is more than rounding.
    """
    import keras

    layers = [make_layer(args, name) for name in ("dynamic", *TEXTBOOKS)]
    for layer in layers[1:]:
        layer.kernel.assign(layers[0].kernel)
    found, *expected = (
        list(map(keras.ops.convert_to_numpy, keras.tree.flatten(layer_call(args, layer, 2)())))
        for layer in layers
    )
    pairs = [pair for other in expected for pair in zip(found, other, strict=True)]
    difference = max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)
    if not difference <= 1e-4:
        raise RuntimeError(f"The textbooks' maps are others, by {difference:.1e} of the largest.")
    print(f"\nDynamic routing and the textbooks agree to {difference:.1e} of the largest value.")


def speed_table(args):
    """Prints the time of each routing beside the textbooks'."""
    from timing import interleaved, milliseconds, table, verdict

    rows = {
        name: layer_call(args, make_layer(args, name), args.batch_size)
        for name in (*TEXTBOOKS, *args.routings)
    }
    seconds, lines = interleaved(rows, args.repeats), []
    for name, values in seconds.items():
        ratios = [np.median(values / seconds[book]) for book in TEXTBOOKS]
        target = None if args.quick or name != "dynamic" else TARGET
        cells = [f"{ratios[0]:.3f}", verdict(ratios[0], target), f"{ratios[1]:.3f}"]
        lines.append((name, *milliseconds(values), *cells))
    table(
        f"Forward and backward: batch {args.batch_size}, {args.side} × {args.side} × {args.types} "
        f"× {INPUT_DIM} → windows of {WINDOW} × {WINDOW} → {CAPSULES} × {OUTPUT_DIM}",
        ("routing", "ms", "quartiles", "of textbook", "target", "of textbook, products"),
        lines,
    )


def window_table(args):
    """Prints how time grows with the window, at the same number of positions."""
    from timing import interleaved, milliseconds, table

    names = [name for name in ("dynamic", "l2") if name in args.routings]
    rows = {
        (name, window): layer_call(
            args, make_layer(args, name, window, padding="same"), args.batch_size
        )
        for name in names
        for window in args.windows
    }
    size = args.batch_size * args.side**2 * args.types * INPUT_DIM * 4 / 2**20
    lines = []
    for (name, window), values in interleaved(rows, args.repeats).items():
        held = f"{size * window**2:.1f}" if name == "dynamic" else "none"
        lines.append((name, f"{window} × {window}", *milliseconds(values), held))
    table(
        f"The same for each position of the map (padding same), maps of {size:.1f} MiB",
        ("routing", "window", "ms", "quartiles", "MiB of windows"),
        lines,
    )


def print_peak(args):
    """Prints, in a process of its own, memory before the first call, and the peak of two calls."""
    from device import memory, wait

    call = layer_call(args, make_layer(args, args.peak), args.memory_batch)
    before, _ = memory()
    for _ in range(2):
        wait(call())
    print(before, memory()[1])


def memory_table(args):
    """Prints the peak memory of each routing, each in a process of its own."""
    from timing import table

    used, lines = {}, []
    for name in (*TEXTBOOKS, *args.routings):
        command = [sys.executable, __file__, "--peak", name, *["--quick"] * args.quick]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError(f"{name}: exit code {process.returncode}\n{process.stderr}")
        before, peak = map(float, process.stdout.split())
        used[name] = peak - before
        ratios = [f"{used[name] / used[book]:.3f}" for book in TEXTBOOKS if book in used]
        lines.append((name, f"{used[name]:.0f}", *ratios, *[""] * (2 - len(ratios))))
    table(
        f"Peak memory, forward and backward: batch {args.memory_batch}, a fresh process for each "
        "row, compilation included",
        ("routing", "MiB more at the peak", "of textbook", "of textbook, products"),
        lines,
    )


TABLES = {"speed": speed_table, "windows": window_table, "memory": memory_table}


def main():
    program.set_up()
    from kcaps.routing import ROUTINGS

    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=positive(int), default=11, help="runs of each row")
    program.add_names(parser, "--only", TABLES, "TABLE,...", "tables to print")
    program.add_names(parser, "--routings", ROUTINGS, "NAME,...", "rows")
    program.add_quick(parser)
    parser.add_argument("--peak", choices=(*TEXTBOOKS, *ROUTINGS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args = argparse.Namespace(**vars(args), **(QUICK if args.quick else SIZES))
    if args.peak:
        return print_peak(args)
    program.print_title("Capsule maps")
    print_difference(args)
    for name in args.only:
        TABLES[name](args)


if __name__ == "__main__":
    main()
