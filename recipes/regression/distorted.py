"""Fitting of capsule regression to chunks of distorted digits."""

import math
import time

import keras
import numpy as np

from export.command import fail
from harness import checkpoints, tables
from harness.feeding import Feed
from kcaps.regression import CapsuleRegression
from pictures_of.data import Images
from pictures_of.distortions import distorted
from regression.settings import DistortedSettings
from regression.training import BATCH_SIZE, new_encoder


def make_model(settings: DistortedSettings, images: Images) -> CapsuleRegression:
    """Returns a model with its encoder and first weights, from plain and distorted digits."""
    if settings.momentum >= 1:
        fail(f"--momentum must be below 1, received {settings.momentum}")
    encoder = new_encoder(images, settings.components)
    model = CapsuleRegression(
        images.num_classes, settings.capsule_dim, settings.architecture, encoder=encoder
    )
    model.compile(
        metrics=["accuracy"],
        momentum=settings.momentum,
        threshold=settings.threshold,
        ridge=settings.ridge,
        rate=settings.rate,
    )
    try:
        model.adapt(_PlainAndDistorted(settings, images))
    except ValueError as error:  # few images, and none of some class
        fail(error)
    return model


class _PlainAndDistorted:
    """The plain training digits and the first chunk of distorted ones, in batches.

    They are made when they are asked for, which can be more than once. A list of them would count
    as one array.
    """

    def __init__(self, settings, images):
        self.settings, self.images = settings, images

    def __iter__(self):
        x, y = self.images.train
        for start in range(0, len(x), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            yield x[rows].astype("float32"), y[rows]
        yield from map(
            _batches(self.settings, self.images), range(_batches_of_chunk(self.settings))
        )


def _batches_of_chunk(settings):
    return math.ceil(settings.chunk / BATCH_SIZE)


def _batches(settings, images):
    return distorted(*images.train, settings.seed, BATCH_SIZE)


def train(settings: DistortedSettings, images: Images, model: CapsuleRegression) -> list[dict]:
    """Trains on the chunks that are left, and returns the rows of the history."""
    try:
        return _train(settings, images, model)
    except KeyboardInterrupt:
        if not (path := settings.output / "model.keras").exists():
            checkpoints.write_model(model, path)
        fail("interrupted; --resume goes on after the last chunk", code=130)


def _train(settings, images, model):
    output = settings.output
    done, rows = _restore(output, model)
    best = min((row["val_error"] for row in rows), default=math.inf)
    seconds = rows[-1]["seconds"] if rows else 0.0
    feed, size = Feed(_batches(settings, images)), _batches_of_chunk(settings)
    chunks = math.ceil(settings.examples / settings.chunk)
    for chunk in range(done, chunks):
        started = time.perf_counter()
        model.rate = settings.rate * (1 - chunk / chunks)
        parts = [feed[number] for number in range(chunk * size, (chunk + 1) * size)]
        x, y = (np.concatenate(part)[: settings.chunk] for part in zip(*parts, strict=True))
        try:
            history = model.fit(x, y, epochs=settings.epochs, verbose=0).history
        except ValueError as error:  # of steps that overflow
            fail(f"chunk {chunk + 1} of {chunks}: {error} Those before are saved.", code=1)
        seconds += time.perf_counter() - started
        error, loss = _measure(model, *images.validation)
        row = {
            "examples": (chunk + 1) * settings.chunk,
            "loss": history["loss"][-1],
            "val_loss": loss,
            "val_error": error,
            "test_error": _measure(model, *images.test)[0],
            "seconds": round(seconds, 1),
        }
        rows.append(row)
        if error < best:
            best = error
            checkpoints.write_model(model, output / "model.keras")
        _back_up(output, model, chunk + 1, rows)
        print(
            f"{row['examples']:,} examples: validation error {100 * error:.2f} %, {seconds:.0f} s",
            flush=True,
        )
    return rows


def _measure(model, x, y):
    """Returns the share of wrong classes, and negative log-likelihood of the right ones."""
    probabilities = model.predict(x, batch_size=2000, verbose=0)
    right = np.maximum(probabilities[np.arange(len(y)), y], np.finfo("float32").tiny)
    return float(np.mean(probabilities.argmax(-1) != y)), float(-np.mean(np.log(right)))


def _back_up(output, model, done, rows):
    """Writes all that a resumed run needs; the weights last, as they say how much is done."""
    tables.write_csv(output / "history.csv", rows)
    path = output / checkpoints.STATE
    path.parent.mkdir(exist_ok=True)
    kernel = keras.ops.convert_to_numpy(model.competition.kernel)
    checkpoints.write_state(path, done, {"kernel": kernel, "velocity": model.velocity})


def _restore(output, model):
    """Gives a model the state after the last chunk; returns how many are done, and their rows."""
    path = output / checkpoints.STATE
    if not path.exists():
        _back_up(output, model, 0, [])
    done, values = checkpoints.read_state(path)
    model.competition.kernel.assign(values["kernel"])
    model.restart(values["velocity"])
    return done, tables.read_csv(output / "history.csv", {"examples": int})[:done]


def finish(
    settings: DistortedSettings, images: Images, model: CapsuleRegression, rows: list[dict]
) -> dict:
    """Gives a model its best weights, writes their results, and returns their row."""
    best = min(rows, key=lambda row: row["val_error"])
    model.load_weights(settings.output / "model.keras")
    tables.write_json(
        settings.output / "report.json",
        {
            "test_accuracy": 1 - best["test_error"],
            "test_images": len(images.test[1]),
            "validation_accuracy": 1 - best["val_error"],
            "training_accuracy": 1 - _measure(model, *images.train)[0],
            "epochs": len(rows) * settings.epochs,
            "examples": rows[-1]["examples"],
            "parameters": math.prod(model.competition.kernel.shape),
            "training_seconds": rows[-1]["seconds"],
            "synthetic": images.is_synthetic,
        },
    )
    return best
