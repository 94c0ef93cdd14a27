"""Images and labels of every wrong kind: an error before anything is learned from them."""

import keras
import numpy as np
import pytest
from hypothesis import strategies as st

from fuzz import fuzz
from kcaps.layers import CapsuleLength, DigitCaps
from kcaps.models import CapsNet
from kcaps.regression import CapsuleRegression
from pictures_of import data

CLASSES = 3


@st.composite
def examples(draw):
    """Images `(n, 2, 2, 1)` and labels, one thing of which may be wrong; and which one."""
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    size = draw(st.integers(3, 9))
    images, labels = rng.normal(size=(size, 2, 2, 1)), np.arange(size) % CLASSES
    wrong = draw(st.sampled_from(["value", "rank", "empty", "number", "label", "text"]))
    place = draw(st.integers(0, size - 1))
    if wrong == "value":
        images[place] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
    elif wrong == "rank":
        images = draw(st.sampled_from([images[..., 0, 0, 0], images[0, 0, 0, 0]]))
    elif wrong == "empty":
        images, labels = images[:0], labels[:0]
    elif wrong == "number":
        labels = labels[:-1]
    elif wrong == "label":
        labels = labels.astype(draw(st.sampled_from(["int64", "float64"])))
        labels[place] = draw(st.sampled_from([-1, CLASSES, 2**31 - 1]))
    elif wrong == "text":
        images = images.astype(str)
    return images, labels, wrong


@fuzz(20, 200, drawn=examples(), as_adapt=st.booleans())
def test_capsule_regression(drawn, as_adapt):
    images, labels, _ = drawn
    model = CapsuleRegression(CLASSES, 2)
    with pytest.raises(ValueError) as error:
        model.adapt(images, labels) if as_adapt else model.fit(images, labels, verbose=0)
    assert any(word in str(error.value) for word in ("`x`", "`y`", "class"))


def small_capsnet():
    image = keras.Input((2, 2, 1))
    capsules = keras.layers.Reshape((2, 2))(image)
    model = CapsNet(image, CapsuleLength()(DigitCaps(CLASSES, 2, routing="l2")(capsules)))
    model.compile("sgd")
    return model


@fuzz(20, 200, drawn=examples(), as_validation=st.booleans(), column=st.booleans())
def test_labels_of_capsnet(drawn, as_validation, column):
    images, labels, wrong = drawn
    if wrong != "label":
        return
    model = small_capsnet()
    before = model.get_weights()
    labels = labels[:, None] if column else labels
    right = images, np.zeros(len(labels))
    arguments = {"validation_data": (images, labels)} if as_validation else {}
    with pytest.raises(ValueError, match="`y` must hold classes from 0 to 2"):
        model.fit(*(right if as_validation else (images, labels)), verbose=0, **arguments)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_label_in_a_stream_that_is_no_class():
    x, y = np.random.default_rng(0).normal(size=(6, 2, 2, 1)), np.array([0, 1, 2, 0, 1, 7])

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return x, y

    model = CapsuleRegression(CLASSES, 2)
    model.compile(run_eagerly=True)
    model.adapt(x[:5], y[:5])
    before = model.get_weights()
    with pytest.raises(ValueError, match="`y` a number that is no class"):
        model.fit(Batches(), verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@st.composite
def splits(draw):
    """Two splits as a damaged folder of MNIST may give them, and whether one is wrong."""
    images = np.zeros((8, 28, 28, 1), "uint8")
    labels = np.arange(8)
    wrong = draw(st.sampled_from(["dtype", "shape", "empty", "number", "label", "matrix"]))
    if wrong == "dtype":
        images = images.astype(draw(st.sampled_from(["float32", "int64", "bool"])))
    elif wrong == "shape":
        shape = draw(st.sampled_from([(28, 28), (28, 28, 3), (27, 28, 1), (784,), ()]))
        images = np.zeros((8, *shape), "uint8")
    elif wrong == "empty":
        images, labels = images[:0], labels[:0]
    elif wrong == "number":
        labels = labels[: draw(st.integers(0, 7))]
    elif wrong == "label":
        labels = labels.copy()
        labels[draw(st.integers(0, 7))] = draw(st.sampled_from([-1, 10, 255]))
    else:
        labels = labels[:, None]
    damaged, sound = (images, labels), (np.zeros((8, 28, 28, 1), "uint8"), np.arange(8))
    return draw(st.sampled_from([(damaged, sound), (sound, damaged)]))


@fuzz(20, 100, splits=splits(), limit=st.none() | st.integers(2, 8))
def test_data_sets_of_recipes(monkeypatch, capsys, splits, limit):
    names = [str(digit) for digit in range(10)]
    source = {"loader": "tensorflow-datasets"}
    monkeypatch.setattr(data.sources, "read", lambda *args: (*splits, names, source))
    with pytest.raises(SystemExit) as stop:
        data.load("mnist", limit=limit)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
