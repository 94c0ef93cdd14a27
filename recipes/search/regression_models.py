"""The search space of capsule regression."""

import math
import os

import keras

from harness import run_folder
from kcaps.regression import CapsuleRegression, ThresholdSchedule
from kcaps.regression.competition import ARCHITECTURES
from pictures_of.data import PUBLISHED_VALIDATION_SHARE
from regression import pictures, training
from search.hypermodels import ImageHyperModel, measured


class CapsuleRegressionHyperModel(ImageHyperModel):
    """Capsule regression by EM, in rounds; the defaults are those of `capsule_regression.py`."""

    epochs, batch_size = 20_000, 2000  # iterations of EM, which ends by itself
    validation_share = PUBLISHED_VALIDATION_SHARE

    def __init__(self, images, settings):
        super().__init__(images, settings)
        self._encoders = {}

    def build(self, hp):
        pixels = math.prod(self.images.shape)
        usual = min(self.images.num_components, pixels)
        capsule_dim = hp.Choice("capsule_dim", [1, 2, 4, 8, 16], default=2)
        architecture = hp.Choice("architecture", list(ARCHITECTURES), default="multiclass")
        counts = sorted({usual // 2, usual, min(2 * usual, pixels)})
        components = hp.Choice("components", counts, default=usual)
        momentum = hp.Choice("momentum", [0.0, 0.5, 0.9], default=0.9)
        ridge = hp.Choice("ridge", [0.0, 1e-3, 1e-2, 1e-1, 1.0], default=0.0)

        if components not in self._encoders:
            self._encoders[components] = training.make_encoder(self.images, components)
        model = CapsuleRegression(
            self.images.num_classes, capsule_dim, architecture, encoder=self._encoders[components]
        )
        model.compile(metrics=["accuracy"], momentum=momentum, ridge=ridge)
        model.adapt(*self.images.train)
        return model

    def fit(self, hp, model, seed=0):
        history = model.fit(
            *self.images.train,
            epochs=self.trial_epochs(hp),
            validation_data=self.images.validation,
            callbacks=[ThresholdSchedule()],
            verbose=0,
        ).history
        history["val_accuracy"] = [1 - error for error in history["val_error"]]
        return measured(history, chosen_by="val_error")

    def retrain(self, hp, run, report):
        images, output = self.images, run.output
        keras.utils.set_random_seed(run.seed)
        model = self.build(hp)
        run_folder.open_folder(run, images, lambda output: 0)
        logger = keras.callbacks.CSVLogger(output / "history.csv")
        row = training.fit(run, images, model, ThresholdSchedule(verbose=True), [logger])
        training.finish(output, images, model, row, report)
        pictures.draw(model, images, run_folder.read_history(output / "history.csv"), output)
        accuracy = 100 * (1 - row["test_error"])
        print(f"test accuracy {accuracy:.2f} % on {images.title}; checkpoint in {output}{os.sep}")
