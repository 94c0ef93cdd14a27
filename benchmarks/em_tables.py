"""Tables of capsule regression: the speed of its iterations, how it grows, and its memory."""

import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
from device import BACKEND, memory, wait
from keras import ops
from timing import milliseconds, table, verdict

from harness.provenance import gpu_name
from kcaps.backend.compiling import compiled
from kcaps.regression import CapsuleRegression

PROGRAM = str(pathlib.Path(__file__).with_name("regression.py"))
REFERENCE = {"examples": 50_000, "features": 196, "classes": 10, "dim": 8}
QUICK = {"examples": 400, "features": 12, "classes": 4, "dim": 2}
TARGET = 2.0
STREAM_BATCH = 5_000


@compiled
def products(features, kernel, errors):
    """The two products that an iteration cannot do without."""
    return ops.matmul(features, kernel), ops.matmul(ops.transpose(features), errors)


def examples(size, sizes, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(size, sizes["features"])).astype("float32")
    labels = rng.integers(sizes["classes"], size=size)
    labels[: sizes["classes"]] = np.arange(sizes["classes"])
    return features, labels


class Watch(keras.callbacks.Callback):
    """Times the products, then the epoch, in each epoch."""

    def __init__(self, features, columns):
        super().__init__()
        rng = np.random.default_rng(1)
        self.arguments = [
            ops.convert_to_tensor(array, "float32")
            for array in (
                features,
                rng.normal(size=(features.shape[1], columns)),
                rng.normal(size=(len(features), columns)),
            )
        ]
        self.alone, self.epochs = [], []

    def on_epoch_begin(self, epoch, logs=None):
        start = time.perf_counter()
        wait(products(*self.arguments))
        self.start = time.perf_counter()
        self.alone.append(self.start - start)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(time.perf_counter() - self.start)


def measure(sizes, repeats):
    """Returns seconds of the products and of the epochs, after the two that compile."""
    features, labels = examples(sizes["examples"], sizes)
    model = CapsuleRegression(
        sizes["classes"],
        sizes["dim"],
        initializer=keras.initializers.RandomNormal(stddev=0.1, seed=0),
    )
    model.compile(momentum=0.9)
    watch = Watch(features, sizes["classes"] * sizes["dim"])
    model.fit(features, labels, epochs=repeats + 2, verbose=0, callbacks=[watch])
    return np.array(watch.alone[2:]), np.array(watch.epochs[2:])


def iteration_section(args, sizes):
    """Prints the speed of an iteration beside its products."""
    alone, epochs = measure(sizes, args.repeats)
    ratio = np.median(epochs / alone)
    on_cpu = sizes is REFERENCE and BACKEND == "tensorflow" and gpu_name() is None
    table(
        "EM iteration by `fit`: {examples:,} × {features}, {classes} capsules of {dim}".format(
            **sizes
        ),
        ("", "ms", "quartiles", "of the products", "target"),
        [
            ("two matrix products", *milliseconds(alone), "1.000", ""),
            (
                "EM iteration",
                *milliseconds(epochs),
                f"{ratio:.3f}",
                verdict(ratio, on_cpu and TARGET),
            ),
        ],
    )


def scaling_section(args, sizes):
    """Prints how the time of an iteration grows with the sizes."""
    lines, growth = [], []
    for name in sizes:
        points = []
        for factor in (0.5, 1, 2):
            grown = {**sizes, name: int(factor * sizes[name])}
            _, epochs = measure(grown, args.repeats)
            points.append((grown[name], 1e3 * np.median(epochs)))
            lines.append((name, f"{grown[name]:,}", f"{points[-1][1]:.4g}"))
        exponent = np.polyfit(*np.log(np.array(points).T), 1)[0]
        growth.append(f"- time grows as {name} to the power {exponent:.2f}")
    table("EM iteration as sizes grow", ("grows", "size", "ms"), lines)
    print("", *growth, sep="\n")


class Stream(keras.utils.PyDataset):
    """Examples that are made when they are asked for."""

    def __init__(self, batches, sizes):
        super().__init__()
        self.batches, self.sizes = batches, sizes

    def __len__(self):
        return self.batches

    def __getitem__(self, index):
        return examples(min(STREAM_BATCH, self.sizes["examples"]), self.sizes, seed=index)


def print_peak(args, sizes):
    """Prints, in a process of its own, memory before the first epoch, and the peak of two."""
    model = CapsuleRegression(sizes["classes"], sizes["dim"])
    model.compile(momentum=0.9)
    model.adapt(Stream(2, sizes))
    before, _ = memory()
    model.fit(Stream(args.peak, sizes), epochs=2, verbose=0)
    print(before, memory()[1])


def memory_section(args, sizes):
    """Prints the peak memory of streams of two lengths."""
    lines = []
    for batches in (2, 32):
        command = [sys.executable, PROGRAM, "--peak", str(batches), *["--quick"] * args.quick]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}\n{process.stderr}")
        before, peak = map(float, process.stdout.split())
        size = batches * min(STREAM_BATCH, sizes["examples"])
        lines.append((f"{size:,}", f"{before:.0f}", f"{peak - before:.0f}"))
    table(
        "Peak memory of EM on a stream: a fresh process for each row, compilation included",
        ("examples", "MiB before", "MiB more at the peak"),
        lines,
    )


SECTIONS = {"iteration": iteration_section, "scaling": scaling_section, "memory": memory_section}
