"""The comparison of an exported file with its Keras model, on the images that are at hand."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from export.command import first_line
from export.images import Images
from export.parity import BATCH_SIZES, Comparison, compare, wider
from export.variation import steady_outputs


def compare_model(
    reference: keras.Model,
    candidate: Callable,
    test_images: Images,
    tolerance: float,
    batch_sizes: tuple = BATCH_SIZES,
    same_classes: bool = True,
) -> Comparison:
    """Compares an exported file with the Keras model that it should compute.

    Random images may lie outside of what a model was made for, so that all its outputs are at
    their limits: an output is called steady on them only if it is steady on darker ones, too.

    Args:
        reference: The Keras model, of `export.inference.inference_model`.
        candidate: Function from images to a dict of arrays: the exported file.
        test_images: The `export.images.Images` to compare on.
        tolerance, batch_sizes, same_classes: As for `export.parity.compare`; a wider tolerance is
            taken where Keras itself is no more exact.

    Raises:
        ValueError: if the model itself cannot be computed on the images.
        ParityError: if the names or shapes of the outputs differ, or the file does not run.
    """
    run = _runner(reference, test_images)
    images = test_images.test.astype(reference.inputs[0].dtype)
    tolerance, labels = wider(tolerance, reference), test_images.labels
    comparison = compare(run, candidate, images, tolerance, labels, batch_sizes, same_classes)
    if test_images.is_random and comparison.steady:
        both = np.concatenate([images, darker(images)])
        size = batch_sizes[-1]
        parts = [run(both[start : start + size]) for start in range(0, len(both), size)]
        outputs = {
            x.output: np.concatenate([part[x.output] for part in parts]) for x in comparison.steady
        }
        comparison = dataclasses.replace(comparison, steady=steady_outputs(outputs, both))
    return comparison


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
