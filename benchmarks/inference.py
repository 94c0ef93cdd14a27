"""Speed and size of exported ONNX files beside the convolutions alone and Keras.

All rows are measured in one run on the CPU, as in bench.py. The networks have random weights: the
time does not depend on them.
"""

import argparse
import contextlib
import datetime
import functools
import io
import pathlib
import tempfile

from export.command import Parser, positive, quiet_tensorflow

with quiet_tensorflow():
    import tensorflow  # noqa: F401

import keras
import numpy as np
import onnx
from bench import commit, names_of
from device import versions
from subjects import IMAGE, NUM_CLASSES, network
from timing import interleaved, milliseconds, table, verdict

from export.images import Images
from export.onnx import export_onnx
from export.runtime import open_session
from kcaps.routing import ROUTINGS

INT8 = ("dynamic", "l2")
FLOOR_TARGETS = {"dynamic": 1.20, "l1": 1.02, "l2": 1.02}
NODE_TARGETS = {"dynamic": 70, "l1": 30, "l2": 30}
KERAS_TARGETS = {"dynamic": 1 / 1.2}
INT8_TARGET = 1 / 1.5


def export_all(args, folder):
    """Writes all files; returns their paths by row, and the networks by routing."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(64, *IMAGE))
    images = Images(pixels, rng.integers(NUM_CLASSES, size=64), pixels, "random images")
    paths, networks = {}, {}
    for name in ("convolutions", *args.routings):
        networks[name] = network(name, args.filters, args.types)
        precisions = ("float32", "int8") if name in INT8 else ("float32",)
        for precision in precisions:
            row = name if precision == "float32" else f"{name}, {precision}"
            paths[row] = folder / f"{row}.onnx"
            export_onnx(
                networks[name], paths[row], images, precision=precision, max_accuracy_drop=100
            )
    return paths, networks


def predict(model, images):
    with contextlib.redirect_stdout(io.StringIO()):
        return model.predict(images, batch_size=len(images), verbose=0)


def speed_table(args, paths, networks, batch):
    images = np.random.default_rng(1).integers(256, size=(batch, *IMAGE)).astype("float32")
    rows = {}
    for name, path in paths.items():
        rows[name] = functools.partial(open_session(path).run, None, {"image": images})
    for name in args.routings:
        rows[f"{name}, Keras predict"] = functools.partial(predict, networks[name], images)
    seconds = interleaved(rows, args.repeats)
    lines = []
    for name, values in seconds.items():
        routing = name.split(",")[0]
        line = [name, *milliseconds(values), f"{np.median(values / seconds['convolutions']):.3f}"]
        ratio = np.median(values / seconds["convolutions"])
        bounded = args.targets and batch == 64
        line.append(verdict(ratio, bounded and FLOOR_TARGETS.get(name)))
        if name.endswith("int8"):
            ratio, target = np.median(values / seconds[routing]), args.targets and INT8_TARGET
            line += [f"{ratio:.3f} of float32", verdict(ratio, target)]
        elif name in args.routings:
            ratio = np.median(values / seconds[f"{name}, Keras predict"])
            target = bounded and KERAS_TARGETS.get(name)
            line += [f"{ratio:.3f} of Keras predict", verdict(ratio, target)]
        else:
            line += ["", ""]
        lines.append(line)
    table(
        f"ONNX Runtime on the CPU, batch {batch}",
        ("row", "ms", "quartiles", "of convolutions", "target", "beside", "target"),
        lines,
    )


def size_table(args, paths):
    lines = []
    for name, path in paths.items():
        nodes = len(onnx.load(path).graph.node)
        target = args.targets and NODE_TARGETS.get(name)
        met = f"≤ {target}: {'met' if nodes <= target else 'MISSED'}" if target else ""
        lines.append((name, str(nodes), met, f"{path.stat().st_size / 2**20:.1f}"))
    table("Files", ("row", "nodes", "target", "MiB"), lines)


def main():
    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=positive(int), default=21, help="runs of each row")
    parser.add_argument(
        "--routings",
        type=names_of(ROUTINGS),
        default=",".join(ROUTINGS),
        metavar="NAME,...",
        help="rows",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    sizes = {"filters": 8, "types": 2} if args.quick else {"filters": 256, "types": 32}
    args = argparse.Namespace(**vars(args), **sizes, targets=not args.quick)
    print(f"# Inference\n\n{versions()}, {datetime.date.today()}{commit()}", flush=True)
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        paths, networks = export_all(args, pathlib.Path(folder))
        size_table(args, paths)
        for batch in (1, 64):
            speed_table(args, paths, networks, batch)


if __name__ == "__main__":
    main()
