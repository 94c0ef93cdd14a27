"""Search spaces of models: what `tune.py` varies, and how each model is trained."""

import keras
import keras_tuner
import numpy as np

from harness import training
from harness.feeding import Feed
from harness.settings import RunSettings
from pictures_of.batches import Change, stream
from pictures_of.data import VALIDATION_SHARE


class ImageHyperModel(keras_tuner.HyperModel):
    """Space of classifiers of images; its defaults are values that others have set by hand.

    Subclasses have `build(hp)`, which returns a compiled model that is built; `fit(hp, model,
    seed)`, which trains it and returns what `measured` does; and `retrain(hp, run, report)`, which
    trains a model as the first execution of its trial was, and fills the run's folder, where
    `report` has further numbers for `report.json`. Training ends with the weights that were best
    on the validation images; the test images are read by `retrain` only.

    Args:
        images: Images in three splits.
        settings: `search.settings.Settings`.
    """

    validation_share = VALIDATION_SHARE  # of the training images, as for `data.load`
    epochs, batch_size = 10, 32

    def __init__(self, images, settings):
        super().__init__()
        self.images, self.settings = images, settings

    @classmethod
    def defaults(cls, settings: RunSettings) -> tuple[int, int]:
        """Returns passes over the data, and the batch size, where the program is given none."""
        return cls.epochs, cls.batch_size

    def trial_epochs(self, hp: keras_tuner.HyperParameters) -> int:
        """Returns the epochs of a trial, which Hyperband gives it."""
        return hp.values.get("tuner/epochs", self.settings.epochs)


class NetworkHyperModel(ImageHyperModel):
    """Space of networks that are trained by gradient steps, on images that `change` changes."""

    change: Change | None = None

    @property
    def size(self) -> int:
        """The batch size, which is not larger than the number of images."""
        return min(self.settings.batch_size, len(self.images.train[0]))

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.images.train[0]) // self.size

    def fit(self, hp, model, seed=0):
        return measured(
            model.fit(
                Feed(stream(*self.images.train, self.size, seed, self.change)),
                epochs=self.trial_epochs(hp),
                steps_per_epoch=self.steps,
                shuffle=False,  # the batches are shuffled already
                validation_data=self.images.validation,
                validation_batch_size=self.settings.batch_size,
                callbacks=[keras.callbacks.TerminateOnNaN()],
                verbose=0,
            ).history
        )

    def retrain(self, hp, run, report):
        keras.utils.set_random_seed(run.seed)
        training.train(self.build(hp), self.images, run, self.change, report)


def measured(history: dict[str, list[float]], chosen_by: str = "val_loss") -> dict[str, float]:
    """Returns validation figures of the weights that training keeps, the loss without penalties.

    Args:
        history: Columns of Keras' history.
        chosen_by: Column whose lowest value tells the epoch of these weights.

    Raises:
        keras_tuner.errors.FailedTrialError: if the training diverged.
    """
    losses = history["val_loss"]
    if not (np.isfinite(history["loss"]).all() and np.isfinite(losses).all()):
        raise keras_tuner.errors.FailedTrialError("training diverged")
    best = int(np.argmin(history[chosen_by]))
    compared = history.get("val_cross_entropy", losses)[best]
    return {"val_accuracy": float(history["val_accuracy"][best]), "val_loss": float(compared)}
