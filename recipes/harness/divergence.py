"""A watch over training, for images and losses that are not finite."""

import pathlib

import keras
import numpy as np

from export.command import fail


class Diverged(SystemExit):
    """Ends a program whose training diverged."""


class Watch(keras.callbacks.Callback):
    """Ends training at images or a loss that are not finite, which it remembers, and at Ctrl-C.

    Args:
        steps: Steps of an epoch.
    """

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.images = None  # a step, which of its images are not finite, and how many it has
        self.loss = None  # the step after which the loss is not finite
        self.interrupted = False  # by Ctrl-C, whose error Keras drops while it waits for JAX

    def look_at(self, step: int, batch: tuple, part: slice = slice(None)) -> None:
        """Raises a `ValueError` at a batch with images that are not finite, and remembers them.

        Args:
            step: Number of the batch.
            batch: Images `(b, height, width, channels)`, and what else is in it.
            part: The part of the batch that they are.
        """
        images = batch[0]
        if not isinstance(images, np.ndarray):
            return  # They are bytes that a GPU keeps.
        finite = np.isfinite(images).all(axis=tuple(range(1, images.ndim)))
        if not finite.all():
            first, count = part.start or 0, len(finite)
            self.images = step, first + np.flatnonzero(~finite), count
            raise ValueError("images hold NaN or infinity")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.interrupted:
            raise KeyboardInterrupt
        # `batch` is the last one of those of an execution, as if no epoch ended within one. The
        # loss is a mean over the epoch so far: from the first that is not finite on, none is.
        if self.loss is None and not np.isfinite(logs["loss"]):
            self.loss = self.epoch * self.steps + min(batch, self.steps - 1)
            self.model.stop_training = True

    def place(self, step: int, executed: int = 1) -> str:
        """Returns words for where a step is, the last one of those that are executed together."""
        epoch, batch = divmod(step, self.steps)
        place = f"step {step}, epoch {epoch + 1}, batch {batch + 1} of {self.steps}"
        return place if executed == 1 else f"{place}, or up to {executed - 1} before"

    def check(self, history: dict[str, list[float]], output: pathlib.Path) -> None:
        """Ends the program if the training that has this history diverged."""
        losses = [*history["loss"], *history["val_loss"]]
        if not (output / "model.keras").exists() or not np.isfinite(losses).all():
            where = (
                ""
                if self.loss is None
                else f" at {self.place(self.loss, self.model.steps_per_execution)}"
            )
            fail(
                f"training diverged{where}: the loss is not finite. What was saved before is still "
                "there; try a lower learning rate",
                kind=Diverged,
                code=1,
            )
