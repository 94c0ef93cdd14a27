"""Tables of capsule layers and networks: their speed, their memory, and how both grow."""

import concurrent.futures
import pathlib
import subprocess
import sys

import numpy as np
from convolution_tables import convolution_section
from device import gpu_name, memory, wait
from stored_votes import ForcedVotes
from subjects import (
    INPUT_DIM,
    NUM_CLASSES,
    OUTPUT_DIM,
    layer_call,
    layer_inference,
    make_layer,
    step_calls,
)
from timing import interleaved, milliseconds, quartiles, table, verdict

from kcaps.routing import DynamicRouting

PROGRAM = str(pathlib.Path(__file__).with_name("bench.py"))
REFERENCE = {
    "batch_size": 64,
    "repeats": 11,
    "filters": 256,
    "types": 32,
    "memory_batch": 512,
    "batches": (16, 32, 64, 128, 256, 512),
    "inputs": (288, 576, 1152, 2304),
    "iterations": (1, 2, 3, 5, 10, 20),
    # Batch size and input capsules. The reference networks have 1,152 and, on CIFAR-10, 4,096.
    "votes": ((1, 1152), (32, 1152), (128, 1152), (512, 1152), (128, 288), (32, 4096)),
}
QUICK = {
    "batch_size": 8,
    "repeats": 2,
    "filters": 8,
    "types": 2,
    "memory_batch": 16,
    "batches": (4, 8),
    "inputs": (36, 72),
    "iterations": (1, 3),
    "votes": ((4, 36), (8, 72)),
}
# Upper bounds of ratios with TensorFlow on a CPU, at the reference sizes.
LAYER_TARGETS = {
    **{"dynamic": 0.30, "l1": 0.04, "l2": 0.04, "em": 0.45},
    **dict.fromkeys(("self_attention", "inverted_attention"), 0.12),
}
MEMORY_TARGETS = {"dynamic": 1 / 3, "em": 1 / 4}
FLOOR_TARGETS = {
    "dynamic": 1.10,
    "l1, joint": 1.06,
    "l2, joint": 1.06,
    "l1, alternating": 1.32,
    "l2, alternating": 1.32,
}
STEP_TARGETS = {name: 0.80 for name in FLOOR_TARGETS if name != "dynamic"}


def layer_section(args):
    """Prints the speed of the layers alone."""
    rows = {
        name: layer_call(make_layer(name, args.num_inputs), args.batch_size)
        for name in ("textbook", *args.routings)
    }
    seconds = interleaved(rows, args.repeats, args.calls, args.threads)
    lines = []
    for name, values in seconds.items():
        ratio = np.median(values / seconds["textbook"])
        args.records.add("layer", name, quartiles(values), of_textbook=f"{ratio:.4f}")
        target = args.targets and LAYER_TARGETS.get(name)
        lines.append((name, *milliseconds(values), f"{ratio:.3f}", verdict(ratio, target)))
    table(
        f"Layer forward and backward: batch {args.batch_size}, "
        f"{args.num_inputs} × {INPUT_DIM} → {NUM_CLASSES} × {OUTPUT_DIM}",
        ("routing", "ms", "quartiles", "of textbook", "target"),
        lines,
    )


def step_section(args):
    """Prints the speed of training steps of whole networks."""
    rows = {}
    for name in ("convolutions", "textbook", *args.routings):
        rows |= step_calls(name, args.batch_size, args.filters, args.types)
    seconds = interleaved(rows, args.repeats, args.calls, args.threads)
    lines = []
    for name, values in seconds.items():
        line, ratios = [name, *milliseconds(values)], {}
        for baseline, targets in (("convolutions", FLOOR_TARGETS), ("textbook", STEP_TARGETS)):
            ratio = np.median(values / seconds[baseline])
            ratios[f"of_{baseline}"] = f"{ratio:.4f}"
            line += [f"{ratio:.3f}", verdict(ratio, args.targets and targets.get(name))]
        args.records.add("step", name, quartiles(values), **ratios)
        lines.append(line)
    table(
        f"Training step of the whole network: batch {args.batch_size}, {args.filters} filters, "
        f"{args.types} capsule types, Adam, no decoder",
        ("routing", "ms", "quartiles", "of convolutions", "target", "of textbook", "target"),
        lines,
    )


def print_peak(args):
    """Prints, in a process of its own, memory before the first call, and the peak of two calls."""
    call = layer_call(make_layer(args.peak, args.num_inputs), args.memory_batch)
    before, _ = memory()
    for _ in range(2):
        wait(call())
    print(before, memory()[1])


def votes_section(args):
    """Prints the speed of factored and of stored votes, in training and in inference."""
    rows, lines = {}, []
    for batch, num_inputs in args.votes:
        for name in ("factored", "stored"):
            layer = make_layer(ForcedVotes(name == "stored"), num_inputs)
            rows["training", batch, num_inputs, name] = layer_call(layer, batch)
            rows["inference", batch, num_inputs, name] = layer_inference(layer, batch)
    seconds = interleaved(rows, args.repeats, args.calls, args.threads)
    for (what, batch, num_inputs, name), values in seconds.items():
        ratio = np.median(values / seconds[what, batch, num_inputs, "factored"])
        args.records.add(
            "votes",
            f"{name}, {what}",
            quartiles(values),
            batch_size=batch,
            num_inputs=num_inputs,
            of_factored=f"{ratio:.4f}",
        )
        line = (what, str(batch), str(num_inputs), name)
        lines.append((*line, *milliseconds(values), f"{ratio:.3f}"))
    table(
        f"Dynamic routing from factored and from stored votes: {INPUT_DIM} → {NUM_CLASSES} × "
        f"{OUTPUT_DIM} components",
        ("pass", "batch", "input capsules", "votes", "ms", "quartiles", "of factored"),
        lines,
    )


def measure_peak(args, name):
    """Returns MiB before the first call of a layer and at the peak, of a fresh process."""
    command = [sys.executable, PROGRAM, "--peak", name, "--precision", args.precision]
    process = subprocess.run([*command, *["--quick"] * args.quick], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"{name}: exit code {process.returncode}\n{process.stderr}")
    return tuple(map(float, process.stdout.split()))


def memory_section(args):
    """Prints the peak memory of the layers, each in a process of its own."""
    used, lines, names = {}, [], ("textbook", *args.routings)
    # A GPU's memory holds several, each of which is counted by its own allocator.
    with concurrent.futures.ThreadPoolExecutor(1 if gpu_name() is None else 4) as pool:
        peaks = list(pool.map(lambda name: measure_peak(args, name), names))
    for name, (before, peak) in zip(names, peaks, strict=True):
        used[name] = peak - before
        ratio = used[name] / used["textbook"]
        target = args.targets and MEMORY_TARGETS.get(name)
        args.records.add(
            "memory",
            name,
            batch_size=args.memory_batch,
            mib=f"{used[name]:.1f}",
            of_textbook=f"{ratio:.4f}",
        )
        lines.append(
            (name, f"{before:.0f}", f"{used[name]:.0f}", f"{ratio:.3f}", verdict(ratio, target))
        )
    table(
        f"Peak memory of the layer forward and backward: batch {args.memory_batch}, a fresh "
        "process for each row, compilation included",
        ("routing", "MiB before", "MiB more at the peak", "of textbook", "target"),
        lines,
    )


def scaling_section(args):
    """Prints how the time of layers grows with their sizes."""
    rows = {}
    for name in ("dynamic", "l2"):
        for size in args.batches:
            rows[name, "batch", size] = layer_call(make_layer(name, args.num_inputs), size)
        for size in args.inputs:
            rows[name, "input capsules", size] = layer_call(make_layer(name, size), args.batch_size)
    for size in args.iterations:
        layer = make_layer(DynamicRouting(size), args.num_inputs)
        rows["dynamic", "iterations", size] = layer_call(layer, args.batch_size)
    curves = {}
    for (name, axis, size), values in interleaved(
        rows, args.repeats, args.calls, args.threads
    ).items():
        args.records.add("scaling", f"{name}, {axis}", quartiles(values), note=size)
        curves.setdefault((name, axis), []).append((size, 1e3 * np.median(values)))
    lines, growth = [], []
    for (name, axis), points in curves.items():
        sizes, times = np.array(points).T
        further = ["", *(f"{slope:.4g}" for slope in np.diff(times) / np.diff(sizes))]
        for (size, ms), slope in zip(points, further, strict=True):
            lines.append((name, axis, str(size), f"{ms:.4g}", f"{ms / size:.4g}", slope))
        if axis == "iterations":
            slope = np.polyfit(sizes, times, 1)[0]
            growth.append(f"- {name}: {slope:.4g} ms for each further iteration")
        else:
            exponent = np.polyfit(np.log(sizes), np.log(times), 1)[0]
            growth.append(f"- {name}: time grows as {axis} to the power {exponent:.2f}")
    table(
        f"Layer forward and backward as sizes grow from batch {args.batch_size}, "
        f"{args.num_inputs} input capsules, 3 iterations",
        ("routing", "grows", "size", "ms", "ms a unit", "ms a further unit"),
        lines,
    )
    print("", *growth, sep="\n")


# The textbook needs 12 GB to measure its memory: last, because it may fail there.
SECTIONS = {
    "layer": layer_section,
    "convolution": convolution_section,
    "step": step_section,
    "scaling": scaling_section,
    "votes": votes_section,
    "memory": memory_section,
}
