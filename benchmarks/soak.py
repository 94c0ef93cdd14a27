"""Memory of one process that trains, saves, loads, exports and predicts, again and again.

A round trains a capsule network on the digits for a few steps more, writes its checkpoint, loads
it, exports it to ONNX, and predicts with ONNX Runtime and with Keras, which must agree; networks
with two routings take turns. Each round adds the resident memory, after a collection of garbage,
to memory.csv; at the end, or at Ctrl-C, memory.png shows it over time. The growth is the Theil–Sen
slope over the second half of the time, times its duration, as a share of its median: single rounds
do not move it.

`--new-models` trains new networks in each round, and calls `keras.backend.clear_session()` after
it. Each compiles its own step, which TensorFlow keeps for as long as the process lives.
"""

import contextlib
import csv
import datetime
import gc
import pathlib
import sys
import time

from export.command import Parser, fail, positive, quiet_tensorflow, required

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

with required(), quiet_tensorflow(is_program=__name__ == "__main__"):
    import tensorflow  # noqa: F401

with required():
    import keras
    import matplotlib
    import numpy as np
    import psutil
    import scipy.stats
    from bench import commit
    from device import versions
    from timing import verdict

    import kcaps
    from export import checkpoint
    from export.onnx import export_onnx
    from export.runtime import open_session, runner
    from harness import checkpoints, run_folder
    from networks.small_capsnet import small_capsnet
    from pictures_of import data

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

ROUTINGS = ("l1", "dynamic")  # updated in turn with the weights, and without updates
STEPS, BATCH_SIZE = 8, 32
TOLERANCE = 1e-5
GROWTH_TARGET = 1.0  # per cent
MIN_ROUNDS = 4


def network(images, routing):
    model = small_capsnet(images.shape, images.num_classes, routing=routing)
    model.compile("adam", metrics=["accuracy"])
    return model


def run_round(model, images, folder):
    """One round in a checkpoint folder; returns the largest difference of the predictions."""
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
    """What the exporters read of a run."""
    run = {
        "kcaps": kcaps.__version__,
        "recipe": "soak",
        "data": {"name": images.name, "title": images.title, **images.source},
        "input_range": [0, 255],
        "labels": images.class_names,
    }
    run_folder.write_json(folder / "run.json", run)


def soak(args, images):
    """Rounds for as long as asked; returns seconds and MiB after each."""
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
    """Growth over the second half, in per cent of its median; slope and intercept of its line."""
    half = seconds >= seconds[-1] / 2
    slope, intercept, *_ = scipy.stats.theilslopes(mib[half], seconds[half])
    duration = np.ptp(seconds[half])
    return 100 * slope * duration / np.median(mib[half]), (slope, intercept)


def draw(seconds, mib, line, title, path):
    figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
    axis.plot(seconds / 60, mib, ".", markersize=3, label="after a round")
    half = np.array([seconds[-1] / 2, seconds[-1]])
    axis.plot(half / 60, line[0] * half + line[1], label="Theil–Sen line of the last half")
    axis.set(xlabel="minutes", ylabel="resident memory, MiB", title=title)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=80)


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=positive(float), default=60.0)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a new folder")
    parser.add_argument("--new-models", action="store_true", help="in each round")
    args = parser.parse_args()
    print(f"# Soak\n\n{versions()}, {datetime.date.today()}{commit()}", flush=True)
    try:
        args.output.mkdir(parents=True)
    except OSError as error:
        fail(f"--output {args.output} cannot be made: {error.strerror}")
    keras.utils.set_random_seed(0)
    images = data.load("digits")
    write_run(images, args.output)
    seconds, mib = soak(args, images)
    if len(mib) < MIN_ROUNDS:
        fail(f"interrupted after {len(mib)} rounds, which are too few to tell", code=130)
    per_cent, line = growth(seconds, mib)
    half = f"growth over the last half {per_cent:+.2f} %"
    rounds = f"{len(mib)} rounds in {seconds[-1] / 60:.1f} minutes"
    draw(seconds, mib, line, f"{rounds}: {half}", args.output / "memory.png")
    print(
        f"\n{rounds}, {mib[0]:.0f} MiB after the first and {mib[-1]:.0f} MiB after the last, "
        f"{half} ({verdict(per_cent, GROWTH_TARGET)})"
    )


if __name__ == "__main__":
    main()
