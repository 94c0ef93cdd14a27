"""Rounds of training, saving, loading, exporting and predicting, and the memory that they take."""

import contextlib
import csv
import gc
import time

import keras
import numpy as np
import psutil
import scipy.stats
from matplotlib import pyplot as plt

from export import checkpoint
from export.command import fail
from export.onnx import export_onnx
from export.runtime import open_session, runner
from harness import checkpoints, tables
from networks.small_capsnet import small_capsnet

ROUTINGS = ("l1", "dynamic")  # updated in turn with the weights, and without updates
STEPS, BATCH_SIZE = 8, 32
TOLERANCE = 1e-5
GROWTH_TARGET = 1.0  # per cent
MIN_ROUNDS = 4


def network(images, routing):
    """Returns a new network, compiled."""
    model = small_capsnet(images.shape, images.num_classes, routing=routing)
    model.compile("adam", metrics=["accuracy"])
    return model


def run_round(model, images, folder):
    """Does a round in a checkpoint folder; returns the largest difference of predictions."""
    count = STEPS * BATCH_SIZE
    model.fit(*(part[:count] for part in images.train), batch_size=BATCH_SIZE, verbose=0)
    checkpoints.write_model(model, folder / "model.keras")
    loaded = checkpoint.load(folder)
    export_onnx(loaded.model, folder / "model.onnx", checkpoint=loaded)
    outputs = runner(open_session(folder / "model.onnx"))(images.test[0].astype("float32"))
    lengths = model.predict(images.test[0], batch_size=BATCH_SIZE, verbose=0)
    difference = float(np.abs(outputs["class_lengths"] - lengths).max())
    if not difference <= TOLERANCE:
        fail(f"ONNX Runtime's predictions differ from Keras' by {difference:.1e}", code=1)
    return difference


def write_run(images, folder):
    """Writes the `run.json` that the exporters read."""
    source = {"name": images.name, "title": images.title, **images.source}
    run = checkpoint.run_content("soak", source, images.class_names)
    tables.write_json(folder / "run.json", run)


def soak(args, images):
    """Does rounds for as long as asked; returns seconds and MiB after each."""
    process, start, samples, models = psutil.Process(), time.monotonic(), [], {}
    with (
        open(args.output / "memory.csv", "w", newline="") as file,
        contextlib.suppress(KeyboardInterrupt),
    ):
        writer = csv.writer(file)
        writer.writerow(("round", "routing", "seconds", "mib", "largest_difference"))
        while len(samples) < MIN_ROUNDS or samples[-1][0] < 60 * args.minutes:
            routing = ROUTINGS[len(samples) % len(ROUTINGS)]
            if args.new_models or routing not in models:
                models[routing] = network(images, routing)
            difference = run_round(models[routing], images, args.output)
            if args.new_models:
                models.clear()
                keras.backend.clear_session()
            gc.collect()
            seconds = time.monotonic() - start
            mib = process.memory_info().rss / 2**20
            samples.append((seconds, mib))
            row = (len(samples), routing, f"{seconds:.1f}", f"{mib:.1f}", f"{difference:.1e}")
            writer.writerow(row)
            file.flush()
    return np.array(samples).reshape(-1, 2).T


def growth(seconds, mib):
    """Returns growth over the second half in per cent of its median, and the line of it."""
    half = seconds >= seconds[-1] / 2
    slope, intercept, *_ = scipy.stats.theilslopes(mib[half], seconds[half])
    duration = np.ptp(seconds[half])
    return 100 * slope * duration / np.median(mib[half]), (slope, intercept)


def draw(seconds, mib, line, title, path):
    """Draws the memory over time."""
    figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
    axis.plot(seconds / 60, mib, ".", markersize=3, label="after a round")
    half = np.array([seconds[-1] / 2, seconds[-1]])
    axis.plot(half / 60, line[0] * half + line[1], label="Theil–Sen line of the last half")
    axis.set(xlabel="minutes", ylabel="resident memory, MiB", title=title)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=80)
