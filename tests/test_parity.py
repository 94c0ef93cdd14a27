"""The comparison of an exported file with its model, on functions in their place."""

import keras
import numpy as np
import pytest

from export import parity
from kcaps.layers import DigitCaps
from kcaps.routing import DynamicRouting, EMRouting

IMAGES = np.arange(70.0)[:, None]  # each image is its own number


def same(images):
    return {"a": images}


def capsules(routing, **options):
    return keras.Sequential([keras.Input((4, 3)), DigitCaps(2, 2, routing=routing, **options)])


def test_every_batch_size_and_all_images_are_compared():
    seen = []

    def candidate(images):
        seen.append(images[:, 0].tolist())
        return {"vectors": np.zeros((len(images), 2, 3)), "sums": images + 0.25}

    def reference(images):
        return {"vectors": np.zeros((len(images), 2, 3)), "sums": images}

    rows = parity.compare(reference, candidate, IMAGES[:3], 0.3, same_classes=False).rows
    assert seen == [[0], [0, 1, 2, 0, 1, 2, 0], [0, 1, 2]]
    # beyond 1, the difference is a share of the largest value
    expected = [("batch 1", 1, 0.25), ("batch 7", 7, 0.125), ("batch 3, 3 images", 3, 0.125)]
    assert rows == [
        parity.Row(*row)
        for batch, size, difference in expected
        for row in [
            ("vectors", batch, (size, 2, 3), 0.0, True),
            ("sums", batch, (size, 1), difference, True),
        ]
    ]
    seen.clear()
    report = parity.compare(reference, candidate, np.tile(IMAGES, (20, 1)), 0.3, batch_sizes=(64,))
    assert list(map(len, seen)) == [64] * 21 + [56]
    assert [row.batch for row in report.rows] == ["batch 64, 1,400 images"] * 2
    assert report.rows[0].shape == (1400, 2, 3)


def test_the_tolerance_itself_passes_and_what_is_no_number_does_not():
    for shift, passed in [(0.25, True), (-0.25, True), (0.375, False), (np.nan, False)]:
        report = parity.compare(same, lambda x, s=shift: {"a": x + s}, np.zeros((3, 2)), 0.25)
        assert [row.passed for row in report.rows] == [passed] * 3 + [True]
    # in float64, whatever the outputs are
    halves = (lambda x, s=shift: {"a": np.float16(2000 + s + 0 * x)} for shift in (0, 1))
    report = parity.compare(*halves, np.zeros((3, 2, 2)), 1.0)
    assert [row.difference for row in report.rows] == [1 / 2000] * 3


def test_outputs_that_differ_in_name_or_shape():
    def refused(candidate, message):
        with pytest.raises(parity.ParityError, match=message):
            parity.compare(same, candidate, IMAGES, 1e-5)

    refused(lambda x: {"b": x, "a": x}, r"Keras has \['a'\], the file has \['a', 'b'\]")
    refused(
        lambda x: {"a": np.repeat(x, 1 + (len(x) == 7), 0)},
        r"shape of a differs at batch 7: Keras gives \(7, 1\), the file \(14, 1\)",
    )
    refused(
        lambda x: {"a": x if len(x) != 6 else x[:, 0]},
        r"shape of a differs at batch 6: Keras gives \(6, 1\), the file \(6,\)",
    )
    refused(lambda x: 1 / 0, "the file loads but does not run: ZeroDivisionError: division by zero")


def classes(expected, received, tolerance=0.3, name="class_lengths", **options):
    """Compares models with these rows of values, of which the last batch has all."""

    def model(values):
        values = np.array(values)
        return lambda x: {"other": x, name: values[np.arange(len(x)) % len(values)]}

    images = np.zeros((len(expected), 1))
    return parity.compare(model(expected), model(received), images, tolerance, **options)


def test_another_class_fails_the_comparison():
    report = classes([[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.2, 0.8]])
    assert report.rows[-1] == parity.Row("class", "2 images", (2,), 1, False)
    with pytest.raises(parity.ParityError, match="class_lengths differs from Keras by 8.0e-01 at "):
        report.verify()
    with pytest.raises(parity.ParityError, match="1 of 2 images get another class than in Keras"):
        parity.Comparison(report.rows[-1:]).verify()
    report = classes([[0.9, 0.1]], [[0.1, 0.9]], same_classes=False)
    assert report.rows[-1].passed and report.rows[-1].difference == 1


@pytest.mark.parametrize(
    ("best", "second", "passed"),
    [
        (0.5, 0.25, True),  # twice the tolerance
        (0.5, 0.125, False),
        (-0.5, -0.75, True),
        (4.0, 3.0, True),  # as a share, beyond 1
        (4.0, 2.875, False),
        (-4.0, -5.0, True),
    ],
)
def test_classes_that_keras_gives_the_same_value_may_change_places(best, second, passed):
    report = classes([[-9, best, second]], [[-9, second, best]], tolerance=0.125)
    assert report.rows[-1] == parity.Row("class", "1 images", (1,), 1, passed)
    both = classes([[-9, best, second], [9, 0, 0]], [[-9, second, best], [9, 0, 0]], 0.125)
    assert both.rows[-1].passed == passed  # whatever the values of another image are


def test_one_tie_does_not_excuse_another_image():
    report = classes([[0.5, 0.5], [0.9, 0.1], [0.3, 0.1]], [[0.4, 0.6], [0.1, 0.9], [0.3, 0.1]])
    assert report.rows[-1] == parity.Row("class", "3 images", (3,), 2, False)


def test_the_output_of_classes_and_the_accuracy():
    expected, received = [[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.2, 0.8]]
    report = classes(expected, received, labels=np.array([0, 0]))
    assert (report.accuracy_before, report.accuracy_after) == (0.5, 0.0)
    assert report.rows == classes(expected, received).rows
    report = classes(expected, received, labels=np.array([1, 1]))
    assert (report.accuracy_before, report.accuracy_after) == (0.5, 1.0)
    # without its name, the first output counts, if it is a matrix
    report = classes(expected, received, labels=np.array([0, 0]), name="second")
    assert (report.accuracy_before, report.accuracy_after) == (1.0, 1.0)
    cube = parity.compare(same, same, np.zeros((2, 3, 4)), 0.1, labels=np.array([0, 0]))
    assert len(cube.rows) == 3 and cube.accuracy_before is None and cube.accuracy_after is None
    assert classes(expected, received).accuracy_before is None


def test_what_is_printed():
    rows = [
        parity.Row("capsules", "batch 64, 1,000 images", (1000, 10, 16), 0.000123, True),
        parity.Row("class", "1,000 images", (1000,), 7, False),
    ]
    assert list(map(str, rows)) == [
        "  ✓ capsules        batch 64, 1,000 images    1000×10×16        1.2e-04",
        "  ✗ class           1,000 images              1000              7 differ",
    ]
    comparison = parity.Comparison(rows)
    assert comparison.summary == "largest difference 1.2e-04"  # of values, not of classes
    comparison = parity.Comparison(rows, 0.98765, 0.5)
    assert comparison.summary == (
        "largest difference 1.2e-04, test accuracy 98.77 % before, 50.00 % after"
    )
    parity.Comparison(rows[:1]).verify()
    failed = parity.Row("capsules", "batch 1", (1, 10, 16), 0.5, False)
    with pytest.raises(parity.ParityError) as error:
        parity.Comparison([rows[0], failed, rows[1]]).verify()
    assert str(error.value) == (
        "capsules differs from Keras by 5.0e-01 at batch 1, more than --tolerance or its precision "
        "allows"
    )


@pytest.mark.parametrize(
    ("routing", "dtype", "least"),
    [
        (DynamicRouting(), "float32", 0),
        (EMRouting(), "float32", parity.EM_TOLERANCE),
        (EMRouting(), "mixed_float16", parity.HALF_TOLERANCE),
        (DynamicRouting(), "mixed_float16", parity.HALF_TOLERANCE),
        (DynamicRouting(), "mixed_bfloat16", parity.HALF_TOLERANCE),
    ],
)
def test_wider_where_keras_is_no_more_exact(routing, dtype, least):
    model = capsules(routing, dtype=dtype)
    nested = keras.Sequential([keras.Input((4, 3)), keras.Sequential([model]), keras.layers.ReLU()])
    for tolerance in (1e-9, 0.5):
        assert parity.wider(tolerance, model) == max(tolerance, least)
        assert parity.wider(tolerance, nested) == max(tolerance, least)
