"""Comparisons of updates, and of initialisations, of capsule regression."""

import keras
import numpy as np

from export.command import fail
from harness import plots, study
from kcaps.regression import CapsuleRegression, SubspaceProjection
from pictures_of.data import Images
from regression import pictures
from regression.settings import ComparisonSettings

MOMENTUM, THRESHOLD = 0.9, 0.8
VARIANTS = {  # momentum and threshold
    "EM": (0.0, 0.0),
    "thresholded": (0.0, THRESHOLD),
    "momentum": (MOMENTUM, 0.0),
    "both": (MOMENTUM, THRESHOLD),
}
_TYPES = {"variant": str, "initialisation": str, "iteration": int, "draw": int}


class Comparison:
    """Trainings on singular features of all training images, with those of validation."""

    def __init__(self, settings: ComparisonSettings, images: Images):
        self.settings, self.images = settings, images
        pixels, self.labels = map(np.concatenate, zip(images.train, images.validation, strict=True))
        pixels = pixels / np.float32(255)
        projection = SubspaceProjection(images.num_components)
        projection.adapt(pixels)
        self.features = keras.ops.convert_to_numpy(projection(pixels))

    def run(self) -> str:
        """Completes the study, draws its picture, and returns its results in words."""
        is_of_updates = self.settings.study == "updates"
        figure, result = self._updates() if is_of_updates else self._initialisations()
        plots.save(figure, self.images, self.settings.output / f"{self.settings.study}.png")
        return result

    def _updates(self):
        rows = self._complete([{"variant": variant} for variant in VARIANTS], self._run_variant)
        last = {row["variant"]: 100 * row["error"] for row in rows}
        errors = ", ".join(f"{variant} {last[variant]:.2f} %" for variant in VARIANTS)
        result = f"training error after {self.settings.epochs} iterations: {errors}"
        return pictures.updates(rows, VARIANTS, self.settings.capsule_dim), result

    def _initialisations(self):
        settings = self.settings
        cells = [{"initialisation": "subspace", "level": 0.0, "draw": 0}]
        cells += [
            {"initialisation": "normal", "level": level, "draw": draw}
            for level in sorted(set(settings.levels))
            for draw in range(settings.draws)
        ]
        errors = {}  # by level
        for row in self._complete(cells, self._run_initialisation):
            errors.setdefault(row["level"], []).append(100 * row["lowest_error"])
        (subspace,) = errors.pop(0.0)
        errors = dict(sorted(errors.items()))
        figure = pictures.initialisations(subspace, errors, settings.capsule_dim, settings.epochs)
        medians = ", ".join(f"random {x:g}: {np.median(errors[x]):.2f} %" for x in errors)
        return figure, f"median of lowest training errors: subspace {subspace:.2f} %, {medians}"

    def _complete(self, cells, run):
        def announce(number, cell):
            print(f"{number} of {len(cells)}: {' '.join(map(str, cell.values()))}", flush=True)

        path = self.settings.output / f"{self.settings.study}.csv"
        try:
            return study.complete(path, cells, run, _TYPES, announce)
        except ValueError as error:  # of data that cannot be fitted, such as too few images
            fail(error)

    def _run_variant(self, variant):
        losses, errors = self._train(*VARIANTS[variant])
        return [
            {"variant": variant, "iteration": n, "loss": loss, "error": error}
            for n, (loss, error) in enumerate(zip(losses, errors, strict=True))
        ]

    def _run_initialisation(self, initialisation, level, draw):
        initializer = initialisation
        if initialisation == "normal":
            initializer = keras.initializers.RandomNormal(stddev=level, seed=draw)
        _, errors = self._train(MOMENTUM, THRESHOLD, initializer)
        row = {"initialisation": initialisation, "level": level, "draw": draw}
        return [row | {"lowest_error": min(errors)}]

    def _train(self, momentum, threshold, initializer="subspace"):
        """Returns training losses and errors, of the first weights and of each iteration's."""
        settings = self.settings
        model = CapsuleRegression(
            self.images.num_classes, settings.capsule_dim, initializer=initializer
        )
        model.compile(momentum=momentum, threshold=threshold)
        # An epoch measures the weights before its step: one more measures those after the last.
        fitted = model.fit(self.features, self.labels, epochs=settings.epochs + 1, verbose=0)
        return fitted.history["loss"], fitted.history["error"]
