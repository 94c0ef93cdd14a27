import numpy as np
import pytest

from kcaps.labels import k_hot


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0],
        [[2], [0]],
        np.array([2.0, 0.0]),
        np.array([2, 0], "uint8"),
        [[0, 0, 1], [1, 0, 0]],
    ],
)
def test_integers_and_matrices_give_the_same(labels):
    np.testing.assert_array_equal(k_hot(labels, 3), [[0, 0, 1], [1, 0, 0]])


def test_several_classes_may_be_present():
    np.testing.assert_array_equal(k_hot([[1, 0, 1]], 3), [[1, 0, 1]])


@pytest.mark.parametrize("shape", [(), (2, 4), (2, 3, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="k-hot matrix of shape"):
        k_hot(np.zeros(shape), 3)
