"""The comparison of an exported file with its Keras model, on the images that are at hand."""

import dataclasses
from collections.abc import Callable

import numpy as np

from export.command import first_line
from export.half import Half, half_dtypes
from export.images import Images
from export.outputs import class_columns, class_output
from export.parity import BATCH_SIZES, Comparison, compare, wider
from export.reference import Reference
from export.variation import steady_outputs


def compare_model(
    reference: Reference,
    candidate: Callable,
    test_images: Images,
    tolerance: float,
    batch_sizes: tuple = BATCH_SIZES,
    same_classes: bool = True,
) -> Comparison:
    """Compares an exported file with the Keras model that it should compute.

    If that is a float32 copy of a model in half precision, the model is computed beside it on the
    same images: the accuracy before the export is that of the model.

    Random images may lie outside of what a model was made for, so that all its outputs are at
    their limits: an output is called steady on them only if it is steady on darker ones, too.

    Args:
        reference: The Keras model, as an `export.reference.Reference`.
        candidate: Function from images to a dict of arrays: the exported file.
        test_images: The `export.images.Images` to compare on.
        tolerance, batch_sizes, same_classes: As for `export.parity.compare`; a wider tolerance is
            taken where Keras itself is no more exact.

    Raises:
        ValueError: if the model itself cannot be computed on the images.
        ParityError: if the names or shapes of the outputs differ, or the file does not run.
    """
    run = _runner(reference.model, test_images)
    both = _Both(run, reference.original and _runner(reference.original, test_images))
    images = test_images.test.astype(reference.model.inputs[0].dtype)
    tolerance, labels = wider(tolerance, reference.model), test_images.labels
    comparison = compare(both, candidate, images, tolerance, labels, batch_sizes, same_classes)
    if reference.original is not None:
        outcome = both.outcome(" and ".join(half_dtypes(reference.original)), labels, len(images))
        comparison = dataclasses.replace(comparison, accuracy_before=outcome.accuracy, half=outcome)
    if test_images.is_random and comparison.steady:
        both = np.concatenate([images, darker(images)])
        size = batch_sizes[-1]
        parts = [run(both[start : start + size]) for start in range(0, len(both), size)]
        outputs = {
            x.output: np.concatenate([part[x.output] for part in parts]) for x in comparison.steady
        }
        comparison = dataclasses.replace(comparison, steady=steady_outputs(outputs, both))
    return comparison


class _Both:
    """A model in float32, and the model in half precision that it was copied from, if any.

    It gives the outputs of the former, and keeps what their difference is told by.
    """

    def __init__(self, run, run_original):
        self._run, self._run_original = run, run_original
        self._differences, self._classes, self._has_choice = [], [], True

    def __call__(self, images):
        outputs = self._run(images)
        if self._run_original is not None:
            before = self._run_original(images)
            self._differences += [_difference(before[name], x) for name, x in outputs.items()]
            name = class_output(outputs)
            if name is not None:
                columns = [class_columns(x[name]) for x in (before, outputs)]
                self._has_choice = self._has_choice and columns[0].shape[1] > 1
                self._classes.append([x.argmax(-1) for x in columns])
        return outputs

    def outcome(self, dtype, labels, count):
        """Returns the `Half` of the last `count` images, whose batches came last."""
        known = {"dtype": dtype, "difference": max(self._differences), "images": count}
        if not self._classes:
            return Half(**known)
        before, after = np.concatenate(self._classes, axis=1)[:, -count:]
        known["changed"] = int(np.sum(before != after))
        if labels is None or not self._has_choice:
            return Half(**known)
        is_right, is_right_after = before == labels, after == labels
        return Half(
            **known,
            gained=int(np.sum(is_right_after & ~is_right)),
            lost=int(np.sum(is_right & ~is_right_after)),
            accuracy=float(np.mean(is_right)),
        )


def _difference(one, other):
    """Returns the largest difference of two arrays, as a share of the largest value beyond 1."""
    one, other = (np.asarray(x).astype("float64") for x in (one, other))
    return float(np.abs(one - other).max() / max(1.0, np.abs(other).max()))


def darker(images: np.ndarray) -> np.ndarray:
    """Returns images of pixels from 0 to 255 in the unit from 0 to 1; integers become 0 and 1."""
    if np.issubdtype(images.dtype, np.integer):
        return images // 128
    return images / np.asarray(255, images.dtype)


def _runner(reference, test_images):
    """Returns a function from images to the model's outputs, whose errors speak of the images."""

    def run(images):
        try:
            return reference.predict_on_batch(images)
        except Exception as error:  # whatever the model's layers may raise
            raise ValueError(
                "`test_images` must be images on which the model can be computed. "
                f"Received: {test_images}, on which it fails with {_reason(error)}. Give "
                "`test_images` (an `export.images.Images`) of values that the model takes."
            ) from error

    return run


def _reason(error):
    """Returns kind and cause of an error, of which TensorFlow tells a long trace first."""
    lines = [x for x in str(error).splitlines() if x.strip() and not x[0].isspace()]
    if len(lines) > 1 and lines[0].startswith("Graph execution error"):
        return f"{type(error).__name__}: {lines[-1][:200]}"
    return first_line(error)
