"""The check that an exported file computes what the Keras model computes."""

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np

from export import variation
from export.command import first_line
from export.errors import ParityError
from export.half import Half, half_dtypes
from export.outputs import class_columns, class_output
from kcaps.routing import EMRouting

BATCH_SIZES = (1, 7, 64)
HALF_TOLERANCE = 0.01
EM_TOLERANCE = 1e-4
# Outputs below this are no longer relative numbers: their squares leave float32's range, and
# runtimes differ in whether they make zeros of them.
_LEAST_SCALE = 1e-15


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison: one output at one batch size.

    Args:
        output: Name of the output, or `"class"` for the count of images with another class.
        batch: Batch size, and number of images.
        shape: Shape of the output.
        difference: Largest absolute difference; for outputs beyond 1, as a share of their largest
            value. The count, in the row of classes.
        passed: Whether the row meets its tolerances.
        relative: Largest difference as a share of the output's largest value over all images, or
            None where all of them are zero.
    """

    output: str
    batch: str
    shape: tuple
    difference: float
    passed: bool
    relative: float | None = dataclasses.field(default=None, compare=False)

    def __str__(self):
        mark = "✓" if self.passed else "✗"
        shape = "×".join(map(str, self.shape))
        value = f"{self.difference} differ" if self.output == "class" else f"{self.difference:.1e}"
        value += f", relative {self.relative:.1e}" if self.relative is not None else ""
        return f"  {mark} {self.output:<16}{self.batch:<26}{shape:<18}{value}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison: a list of `Row`, and the steady outputs of the model.

    The accuracies are the shares of the test images that Keras and the file classify rightly, or
    None. Where the file was exported from a float32 copy of a model in half precision, the rows
    are differences to that copy, `accuracy_before` is that of the model itself, and `half` tells
    how the two differ.
    """

    rows: list
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    steady: tuple = ()
    half: Half | None = None

    @property
    def largest_difference(self) -> float:
        return max(row.difference for row in self.rows if row.output != "class")

    @property
    def largest_relative_difference(self) -> float | None:
        """The largest relative difference of all outputs, or None where they are zero."""
        return max((row.relative for row in self.rows if row.relative is not None), default=None)

    @property
    def warnings(self) -> list[str]:
        """Lines on what a user should look at: steady outputs, and another accuracy in float32."""
        lines = [variation.warning(self.steady)] if self.steady else []
        if self.half is not None and self.half.warning is not None:
            lines.append(self.half.warning)
        return lines

    @property
    def differences(self) -> str:
        """The largest difference, absolute and relative."""
        relative = self.largest_relative_difference
        relative = "" if relative is None else f", relative {relative:.1e}"
        return f"largest difference {self.largest_difference:.1e}{relative}"

    @property
    def summary(self) -> str:
        """The differences and accuracies, in one line."""
        text = self.differences
        if self.accuracy_before is not None:
            before, after = 100 * self.accuracy_before, 100 * self.accuracy_after
            dtype = f" (Keras in {self.half.dtype})" if self.half is not None else ""
            text += f", test accuracy {before:.2f} % before{dtype}, {after:.2f} % after"
        return text

    def verify(self) -> None:
        """Raises a `ParityError` for the first row that did not pass."""
        for row in self.rows:
            if not row.passed and row.output == "class":
                raise ParityError(
                    f"{row.difference} of {row.batch} get another class than in Keras"
                )
            if not row.passed:
                share = f", {row.relative:.1e} of its largest value" if row.relative else ""
                raise ParityError(
                    f"{row.output} differs from Keras by {row.difference:.1e} at {row.batch}"
                    f"{share}, more than --tolerance or its precision allows"
                )


def wider(tolerance: float, model: keras.Model) -> float:
    """Returns the tolerance for a model, or a wider one where Keras itself is no more exact.

    That is so in half precision, and with EM routing: its exponents are squares divided by small
    variances, of whose rounding the softmax makes more.
    """
    if half_dtypes(model):
        return max(tolerance, HALF_TOLERANCE)
    if any(isinstance(getattr(layer, "routing", None), EMRouting) for layer in _layers(model)):
        return max(tolerance, EM_TOLERANCE)
    return tolerance


def relative_limit(tolerance: float) -> float:
    """Returns the largest relative difference that passes, for a tolerance: 1e-3 for 1e-5.

    A difference of 1e-5 is all there is of an output that never exceeds 1e-5. In float32, rounding
    leaves a relative difference of about 1e-6 whatever the size of the outputs, 3e-5 with EM
    routing, and in half precision 1e-3 to 1e-2: the limit is far above, and far below 1, which a
    file of zeros has. Integers of 8 bits are judged by their accuracy.
    """
    return min(100 * tolerance, math.sqrt(tolerance))


def _layers(model):
    for layer in model.layers:
        yield layer
        yield from _layers(layer) if isinstance(layer, keras.Model) else ()


def compare(
    reference: Callable,
    candidate: Callable,
    images: np.ndarray,
    tolerance: float,
    labels: np.ndarray | None = None,
    batch_sizes: tuple = BATCH_SIZES,
    same_classes: bool = True,
) -> Comparison:
    """Compares names, shapes and values of two models' outputs at several batch sizes.

    The first images are compared at all batch sizes but the last; all images at the last.

    Args:
        reference, candidate: Functions from images to a dict of arrays: model and exported file.
        images: Images `(n, height, width, channels)`.
        tolerance: Largest absolute difference that passes; for outputs beyond 1, as a share of
            their largest value. Relative to the largest value of an output over all images, its
            `relative_limit` passes.
        labels: Classes of the images, or None.
        batch_sizes: Batch sizes; one alone for a file that takes no other.
        same_classes: Whether every image must get the same class. Two classes that Keras itself
            gives the same value, to twice the tolerance, may change places.

    Returns:
        A `Comparison`. With an output of classes, `class_lengths` or a matrix that comes first,
        its last row counts the images whose class differs.

    Raises:
        ValueError: if a label is none of the classes.
        ParityError: if the names or shapes of the outputs differ.
    """
    size = min(batch_sizes[-1], len(images))
    batches = {
        f"batch {batch}": [np.take(images, range(batch), axis=0, mode="wrap")]
        for batch in batch_sizes[:-1]
    }
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    batches = [*batches.items(), (f"batch {size}, {len(images):,} images", parts)]
    outputs = [(title, *_outputs(reference, candidate, parts)) for title, parts in batches]
    _, expected, received = outputs[-1]
    largest = {name: np.abs(value.astype("float64")).max() for name, value in expected.items()}
    rows = [row for output in outputs for row in _rows(*output, tolerance, largest)]
    steady = variation.steady_outputs(expected, images)
    name = class_output(expected)
    if name is None:
        return Comparison(rows, steady=steady)
    values, others = (class_columns(x[name]) for x in (expected, received))
    before, after = values.argmax(-1), others.argmax(-1)
    rows.append(_class_row(values, before, after, tolerance, same_classes))
    if labels is None or values.shape[1] == 1:  # one class for all images is no classification
        return Comparison(rows, steady=steady)
    _check_labels(np.asarray(labels), values.shape[1])
    shares = [np.mean(x == labels) for x in (before, after)]
    return Comparison(rows, *map(float, shares), steady)


def _check_labels(labels, count):
    """Refuses labels that are no classes: every one of them would count as told wrong."""
    others = labels[(labels < 0) | (labels >= count)]
    if len(others):
        raise ValueError(
            f"`labels` of the test images must be classes from 0 to {count - 1}. Received: "
            f"{len(others):,} other numbers, such as {others[0]}. Number the classes from 0, or "
            "leave labels of another kind out."
        )


def _class_row(values, before, after, tolerance, same_classes):
    """Returns the row that counts the images whose class differs."""
    changed = before != after
    best = values.max(-1)
    margin = best - np.take_along_axis(values, after[:, None], -1)[:, 0]
    tied = margin <= 2 * tolerance * np.maximum(1.0, np.abs(best))
    passed = not same_classes or not np.any(changed & ~tied)
    images = f"{len(values):,} images"
    return Row("class", images, before.shape, int(np.sum(changed)), bool(passed))


def _outputs(reference, candidate, parts):
    """Returns the outputs of both models over batches of images, as two dicts of arrays."""
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


def _rows(batch, expected, received, tolerance, largest):
    """Returns the rows of all outputs at one batch size."""
    rows = []
    for name, value in expected.items():
        value = value.astype("float64")
        difference = float(np.abs(value - received[name]).max())
        relative = difference / max(largest[name], _LEAST_SCALE) if largest[name] else None
        share = difference / max(1.0, float(np.abs(value).max()))
        passed = share <= tolerance  # NaN is not
        if relative is not None:
            relative = float(relative)
            passed = passed and relative <= relative_limit(tolerance)
        rows.append(Row(name, batch, value.shape, share, bool(passed), relative))
    return rows
