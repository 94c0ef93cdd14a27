"""Tables of exported ONNX files: their size, and their speed beside Keras."""

import functools

import numpy as np
import onnx
from subjects import IMAGE, NUM_CLASSES, network
from timing import interleaved, milliseconds, table, verdict

from export.images import Images
from export.onnx import export_onnx
from export.runtime import open_session

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
                networks[name],
                paths[row],
                test_images=images,
                precision=precision,
                max_accuracy_drop=100,
            )
    return paths, networks


def random_images(batch):
    return np.random.default_rng(1).integers(256, size=(batch, *IMAGE)).astype("float32")


def onnx_call(path, images):
    """Returns a function without arguments that computes the outputs of a file for a batch."""
    return functools.partial(open_session(path).run, None, {"image": images})


def speed_table(args, paths, batch):
    """Prints the speed of all files at a batch size."""
    images = random_images(batch)
    rows = {name: onnx_call(path, images) for name, path in paths.items()}
    seconds = interleaved(rows, args.repeats)
    lines = []
    for name, values in seconds.items():
        ratio = np.median(values / seconds["convolutions"])
        target = args.targets and batch == 64 and FLOOR_TARGETS.get(name)
        line = [name, *milliseconds(values), f"{ratio:.3f}", verdict(ratio, target), "", ""]
        if name.endswith("int8"):
            ratio = np.median(values / seconds[name.split(",")[0]])
            target = args.targets and batch == 64 and INT8_TARGET
            line[-2:] = f"{ratio:.3f}", verdict(ratio, target)
        lines.append(line)
    table(
        f"ONNX Runtime on the CPU, batch {batch}",
        ("row", "ms", "quartiles", "of convolutions", "target", "of float32", "target"),
        lines,
    )


def keras_table(args, paths, networks, batch):
    """Prints the speed of the files beside that of Keras."""
    images = random_images(batch)
    lines = []
    for name in args.routings:
        rows = {
            "onnx": onnx_call(paths[name], images),
            "keras": functools.partial(networks[name].predict, images, batch_size=batch, verbose=0),
        }
        seconds = interleaved(rows, args.repeats)
        ratio = np.median(seconds["onnx"] / seconds["keras"])
        target = args.targets and KERAS_TARGETS.get(name)
        times = [f"{1e3 * np.median(seconds[row]):.4g}" for row in rows]
        lines.append((name, *times, f"{ratio:.3f}", verdict(ratio, target)))
    table(
        f"Beside Keras, batch {batch}",
        ("routing", "ONNX Runtime ms", "Keras predict ms", "of Keras", "target"),
        lines,
    )


def size_table(args, paths):
    """Prints nodes and sizes of all files."""
    lines = []
    for name, path in paths.items():
        nodes = len(onnx.load(path).graph.node)
        target = args.targets and NODE_TARGETS.get(name)
        size = f"{path.stat().st_size / 2**20:.1f}"
        lines.append((name, str(nodes), verdict(nodes, target, digits=0), size))
    table("Files", ("row", "nodes", "target", "MiB"), lines)
