"""Data of capsule regression in every form and size: what arrays get, or an error that says why."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.regression import CapsuleRegression, SubspaceProjection

BACKEND = keras.backend.backend()


class Column:
    """An array as another library holds it: it can be made one, and has a shape of its own."""

    def __init__(self, values):
        self.values, self.shape = np.asarray(values), np.shape(values)

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)

    def __len__(self):
        return len(self.values)


def pandas_series(values):
    pandas = pytest.importorskip("pandas")
    return pandas.Series(values, index=np.arange(len(values))[::-1])


def torch_tensor(values):
    torch = pytest.importorskip("torch")
    array = np.asarray(values)
    return torch.tensor(array, requires_grad=array.dtype.kind == "f")


FORMS = {
    "list": lambda values: np.asarray(values).tolist(),
    "tuple of rows": lambda values: (
        list(map(tuple, values)) if np.ndim(values) > 1 else list(values)
    ),
    "tensor": ops.convert_to_tensor,
    "torch": torch_tensor,
    "column": Column,
    "pandas": pandas_series,
    "objects": lambda values: np.array(np.asarray(values).tolist(), dtype=object),
}


def blobs(size=80):
    rng = np.random.default_rng(0)
    y = np.arange(size) % 3
    return (rng.normal(size=(3, 6))[y] + 0.5 * rng.normal(size=(size, 6))).astype("float32"), y


def fitted(*data, **options):
    model = CapsuleRegression(3, 2)
    model.compile(momentum=0.5)
    return model, model.fit(*data, epochs=3, verbose=0, **options).history


@pytest.mark.compiled
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", ["integers", "column", "one-hot", "floats"])
def test_labels_in_any_form(form, labels):
    x, y = blobs()
    values = {
        "integers": y,
        "column": y[:, None],
        "one-hot": np.eye(3)[y],
        "floats": y.astype("float32"),
    }[labels]
    if form == "pandas" and values.ndim > 1:
        pytest.skip("a Series has one axis")
    make = FORMS[form]
    model, expected = fitted(x, values, validation_data=(x[:30], values[:30]))
    received_model, received = fitted(x, make(values), validation_data=(x[:30], make(values[:30])))
    assert received == expected
    np.testing.assert_array_equal(received_model.kernel, model.kernel)
    adapted = CapsuleRegression(3, 2)
    adapted.adapt(x, make(values))
    assert adapted.evaluate(x, make(values), verbose=0) == adapted.evaluate(x, values, verbose=0)
    assert adapted.test_on_batch(x, make(values)) == adapted.test_on_batch(x, values)


@pytest.mark.parametrize("form", ["list", "tensor", "torch", "column"])
def test_inputs_and_weights_in_any_form(form):
    x, y = blobs()
    weights, make = np.linspace(1, 2, len(x)).astype("float32"), FORMS[form]
    model, expected = fitted(x, y, sample_weight=weights, validation_data=(x, y, weights))
    same, received = fitted(
        make(x), y, sample_weight=make(weights), validation_data=[make(x), y, make(weights)]
    )
    for name, values in expected.items():
        np.testing.assert_allclose(received[name], values, rtol=1e-6)
    np.testing.assert_allclose(same.kernel, model.kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(same.predict(make(x), verbose=0), same.predict(x, verbose=0))
    np.testing.assert_allclose(
        ops.convert_to_numpy(same.predict_on_batch(make(x))), same.predict(x, verbose=0), rtol=1e-5
    )


BAD_LABELS = {
    "text": np.array(["a", "b", "c"])[blobs()[1]],
    "digits as text": blobs()[1].astype(str),
    "missing": np.where(blobs()[1] == 1, np.nan, blobs()[1]),
    "none": np.where(blobs()[1] == 1, None, blobs()[1]),
    "too large": blobs()[1] + 1,
    "negative": blobs()[1] - 1,
    "fractions": blobs()[1] + 0.5,
    "rows": np.ones((80, 3)),
    "four columns": np.ones((80, 4)),
    "too few": blobs()[1][:-1],
    "number": np.array(2),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
@pytest.mark.parametrize("form", [None, "list", "tensor", "column", "pandas"])
def test_labels_that_are_none(kind, form):
    """The same error whatever holds them, and wherever they are given; the weights stay."""
    (x, y), values = blobs(), BAD_LABELS[kind]
    if form == "tensor" and values.dtype.kind in "OU":
        pytest.skip("tensors hold numbers")
    if form == "pandas" and values.ndim != 1:
        pytest.skip("a Series has one axis")
    bad = values if form is None else FORMS[form](values)
    model, _ = fitted(x, y)
    before = model.kernel
    for use, name in [
        (lambda: model.fit(x, bad, verbose=0), "y"),
        (lambda: model.fit(x, y, validation_data=(x, bad), verbose=0), "validation y"),
        (lambda: model.evaluate(x, bad, verbose=0), "y"),
        (lambda: model.test_on_batch(x, bad), "y"),
        (lambda: CapsuleRegression(3, 2).fit(x, bad, verbose=0), "y"),
        (lambda: CapsuleRegression(3, 2).adapt(x, bad), "y"),
    ]:
        with pytest.raises(ValueError, match=f"`{name}`|differ in length"):
            use()
    np.testing.assert_array_equal(model.kernel, before)


def images(size=60):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 3, 4, 1)).astype("float32"), np.arange(size) % 3


def projected():
    return keras.Sequential([keras.layers.Rescaling(0.5), SubspaceProjection(5)])


def convolved():
    layers = keras.layers
    return keras.Sequential([layers.Conv2D(2, 2), layers.GlobalAveragePooling2D()])


X, IMAGES = blobs(60)[0], images()[0]
SIZES = {
    "features": (
        lambda: None,
        X,
        [X[:, :5], np.hstack([X, X]), X[:, :0], X[0], X[:, :, None][:, :4]],
    ),
    "projection": (
        projected,
        IMAGES,
        [IMAGES[:, :2], IMAGES.reshape(60, 12), np.hstack([IMAGES] * 2)],
    ),
    "convolution": (
        convolved,
        IMAGES,
        [IMAGES[:, :2], np.concatenate([IMAGES] * 2, -1), IMAGES[0]],
    ),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("later", [False, True])
def test_inputs_of_another_size(name, later):
    """On the first call, and after calls with sizes that are right."""
    make, right, wrong = SIZES[name]
    y = np.arange(60) % 3
    model = CapsuleRegression(3, 2, encoder=make())
    model.fit(right, y, verbose=0)
    if later:
        for size in (60, 32, 7):
            model.predict(right[:size], verbose=0)
            model.predict_on_batch(right[:size])
            model.evaluate(right[:size], y[:size], verbose=0)
    for x in wrong:
        labels = y[: len(x)]
        for use in (
            lambda x=x: model.predict(x, verbose=0),
            lambda x=x: model.predict_on_batch(x),
            lambda x=x: model(x),
            lambda x=x: model.means(x),
            lambda x=x, labels=labels: model.evaluate(x, labels, verbose=0),
            lambda x=x, labels=labels: model.test_on_batch(x, labels),
            lambda x=x, labels=labels: model.fit(x, labels, verbose=0),
        ):
            sizes = ", ".join(map(str, right.shape[1:]))
            with pytest.raises(ValueError, match=rf"must have the shape \(n, {sizes}\)") as error:
                use()
            assert str(x.shape) in str(error.value)
    assert model.predict(right, verbose=0).shape == (60, 3)  # nothing is spoiled


@pytest.mark.compiled
@pytest.mark.parametrize("name", SIZES)
def test_batches_of_another_size(name):
    """In streams, of which the right ones came first."""
    make, right, wrong = SIZES[name]
    y = np.arange(60) % 3
    model = CapsuleRegression(3, 2, encoder=make())
    model.fit(right, y, verbose=0)

    class Batches(keras.utils.PyDataset):
        def __init__(self, *parts):
            super().__init__()
            self.parts = parts

        def __len__(self):
            return len(self.parts)

        def __getitem__(self, index):
            return self.parts[index], y[: len(self.parts[index])]

    expected = model.predict(right, verbose=0)
    for x in [part for part in wrong if part.ndim > 1]:
        for parts in ((x,), (right, x), (right[:7], right, x)):
            with pytest.raises(ValueError, match="shape|rank"):
                model.predict(Batches(*parts), verbose=0)
            with pytest.raises(ValueError, match="shape|rank"):
                model.evaluate(Batches(*parts), verbose=0)
        received = model.predict(Batches(right), verbose=0)
        np.testing.assert_allclose(received, expected, rtol=1e-5)


def test_shapes_that_hold_the_same_numbers():
    x, y = images()
    for encoder in (None, projected()):
        model = CapsuleRegression(3, 2, encoder=encoder)
        model.fit(x, y, verbose=0)
        expected = model.predict(x, verbose=0)
        received = model.predict(x[..., 0], verbose=0)  # an axis of one is no size
        np.testing.assert_allclose(received, expected, rtol=1e-6)
        model.evaluate(x[..., 0], y, verbose=0)
    model = CapsuleRegression(3, 2)
    model.fit(x, y, verbose=0)
    flat = model.predict(x.reshape(60, 12), verbose=0)  # as inputs are flattened
    np.testing.assert_array_equal(flat, model.predict(x, verbose=0))


def test_images_of_any_size():
    """Axes whose size an encoder leaves open take any."""
    inputs = keras.Input((None, None, 1))
    encoder = keras.Model(
        inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 2)(inputs))
    )
    x, y = images()
    model = CapsuleRegression(3, 2, encoder=encoder)
    model.build((None, None, None, 1))
    model.built = True
    model.fit(x, y, verbose=0)
    for other in (x, np.concatenate([x, x], 1), x[:, :2]):
        assert model.predict(other, verbose=0).shape == (60, 3)
    with pytest.raises(ValueError, match=r"must have the shape \(n, None, None, 1\)"):
        model.predict(np.concatenate([x, x], -1), verbose=0)


@pytest.mark.skipif(BACKEND == "jax", reason="float64 is off in JAX by default")
def test_double_precision_is_kept():
    """Keras reads arrays as float32, and some of its functions compute in it on PyTorch."""
    x, y = blobs()
    exact = x.astype("float64") + 1e-9 * np.arange(6)
    for architecture in ("multiclass", "one_vs_all", "all_vs_all"):
        kernels = []
        for data in (exact, exact.astype("float32")):
            model = CapsuleRegression(3, 2, architecture, dtype="float64")
            model.fit(data, y, epochs=3, verbose=0)
            kernels.append(model.kernel)
        assert 1e-12 < np.abs(kernels[1] - kernels[0]).max() < 1e-4


def test_training_on_batches():
    x, y = blobs()
    model = CapsuleRegression(3, 2)
    model.compile()
    with pytest.raises(ValueError, match='`update` must be "batch" for `train_on_batch`'):
        model.train_on_batch(x, y)
    model.compile(update="batch", rate=0.5)
    with pytest.raises(ValueError, match="Call `adapt` or `fit` first"):
        model.train_on_batch(x, y)
    model.adapt(x, y)
    losses = [model.train_on_batch(x, y.tolist(), return_dict=True)["loss"] for _ in range(4)]
    assert np.isfinite(losses).all()
    before = model.kernel
    model.train_on_batch(x, y, class_weight={0: 2.0})
    assert np.abs(model.kernel - before).max() > 0
    with pytest.raises(ValueError, match="`y` must be integers"):
        model.train_on_batch(x, y + 7)
