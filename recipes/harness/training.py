"""What all recipes share: arguments, batches, training in a checkpoint folder, and the report."""

import contextlib
import math
import os
import pathlib
import re
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import kcaps
from export.command import UNREAD, Parser, fail, positive
from harness import checkpoints, distribution, plots, run_folder
from pictures_of import data

_NOT_FINITE = "images hold NaN or infinity"


class Diverged(SystemExit):
    """Ends a program whose training diverged."""


def begin(description, epochs, batch_size, learning_rate, routing="dynamic", has_folder=True):
    """`begin_any` for capsule networks: with a batch size, a routing and a learning rate."""

    def add(parser):
        parser.add_argument(
            "--batch-size", type=positive(int), default=batch_size, help="images of a step"
        )
        parser.add_argument(
            "--routing",
            choices=list(kcaps.routing.ROUTINGS),
            default=routing,
            help="class capsules",
        )
        parser.add_argument(
            "--learning-rate", type=positive(float), default=learning_rate, help="at the start"
        )
        distribution.add_argument(parser)

    return begin_any(description, epochs, add, has_folder)


def begin_any(description, epochs, add_arguments, has_folder=True):
    """Reads the command line, checks the output folder, seeds Keras.

    Args:
        description: Text of `--help`.
        epochs: Default of `--epochs`.
        add_arguments: Function that adds a recipe's own arguments to the parser.
        has_folder: As for `data.add_arguments`.
    """
    args = read_arguments(description, epochs, add_arguments, has_folder)
    if distribution.writes(args):
        run_folder.check_output(args)
    distribution.start(args)
    keras.utils.set_random_seed(args.seed)
    return args


def read_arguments(description, epochs, add_arguments, has_folder=True):
    """Reads the command line, as `begin_any` does, and touches no folder."""
    parser = Parser(description)
    parser.add_argument("--output", type=pathlib.Path, default="ckpt/", help="checkpoint folder")
    parser.add_argument(
        "--epochs", type=positive(int), default=epochs, help="passes over the training images"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random")
    add_arguments(parser)
    data.add_arguments(parser, has_folder)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in --output")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in --output")
    args = parser.parse_args()
    check_backend()
    if args.seed < 0 or args.seed >= 2**32:
        fail(f"--seed must be from 0 to {2**32 - 1}, received {args.seed}")
    args.recipe = pathlib.Path(sys.argv[0]).stem
    args.again = "--resume"  # by which an interrupted run goes on
    return args


def check_backend(backends=("tensorflow",)):
    """Ends the program where Keras runs on another backend than one of these."""
    backend = keras.backend.backend()
    if backend not in backends:
        known = " or ".join(map(repr, backends))
        fail(f"this recipe's KERAS_BACKEND must be {known}, or unset. Received: {backend!r}")


def stream(images, labels, batch_size, seed, first_step=0, augment=None):
    """Shuffled batches without end; their order depends on the seed and the step only.

    A resumed run therefore sees the batches that an uninterrupted one would have seen.

    Args:
        images: uint8 array `(n, height, width, channels)`.
        labels: Integer array `(n,)`.
        batch_size: At most n. Images that fill no batch are left out of a pass.
        seed: Integer from 0 to 2³² - 1.
        first_step: Number of the first batch.
        augment: As for `run`.

    Returns:
        `tf.data.Dataset` of batches of float32 images, and labels.
    """
    steps = len(images) // batch_size
    images, labels = tf.constant(images), tf.constant(labels)

    def epoch_batches(epoch):
        order = tf.stack([tf.cast(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), order)
        order = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)
        return order.enumerate(epoch * steps)

    def read(step, indices):
        batch = tf.cast(tf.gather(images, indices), tf.float32)
        if augment is not None:
            batch = augment(batch, tf.stack([tf.cast(seed, tf.int64), step]))
        return batch, tf.gather(labels, indices)

    epochs = tf.data.Dataset.range(first_step // steps, np.iinfo("int64").max)
    batches = epochs.flat_map(epoch_batches).skip(first_step % steps)
    return batches.map(read, num_parallel_calls=2).prefetch(2)


def timer():
    """A callback that adds the seconds of each epoch, its validation included, to its logs."""
    started = []
    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: started.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: logs.update(seconds=time.perf_counter() - started[-1]),
    )


class _StopAtNaN(keras.callbacks.Callback):
    """Ends training at the first step after which the loss is not finite, and remembers it."""

    where = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.where is None and not np.isfinite(logs["loss"]):
            self.where = self.epoch, batch
            self.model.stop_training = True


def _callbacks(output, history, synthetic, log, divergence):
    label = {"synthetic": 1.0} if synthetic else {}  # a column of history.csv
    return [
        divergence,
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(label)),
        timer(),
        log,
        checkpoints.BestModel(
            output / "model.keras", min(history.get("val_loss", []), default=math.inf)
        ),
        checkpoints.Backup(output / checkpoints.STATE),
    ]


def _checked(batches, first_step):
    """The batches, which end training at the first that has images that are not finite."""

    def check(step, batch):
        images = batch[0]
        finite = tf.reshape(tf.math.is_finite(images), (tf.shape(images)[0], -1))
        finite = tf.reduce_all(finite, axis=1)
        bad = tf.where(~finite)[:, 0]
        told = [_NOT_FINITE, step, tf.size(bad), tf.size(finite), bad]
        with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, told)]):
            return tf.nest.map_structure(tf.identity, batch)

    return batches.enumerate(first_step).map(check)


def _place(epoch, batch, steps):
    return f"step {epoch * steps + batch}, epoch {epoch + 1}, batch {batch + 1} of {steps}"


def fit(model, images, args, batches, steps, validation):
    """Trains a compiled model in its checkpoint folder; keeps that of the best epoch on validation.

    Args:
        model: Compiled model.
        images: `data.Images`.
        args: Arguments from `begin`.
        batches: Function of the number of the first step that returns batches without end.
        steps: Steps of an epoch.
        validation: What Keras takes as validation data.

    Returns:
        History as columns, and the seconds of all its epochs.
    """
    output = args.output
    synthetic = images.source["loader"] == "synthetic"
    if run_folder.epochs_done(output) and not args.overwrite:
        run_folder.check_same_model(output, model)
    done = run_folder.open_folder(args, images)
    history = run_folder.read_history(output / "history.csv") if done else {}
    print(f"{args.recipe}: {images.title}, {len(images.train[0])} training images", flush=True)
    log = keras.callbacks.CSVLogger(output / "history.csv", append=bool(history))
    divergence = _StopAtNaN()
    try:
        model.fit(
            distribution.share(_checked(batches(done * steps), done * steps)),
            initial_epoch=done,
            epochs=args.epochs,
            steps_per_epoch=steps,
            shuffle=False,  # the batches are shuffled already
            validation_data=validation,
            validation_batch_size=args.batch_size,
            callbacks=_callbacks(output, history, synthetic, log, divergence),
        )
    except KeyboardInterrupt:
        if not (output / "model.keras").exists():
            checkpoints.write_model(model, output / "model.keras")
        fail(
            f"interrupted after {run_folder.epochs_done(output)} epochs; {args.again} goes on from "
            "there",
            130,
        )
    except BrokenPipeError:
        sys.stdout = None  # or Python complains of it once more at its end
        fail(
            f"{UNREAD}; {args.again} goes on after {run_folder.epochs_done(output)} epochs", code=1
        )
    except OSError as error:
        fail(
            f"--output {output} cannot be written any more ({error}); what was saved before is "
            f"still there, and {args.again} goes on after {run_folder.epochs_done(output)} epochs",
            code=1,
        )
    except tf.errors.InvalidArgumentError as error:
        told = re.search(rf"{_NOT_FINITE}\] \[(\d+)\] \[(\d+)\] \[(\d+)\] \[(.*?)\]", error.message)
        if told is None:
            raise
        step, count, size, positions = told.groups()
        fail(
            f"{count} of {size} {_NOT_FINITE}: {_place(*divmod(int(step), steps), steps)}, "
            f"images {positions} of the batch (from 0); training stopped, what was saved before "
            f"is still there, and {args.again} goes on after {run_folder.epochs_done(output)} "
            "epochs",
            code=1,
        )
    finally:
        with contextlib.suppress(OSError):  # of a full disk, which is told already
            log.on_train_end()  # closes its file where training did not come to its end
    history = run_folder.read_history(output / "history.csv")
    losses = [*history["loss"], *history["val_loss"]]
    if not (output / "model.keras").exists() or not np.isfinite(losses).all():
        where = f" at {_place(*divergence.where, steps)}" if divergence.where else ""
        fail(
            f"training diverged{where}: the loss is not finite. What was saved before is still "
            "there; try a lower learning rate",
            kind=Diverged,
            code=1,
        )
    model.load_weights(output / "model.keras")
    return history, sum(history["seconds"])


def write_report(args, images, model, history, seconds, accuracy, metric="accuracy", more=None):
    """Writes `report.json`.

    Args:
        args: Arguments from `begin`.
        images: `data.Images`.
        model, history, seconds: What `fit` trained and returned.
        accuracy: Share of the test images that are right.
        metric: Name of the accuracy in the history.
        more: Optional dict of further numbers.
    """
    best = int(np.argmin(history["val_loss"]))
    run_folder.write_json(
        args.output / "report.json",
        {
            "test_accuracy": accuracy,
            "test_images": len(images.test[1]),
            "validation_accuracy": history[f"val_{metric}"][best],
            "validation_loss": history["val_loss"][best],
            "best_epoch": best + 1,
            "epochs": len(history["loss"]),
            "parameters": model.count_params(),
            "training_seconds": round(seconds, 2),
            "synthetic": images.source["loader"] == "synthetic",
            **(more or {}),
        },
    )


def run(model, images, args, augment=None, report=None):
    """Trains a compiled model and fills the checkpoint folder.

    The model of the epoch with the lowest validation loss is kept; the test images are used once,
    at the end.

    Args:
        model: Compiled model from raw images to class lengths.
        images: `data.Images`.
        args: Arguments from `begin`.
        augment: Optional function `(images, seed)` applied to each training batch, `seed` being
            a pair of integers for TensorFlow's stateless random operations.
        report: Optional dict of further numbers for `report.json`.
    """
    size = min(args.batch_size, len(images.train[0]))

    def batches(first_step):
        return stream(*images.train, size, args.seed, first_step, augment)

    steps = len(images.train[0]) // size
    history, seconds = fit(model, images, args, batches, steps, images.validation)
    model = distribution.finish(args, model)
    lengths = model.predict(images.test[0], batch_size=args.batch_size, verbose=0)
    accuracy = float(np.mean(lengths.argmax(-1) == images.test[1]))
    write_report(args, images, model, history, seconds, accuracy, more=report)
    plots.draw(model, images, lengths, history, args.output)
    print(
        f"test accuracy {100 * accuracy:.2f} % on {images.title}; checkpoint in "
        f"{args.output}{os.sep}"
    )
