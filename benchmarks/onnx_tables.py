"""Tables of exported ONNX files: their size, and their speed beside Keras."""

import functools
import time

import keras
import numpy as np
import onnx
import onnxruntime
from subjects import IMAGE, NUM_CLASSES, network
from timing import interleaved, milliseconds, table, verdict

from export import graph
from export.images import Images
from export.inference import inference_model
from export.onnx import export_onnx
from export.runtime import open_session
from kcaps.models import deep_capsnet, efficient_capsnet

INT8 = ("dynamic", "l2")
ONE_IMAGE = "dynamic, for one image"  # a file of batch size 1
FLOOR_TARGETS = {
    1: {"dynamic": 1.25, ONE_IMAGE: 1.25},
    64: {"dynamic": 1.20, "l1": 1.02, "l2": 1.02},
}
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
    if "dynamic" in networks:
        paths[ONE_IMAGE] = folder / f"{ONE_IMAGE}.onnx"
        export_onnx(networks["dynamic"], paths[ONE_IMAGE], batch_size=1)
    return paths, networks


def random_images(batch, shape=IMAGE):
    return np.random.default_rng(1).integers(256, size=(batch, *shape)).astype("float32")


def onnx_call(path, images, one_thread=False):
    """Returns a function without arguments that computes the outputs of a file for a batch."""
    if one_thread:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the one that calls
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    else:
        session = open_session(path)
    return functools.partial(session.run, None, {"image": images})


def timed(args, paths, images):
    """Returns the seconds of files on a batch, by their rows: see `timing.interleaved`."""
    rows = {name: onnx_call(path, images, args.one_thread) for name, path in paths.items()}
    clock = time.thread_time if args.one_thread else time.perf_counter
    return interleaved(rows, args.repeats, clock=clock)


def where(args):
    """Returns words on what computes the files."""
    return f"ONNX Runtime on the CPU{', one thread' if args.one_thread else ''}"


def speed_table(args, paths, batch):
    """Prints the speed of all files that take a batch size."""
    paths = {name: path for name, path in paths.items() if batch == 1 or name != ONE_IMAGE}
    seconds = timed(args, paths, random_images(batch))
    lines = []
    for name, values in seconds.items():
        ratio = np.median(values / seconds["convolutions"])
        target = args.targets and FLOOR_TARGETS[batch].get(name)
        line = [name, *milliseconds(values), f"{ratio:.3f}", verdict(ratio, target), "", ""]
        if name.endswith("int8"):
            ratio = np.median(values / seconds[name.split(",")[0]])
            target = args.targets and batch == 64 and INT8_TARGET
            line[-2:] = f"{ratio:.3f}", verdict(ratio, target)
        lines.append(line)
    table(
        f"{where(args)}, batch {batch}",
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


def network_table(args, folder):
    """Prints nodes and speed of networks with batch normalisation, as they are and folded."""
    widths = {"widths": (8, 16, 16)} if args.quick else {}
    networks = {
        "efficient_capsnet": efficient_capsnet(IMAGE, NUM_CLASSES),
        "deep_capsnet": deep_capsnet((32, 32, 3), NUM_CLASSES, **widths),
    }
    lines = []
    for name, model in networks.items():
        randomise_normalisation(model)
        paths = {"as it is": folder / f"{name}.onnx", "folded": folder / f"{name}, folded.onnx"}
        onnx.save(graph.simplify(graph.convert(inference_model(model), 18)), paths["as it is"])
        export_onnx(model, paths["folded"])
        for batch in (1, 64):
            seconds = timed(args, paths, random_images(batch, model.input_shape[1:]))
            for row, values in seconds.items():
                ratio = np.median(values / seconds["as it is"])
                nodes = len(onnx.load(paths[row]).graph.node)
                cells = (str(batch), str(nodes), *milliseconds(values), f"{ratio:.3f}")
                lines.append((f"{name}, {row}", *cells))
    header = ("row", "batch", "nodes", "ms", "quartiles", "of it as it is")
    table(f"{where(args)}, networks with batch normalisation", header, lines)


def randomise_normalisation(model):
    """Gives layers of batch normalisation statistics that they would have after training.

    New ones do nothing, and a simplifier may find out.
    """
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in (*layer.trainable_variables, *layer.non_trainable_variables):
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
