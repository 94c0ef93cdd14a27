"""The check that an exported file computes what the Keras model computes."""

import dataclasses

import keras
import numpy as np

from export.command import first_line
from kcaps.routing import EMRouting

BATCH_SIZES = (1, 7, 64)
HALF_TOLERANCE = 0.01
EM_TOLERANCE = 1e-4


class ParityError(RuntimeError):
    """An exported file that does not load or does not compute the same."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison: one output at one batch size."""

    output: str
    batch: str
    shape: tuple
    difference: float
    passed: bool

    def __str__(self):
        mark = "✓" if self.passed else "✗"
        shape = "×".join(map(str, self.shape))
        value = f"{self.difference} differ" if self.output == "class" else f"{self.difference:.1e}"
        return f"  {mark} {self.output:<16}{self.batch:<26}{shape:<18}{value}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The rows, and the share of the test images classified rightly before and after export."""

    rows: list
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    @property
    def largest_difference(self):
        return max(row.difference for row in self.rows if row.output != "class")

    @property
    def summary(self):
        """One line: what the comparison gave."""
        text = f"largest difference {self.largest_difference:.1e}"
        if self.accuracy_before is not None:
            before, after = 100 * self.accuracy_before, 100 * self.accuracy_after
            text += f", test accuracy {before:.2f} % before, {after:.2f} % after"
        return text

    def verify(self):
        """Raises a `ParityError` for the first row that did not pass."""
        for row in self.rows:
            if not row.passed and row.output == "class":
                raise ParityError(
                    f"{row.difference} of {row.batch} get another class than in Keras"
                )
            if not row.passed:
                raise ParityError(
                    f"{row.output} differs from Keras by {row.difference:.1e} at {row.batch}, more "
                    "than --tolerance or its precision allows"
                )


def wider(tolerance, model):
    """The tolerance for a model, or a wider one where Keras itself is no more exact.

    That is so in half precision, and with EM routing: its exponents are squares divided by small
    variances, of whose rounding the softmax makes more.
    """
    layers = list(_layers(model))
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers):
        return max(tolerance, HALF_TOLERANCE)
    if any(isinstance(getattr(layer, "routing", None), EMRouting) for layer in layers):
        return max(tolerance, EM_TOLERANCE)
    return tolerance


def _layers(model):
    for layer in model.layers:
        yield layer
        yield from _layers(layer) if isinstance(layer, keras.Model) else ()


def compare(
    reference,
    candidate,
    images,
    tolerance,
    labels=None,
    batch_sizes=BATCH_SIZES,
    same_classes=True,
):
    """Compares names, shapes and values of two models' outputs at several batch sizes.

    The first images are compared at all batch sizes but the last; all images at the last.

    Args:
        reference: Function from images to a dict of arrays: the Keras model.
        candidate: Function from images to a dict of arrays: the exported file.
        images: Images `(n, height, width, channels)`.
        tolerance: Largest absolute difference that passes; for outputs beyond 1, as a share of
            their largest value.
        labels: Classes of the images, or None.
        batch_sizes: Batch sizes; one alone for a file that takes no other.
        same_classes: Whether every image must get the same class. Two classes that Keras itself
            gives the same value, to twice the tolerance, may change places.

    Returns:
        A `Comparison`. With an output of classes, `class_lengths` or a matrix that comes first,
        its last row counts the images whose class differs.

    Raises:
        ParityError: if the names or shapes of the outputs differ.
    """
    rows = []
    for batch in batch_sizes[:-1]:
        part = np.take(images, range(batch), axis=0, mode="wrap")
        expected, received = _outputs(reference, candidate, [part])
        rows += _rows(expected, received, f"batch {batch}", tolerance)
    size = min(batch_sizes[-1], len(images))
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    expected, received = _outputs(reference, candidate, parts)
    rows += _rows(expected, received, f"batch {size}, {len(images):,} images", tolerance)
    name = "class_lengths" if "class_lengths" in expected else next(iter(expected))
    if expected[name].ndim != 2:
        return Comparison(rows)
    before, after = (x[name].argmax(-1) for x in (expected, received))
    changed = before != after
    best = expected[name].max(-1)
    margin = best - np.take_along_axis(expected[name], after[:, None], -1)[:, 0]
    tied = margin <= 2 * tolerance * np.maximum(1.0, np.abs(best))
    passed = not same_classes or not np.any(changed & ~tied)
    count = int(np.sum(changed))
    rows.append(Row("class", f"{len(images):,} images", before.shape, count, bool(passed)))
    if labels is None:
        return Comparison(rows)
    return Comparison(rows, *(float(np.mean(classes == labels)) for classes in (before, after)))


def _outputs(reference, candidate, parts):
    """Outputs of both models over batches of images, as two dicts of arrays."""
    references = [reference(part) for part in parts]
    try:
        candidates = [candidate(part) for part in parts]
    except Exception as error:  # runtimes have no common base for their errors
        raise ParityError(f"the file loads but does not run: {first_line(error)}") from error
    pairs = list(zip(references, candidates, strict=True))
    for part, (expected, received) in zip(parts, pairs, strict=True):
        if set(expected) != set(received):
            raise ParityError(
                f"outputs differ: Keras has {sorted(expected)}, the file has {sorted(received)}"
            )
        for name in expected:
            shapes = expected[name].shape, received[name].shape
            if shapes[0] != shapes[1]:
                raise ParityError(
                    f"shape of {name} differs at batch {len(part)}: Keras gives {shapes[0]}, the "
                    f"file {shapes[1]}"
                )
    return [
        {name: np.concatenate([x[name] for x in side]) for name in side[0]}
        for side in zip(*pairs, strict=True)
    ]


def _rows(expected, received, batch, tolerance):
    rows = []
    for name, value in expected.items():
        value = value.astype("float64")
        scale = max(1.0, np.abs(value).max())
        difference = float(np.abs(value - received[name]).max() / scale)
        passed = difference <= tolerance  # NaN is not
        rows.append(Row(name, batch, value.shape, difference, passed))
    return rows
