"""A watch over training, for images and losses that are not finite."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from export.command import fail


class Diverged(SystemExit):
    """Ends a program whose training diverged."""


class Watch(keras.callbacks.Callback):
    """Ends training at the first images or the first loss that are not finite, and remembers them.

    Args:
        steps: Steps of an epoch.
    """

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.images = None  # the step whose images are not finite, and which of them are so
        self.loss = None  # the step after which the loss is not finite

    def over(self, stream: tf.data.Dataset, first_step: int) -> tf.data.Dataset:
        """Returns the batches, which end with an error at the first with such images."""

        def remember(step, finite):
            self.images = int(step), finite.numpy()
            raise ValueError("images hold NaN or infinity")

        def check(step, batch):
            images = batch[0]
            finite = tf.reshape(tf.math.is_finite(images), (tf.shape(images)[0], -1))
            finite = tf.reduce_all(finite, axis=1)
            checked = tf.cond(
                tf.reduce_all(finite),
                lambda: True,
                lambda: tf.py_function(remember, [step, finite], tf.bool),
            )
            with tf.control_dependencies([checked]):
                return tf.nest.map_structure(tf.identity, batch)

        return stream.enumerate(first_step).map(check)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.loss is None and not np.isfinite(logs["loss"]):
            self.loss = self.epoch * self.steps + batch
            self.model.stop_training = True

    def place(self, step: int) -> str:
        """Returns words for where a step is."""
        epoch, batch = divmod(step, self.steps)
        return f"step {step}, epoch {epoch + 1}, batch {batch + 1} of {self.steps}"

    def check(self, history: dict[str, list[float]], output: pathlib.Path) -> None:
        """Ends the program if the training that has this history diverged."""
        losses = [*history["loss"], *history["val_loss"]]
        if not (output / "model.keras").exists() or not np.isfinite(losses).all():
            where = "" if self.loss is None else f" at {self.place(self.loss)}"
            fail(
                f"training diverged{where}: the loss is not finite. What was saved before is still "
                "there; try a lower learning rate",
                kind=Diverged,
                code=1,
            )
