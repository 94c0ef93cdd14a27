"""Fitting capsule regression: EM's guarantees, options, architectures, and bad data."""

import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.regression import CapsuleRegression, Competition, SubspaceProjection, ThresholdSchedule
from kcaps.regression.competition import ARCHITECTURES
from kcaps.regression.subspace import projections_in

BACKEND = keras.backend.backend()
EAGER = {"run_eagerly": True} if BACKEND == "tensorflow" else {}
NOISE = keras.initializers.RandomNormal(stddev=0.3, seed=3)


def blobs(num_classes=4, num_features=6, size=240, seed=0, spread=1.0):
    """Overlapping Gaussian classes with a constant feature."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, num_features)) * 1.5
    labels = rng.integers(num_classes, size=size)
    labels[:num_classes] = np.arange(num_classes)
    features = centres[labels] + spread * rng.normal(size=(size, num_features))
    features[:, -1] = 1
    return features.astype("float32"), labels


def weights(model):
    return ops.convert_to_numpy(model.competition.kernel)


def fitted(x, y, epochs=5, dims=3, architecture="multiclass", initializer="subspace", **options):
    fit = {
        key: options.pop(key)
        for key in ("sample_weight", "class_weight", "batch_size")
        if key in options
    }
    model = CapsuleRegression(4, dims, architecture, initializer=initializer)
    model.compile(**{**EAGER, **options})
    history = model.fit(x, y, epochs=epochs, verbose=0, **fit)
    return model, history.history


def lambdas(beta, total):
    """λ0 and λ1 by the trapezoidal rule in the integral's logarithmic variable."""
    u = np.linspace(0, 1, 20_001)[1:]
    t = u**3  # nodes where the integrand is steep, near 1, follow from the symmetric half
    t = np.concatenate([t / 2, 1 - t[::-1] / 2])
    power = t ** (total / 2) * np.exp(beta * (t - 1))
    return (
        beta * np.trapezoid(power, t),
        beta * np.trapezoid(power * t, t),
    )


def reference_step(x, y, kernel, threshold, ridge):
    """One EM iteration, example by example, as the paper writes it: `(p, m, d)` to the same."""
    p, m, d = kernel.shape
    total = m * d
    s = x.T @ x + ridge * np.eye(p)
    change = -ridge * kernel
    loss = 0.0
    for example, j in zip(x, y, strict=True):
        mu = np.einsum("p,pid->id", example, kernel)
        squared = (mu**2).sum(1)
        zero, one = lambdas(squared.sum() / 2, total)
        rho = squared / squared.sum()
        probability = zero * rho + (1 - zero) / m
        loss -= np.log(probability[j])
        if np.delete(probability, j).max() / probability[j] <= threshold:
            continue
        for i in range(m):
            g = (one * rho[j] + (1 - one) * (d + 2 * (i == j)) / (total + 2)) / probability[j]
            change[:, i] += (g - 1) * np.outer(example, mu[i])
    step = np.linalg.solve(s, change.reshape(p, -1)).reshape(kernel.shape)
    return step, loss / len(x)


@pytest.mark.parametrize(("threshold", "ridge", "momentum"), [(0, 0, 0), (0.6, 5.0, 0.9)])
def test_iterations_equal_a_plain_loop(threshold, ridge, momentum):
    x, y = blobs(size=60)
    model = CapsuleRegression(4, 3, initializer=NOISE)
    model.compile(threshold=threshold, ridge=ridge, momentum=momentum)
    model.adapt(x, y)
    kernel = weights(model)[0].astype("float64")
    velocity = np.zeros_like(kernel)
    for _ in range(3):
        step, loss = reference_step(x.astype("float64"), y, kernel, threshold, ridge)
        velocity = momentum * velocity + step
        kernel = kernel + velocity
        history = model.fit(x, y, verbose=0).history
        assert history["loss"][0] == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(weights(model)[0], kernel, rtol=1e-3, atol=1e-4)


@pytest.mark.compiled
@pytest.mark.parametrize("seed", range(6))
def test_em_never_lowers_the_likelihood(seed):
    rng = np.random.default_rng(seed)
    num_classes, num_features = rng.integers(2, 6), rng.integers(2, 9)
    x, y = blobs(num_classes, num_features, 120, seed, spread=rng.uniform(0.2, 3))
    architecture = list(ARCHITECTURES)[seed % 3]
    initializer = "subspace" if seed % 2 else keras.initializers.RandomNormal(stddev=0.5, seed=1)
    dims = [int(d) for d in rng.integers(1, 5, size=num_classes)]
    model = CapsuleRegression(int(num_classes), dims, architecture, initializer=initializer)
    model.compile(**EAGER)
    loss = model.fit(x, y, epochs=25, verbose=0).history["loss"]
    assert np.diff(loss).max() < 2e-6 * loss[0]  # rounding of float32
    assert loss[-1] < loss[0]


@pytest.mark.compiled
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_result_does_not_depend_on_batches_or_order(architecture):
    x, y = blobs(size=150)
    order = np.random.default_rng(1).permutation(150)
    options = {"architecture": architecture, "momentum": 0.9, "threshold": 0.5}
    whole, history = fitted(x, y, 8, **options)
    for size in (1, 64, 150):
        if size == 1 and architecture != "multiclass":
            continue
        other, again = fitted(x[order], y[order], 8 if size > 1 else 2, batch_size=size, **options)
        if size == 1:
            whole_2, _ = fitted(x, y, 2, **options)
            np.testing.assert_allclose(weights(other), weights(whole_2), rtol=1e-3, atol=1e-4)
            continue
        np.testing.assert_allclose(weights(other), weights(whole), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(again["loss"], history["loss"], rtol=1e-4)
        assert again["error"] == pytest.approx(history["error"], abs=1e-6)


def datasets(x, y, w):
    """The same data in the other forms that Keras users hold them."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            rows = slice(50 * index, 50 * index + 50)
            return x[rows], y[rows], w[rows]

    forms = [Batches()]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        forms.append(tf.data.Dataset.from_tensor_slices((x, y, w)).batch(40))
    return forms


@pytest.mark.parametrize("architecture", ["multiclass", "all_vs_all"])
def test_streams_give_what_arrays_give(architecture):
    x, y = blobs(size=150)
    w = np.random.default_rng(0).integers(1, 4, size=150).astype("float32")
    options = {"architecture": architecture, "momentum": 0.5}
    expected, history = fitted(x, y, 4, sample_weight=w, **options)
    for data in datasets(x, y, w):
        model = CapsuleRegression(4, 3, architecture)
        model.compile(momentum=0.5)
        received = model.fit(data, epochs=4, verbose=0).history
        np.testing.assert_allclose(weights(model), weights(expected), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(received["loss"], history["loss"], rtol=1e-4)


def test_weights_repeat_examples():
    x, y = blobs(size=80)
    w = np.random.default_rng(0).integers(0, 3, size=80)
    w[:4] = 1
    weighted, history = fitted(x, y, sample_weight=w, ridge=1.0)
    repeated, again = fitted(np.repeat(x, w, 0), np.repeat(y, w), ridge=1.0)
    np.testing.assert_allclose(weights(weighted), weights(repeated), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(history["loss"], again["loss"], rtol=1e-5)
    by_class, _ = fitted(x, y, class_weight={0: 2.0, 3: 0.5})
    same, _ = fitted(x, y, sample_weight=np.array([2.0, 1.0, 1.0, 0.5])[y])
    np.testing.assert_allclose(weights(by_class), weights(same), rtol=1e-4, atol=1e-5)


def test_labels_may_be_one_hot():
    x, y = blobs()
    for architecture in ("multiclass", "all_vs_all"):
        expected, _ = fitted(x, y, architecture=architecture)
        received, _ = fitted(x, np.eye(4)[y], architecture=architecture)
        np.testing.assert_array_equal(weights(received), weights(expected))
    column, _ = fitted(x, y[:, None], architecture="all_vs_all")
    np.testing.assert_array_equal(weights(column), weights(expected))


def test_first_weights_are_the_directions_of_each_class():
    x, y = blobs()
    for architecture in ARCHITECTURES:
        model = CapsuleRegression(4, (1, 4, 2, 3), architecture)
        model.adapt(x, y)
        layer = model.competition
        for n, c in np.ndindex(layer.dims.shape):
            rows = x[np.isin(y, np.flatnonzero(layer.problems.targets[:, n, c]))]
            _, _, directions = np.linalg.svd(rows.astype("float64"), full_matrices=False)
            d = layer.dims[n, c]
            cosines = np.abs(directions[:d] @ weights(model)[n, :, c, :d])
            np.testing.assert_allclose(cosines, np.eye(d), atol=1e-5)


def test_classes_may_differ_in_dimension():
    x, y = blobs()
    for architecture in ARCHITECTURES:
        model, history = fitted(x, y, 20, dims=(1, 4, 2, 3), architecture=architecture)
        kernel, mask = weights(model), model.competition.mask
        assert not np.any(kernel * (1 - mask)) and history["loss"][-1] < history["loss"][0]
        assert mask.sum() == {"multiclass": 10, "one_vs_all": 20, "all_vs_all": 30}[architecture]


def test_ridge_shrinks_weights():
    x, y = blobs()
    sizes = [np.abs(weights(fitted(x, y, 30, ridge=r)[0])).mean() for r in (0.0, 10.0, 1000.0)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.compiled
def test_online_em():
    x, y = blobs(size=600)
    rate = keras.optimizers.schedules.InverseTimeDecay(1.0, decay_steps=10, decay_rate=1.0)
    for architecture in ARCHITECTURES:
        model = CapsuleRegression(4, 3, architecture)
        model.compile(update="batch", rate=rate)
        history = model.fit(x, y, batch_size=50, epochs=6, verbose=0).history
        whole, exact = fitted(x, y, 30, architecture=architecture)
        final = model.evaluate(x, y, verbose=0, return_dict=True)
        assert final["loss"] < 0.6 * history["loss"][0] + 0.4 * exact["loss"][-1]
        assert int(model._trainer.state.updates) == 6 * 12
    endless = ((x[i : i + 50], y[i : i + 50]) for i in itertools.cycle(range(0, 600, 50)))
    model = CapsuleRegression(4, 3)
    model.compile(update="batch", rate=0.5)
    model.adapt(endless, steps=12)
    loss = model.fit(endless, steps_per_epoch=12, epochs=4, verbose=0).history["loss"]
    assert loss[-1] < loss[0]


def test_an_encoder_is_adapted_and_kept_inside(tmp_path):
    rng = np.random.default_rng(0)
    x, y = blobs(num_features=9)
    images = (40 * x.reshape(-1, 3, 3, 1) + 100 + rng.normal(size=(len(x), 3, 3, 1))).clip(0, 255)
    encoder = keras.Sequential([keras.layers.Rescaling(1 / 255), SubspaceProjection(7)])
    model = CapsuleRegression(4, 2, encoder=encoder)
    model.compile(metrics=["accuracy"], momentum=0.5, ridge=0.1, **EAGER)
    data = (images[:200], y[:200])
    history = model.fit(*data, epochs=6, verbose=0, validation_data=(images[200:], y[200:])).history
    assert encoder.layers[1].adapted
    evaluated = model.evaluate(images[200:], y[200:], verbose=0, return_dict=True)
    for name in ("loss", "error", "accuracy"):
        assert evaluated[name] == pytest.approx(history[f"val_{name}"][-1], rel=1e-4)
    assert evaluated["error"] == pytest.approx(1 - evaluated["accuracy"], abs=1e-6)
    predicted = model.predict(images, verbose=0)
    assert predicted.shape == (240, 4)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), predicted)
    assert (loaded.momentum, loaded.ridge) == (0.5, 0.1)
    # what is saved is the model, without what training keeps
    assert len(loaded.weights) == 2
    before = loaded.fit(*data, epochs=2, verbose=0).history["loss"]
    assert before[0] == pytest.approx(model.evaluate(*data, verbose=0)[0], rel=1e-4)
    assert before[1] < before[0]


class Subclassed(keras.Model):
    """An encoder whose layers are found only by calling it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.project = keras.layers.Rescaling(0.5), SubspaceProjection(4)

    def call(self, inputs):
        return self.project(self.scale(inputs))


def branched():
    inputs = keras.Input((3, 3, 1))
    flat = keras.layers.Flatten()(keras.layers.Rescaling(0.5)(inputs))
    both = keras.layers.Concatenate()([flat, keras.layers.Dense(2)(flat)])
    return keras.Model(inputs, SubspaceProjection(4)(both))


def nested():
    inner = keras.Sequential([keras.layers.Rescaling(0.5), SubspaceProjection(6)])
    return keras.Sequential([inner, SubspaceProjection(4)])


@pytest.mark.parametrize("make", [branched, nested, Subclassed])
def test_encoders_of_any_form(tmp_path, make):
    x, y = blobs(num_features=9)
    images = x.reshape(-1, 3, 3, 1)
    encoder = make()
    model = CapsuleRegression(4, 2, encoder=encoder)
    model.compile(**EAGER)
    model.fit(images, y, epochs=2, verbose=0)
    projection = projections_in(encoder)[-1]
    seen = []
    projection.observe = seen.append
    encoder(ops.convert_to_tensor(images))
    projection.observe = None
    _, _, directions = np.linalg.svd(
        ops.convert_to_numpy(seen[0]).reshape(len(x), -1), full_matrices=False
    )
    cosines = np.abs(directions[:4] @ ops.convert_to_numpy(projection.kernel))
    np.testing.assert_allclose(cosines, np.eye(4), atol=1e-4)
    predicted = model.predict(images, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(
        tmp_path / "m.keras", custom_objects={"Subclassed": Subclassed}
    )
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), predicted)


def test_bad_encoders():
    with pytest.raises(ValueError, match="`encoder` must be a Keras layer or model"):
        CapsuleRegression(4, 2, encoder=np.ravel)
    inputs = [keras.Input((3,)), keras.Input((3,))]
    for model in (
        keras.Model(inputs, inputs[0] + inputs[1]),
        keras.Model(inputs[0], inputs[:1] * 2),
    ):
        with pytest.raises(ValueError, match="one input and one output"):
            CapsuleRegression(4, 2, encoder=model)


def test_a_validation_share_is_not_trained_on():
    x, y = blobs()
    model = CapsuleRegression(4, 2)
    model.compile(**EAGER)
    history = model.fit(x, y, validation_split=0.25, epochs=3, verbose=0).history
    part, expected = fitted(x[:180], y[:180], 3, dims=2)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-6)
    assert history["val_loss"][-1] == pytest.approx(
        part.evaluate(x[180:], y[180:], verbose=0)[0], rel=1e-5
    )


def test_threshold_schedule():
    x, y = blobs(spread=2.0)
    model = CapsuleRegression(4, 3)
    model.compile(momentum=0.9, **EAGER)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            velocity = np.abs(ops.convert_to_numpy(self.model._trainer.state.velocity)).max()
            seen.append((self.model.threshold, velocity, weights(self.model)))

    schedule = ThresholdSchedule((0.8, 0.3), (6, 3))
    history = model.fit(
        x[:160],
        y[:160],
        epochs=500,
        verbose=0,
        callbacks=[schedule, Watch()],
        validation_data=(x[160:], y[160:]),
    ).history
    first, second = schedule.rounds
    assert first + second == len(history["loss"])
    assert [threshold for threshold, _, _ in seen] == [0.8] * first + [0.3] * second
    errors = history["val_error"]
    best = int(np.argmin(errors))
    assert schedule.best == errors[best] and schedule.best_epoch == best + 1
    assert model.evaluate(x[160:], y[160:], verbose=0)[1] == pytest.approx(errors[best])
    # a round ends after its patience, and the next starts from the best weights, at rest
    assert first - 1 - int(np.argmin(errors[:first])) == 6
    assert seen[0][1] == seen[first][1] == 0 < seen[1][1]
    start = seen[int(np.argmin(errors[:first])) + 1][2]
    np.testing.assert_array_equal(seen[first][2], start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((((0.5, 0.1), (3,))), "one value for each round. Received: 2 and 1"),
        ((((-0.5,), (3,))), "`thresholds` must be a finite number >= 0"),
        ((((0.5,), (0,))), "`patience` must be a positive integer"),
    ],
)
def test_bad_schedules(arguments, message):
    with pytest.raises(ValueError, match=message):
        ThresholdSchedule(*arguments)


def test_a_schedule_needs_validation_data():
    x, y = blobs()
    model = CapsuleRegression(4, 2)
    with pytest.raises(ValueError, match="needs 'val_error' in the logs"):
        model.fit(x, y, epochs=2, verbose=0, callbacks=[ThresholdSchedule()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "`momentum` must be below 1"),
        ({"threshold": -1}, "`threshold` must be a finite number >= 0"),
        ({"ridge": float("nan")}, "`ridge` must be a finite number >= 0"),
        ({"ridge": 1e300}, "`ridge` must be at most 1e30"),
        ({"update": "step"}, "`update` must be one of 'epoch', 'batch'"),
        ({"rate": -1}, "`rate` must be a finite number >= 0"),
        ({"optimizer": "adam"}, "it takes no `optimizer`"),
        ({"loss": "mse"}, "it takes no `loss`"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        CapsuleRegression(3, 2).compile(**options)


def spoiled(change):
    x, y = blobs()
    x, y = x.copy(), y.copy()
    return change(x, y)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda x, y: (np.where(x == x[3, 0], np.nan, x), y), "`x` must be finite"),
        (lambda x, y: (x, np.where(y == 2, 1, y)), "Received: none of class 2"),
        (lambda x, y: (x, np.zeros_like(y)), "Received: none of class 1, 2, 3"),
        (lambda x, y: (x, y + 1), "integers from 0 to 3, or one-hot rows of 4"),
        (lambda x, y: (x, y + 0.5), "integers from 0 to 3"),
        (lambda x, y: (x, np.ones((len(y), 4))), "or one-hot. Received: other rows"),
        (lambda x, y: (x * 0, y), "must not be zero in all examples"),
        (lambda x, y: (x[:10], y), "differ in length"),
        (lambda x, y: (x[:0], y[:0]), "at least one example"),
        (lambda x, y: (x, None), "`y` must be the labels"),
        (lambda x, y: (None, None), "`x` must be the examples"),
        (lambda x, y: (x.astype(str), y), "`x` must hold numbers. Received: an array of <U"),
        (lambda x, y: (x.astype(object), y), "`x` must hold numbers. Received: an array of object"),
        (lambda x, y: (x, y.astype(str)), "integers from 0 to 3"),
        (lambda x, y: (x[:, 0], y), "must be batches of examples"),
        (lambda x, y: ({"a": x}, None), "must be an array, or batches"),
        (lambda x, y: ([*zip(x, y, strict=True)][:3].__iter__, None), "must be an array, or batch"),
    ],
)
def test_bad_data(data, message):
    x, y = spoiled(data)
    for architecture in ("multiclass", "all_vs_all"):
        model = CapsuleRegression(4, 2, architecture)
        with pytest.raises(ValueError, match=message):
            model.fit(x, y, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": "balanced"}, "`class_weight` must be a dict"),
        ({"class_weight": {0: -1.0}}, "`class_weight` must be a finite number >= 0"),
        ({"validation_split": 1.5}, "`validation_split` must be a number from 0 to below 1"),
        ({"validation_split": -0.1}, "`validation_split` must be a number from 0 to below 1"),
        ({"validation_split": 0.001}, "must leave examples on both sides"),
        ({"validation_data": (np.ones((3, 6)),)}, "`validation_data` must be .* Received: 1 parts"),
        ({"validation_data": ([["a"] * 6], [0])}, "`validation x` must hold numbers"),
    ],
)
def test_bad_arguments_of_fit(options, message):
    with pytest.raises(ValueError, match=message):
        CapsuleRegression(4, 2).fit(*blobs(), verbose=0, **options)


def test_lists_are_arrays():
    x, y = blobs(size=60)
    model = CapsuleRegression(4, 2)
    model.compile(**EAGER)
    data = x.tolist(), y.tolist()
    history = model.fit(*data, validation_data=list(data), verbose=0).history
    assert history["val_loss"][0] == pytest.approx(model.evaluate(x, y, verbose=0)[0], rel=1e-5)


@pytest.mark.tensorflow
def test_a_dataset_that_is_not_batched():
    import tensorflow as tf

    x, y = blobs(num_features=9)
    for data in (x, x.reshape(-1, 3, 3, 1)):
        with pytest.raises(ValueError, match="Call `batch` on a dataset of single examples"):
            CapsuleRegression(4, 2).fit(tf.data.Dataset.from_tensor_slices((data, y)), verbose=0)


def test_the_backup_of_a_schedule_without_a_best_model(tmp_path):
    x, y = blobs(size=60)
    model = CapsuleRegression(4, 2)
    model.compile(**EAGER)
    bad = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(val_error=float("nan"))
    )
    schedule = ThresholdSchedule((0.5,), (9,), backup=tmp_path / "schedule.npz")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[bad, schedule])
    again = ThresholdSchedule((0.5,), (9,), backup=tmp_path / "schedule.npz")
    assert (again.epoch, again.wait, again.best_kernel) == (2, 2, None)
    model.fit(x, y, initial_epoch=2, epochs=3, verbose=0, callbacks=[bad, again])
    assert again.epoch == 3


def test_statistics_that_are_not_finite_leave_the_weights():
    x, y = blobs()
    model = CapsuleRegression(4, 3)
    model.compile(**EAGER)
    model.adapt(x, y)
    before = weights(model)
    with pytest.raises(ValueError, match="A step was not finite.*The weights are those before it"):
        model.fit(1e30 * x, y, verbose=0)  # finite, but not its square
    np.testing.assert_array_equal(weights(model), before)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_features_of_any_scale(scale):
    x, y = blobs()
    expected, _ = fitted(100 * x, y, 20, momentum=0.9)  # from where weights are scaled
    model, history = fitted(scale * x, y, 20, momentum=0.9)
    assert history["error"][-1] < 0.9 * history["error"][0] + 1e-3
    loss = model.evaluate(scale * x, y, verbose=0)[0]
    if scale > 1:
        assert loss == pytest.approx(expected.evaluate(100 * x, y, verbose=0)[0], rel=1e-3)
    with pytest.raises(ValueError, match="The size of features must be from 1e-30 to 1e.30"):
        CapsuleRegression(4, 2).adapt(scale**1.4 * x, y)


def constant(x):
    return np.ones_like(x)


def dependent(x):
    return np.concatenate([x, 2 * x[:, :2]], axis=1)


@pytest.mark.compiled
@pytest.mark.parametrize("change", [constant, dependent])
def test_dependent_inputs_get_a_ridge(change):
    x, y = blobs()
    for architecture in ARCHITECTURES:
        with pytest.warns(UserWarning, match="linearly dependent"):
            model, history = fitted(change(x), y, 20, architecture=architecture)
        assert np.isfinite(weights(model)).all() and history["loss"][-1] < history["loss"][0]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fitted(change(x), y, 2, architecture=architecture, ridge=1.0)


def test_few_examples_of_a_class():
    x, y = blobs(num_features=6)
    keep = np.concatenate([np.flatnonzero(y != 1), np.flatnonzero(y == 1)[:1]])
    for architecture in ARCHITECTURES:
        model, history = fitted(x[keep], y[keep], 20, dims=4, architecture=architecture)
        assert np.isfinite(weights(model)).all() and np.isfinite(history["loss"]).all()
        assert np.all(np.abs(weights(model)).max(axis=1) > 0)  # no component starts at rest


def test_iterators_that_cannot_be_read_twice():
    x, y = blobs()
    once = ((x, y) for _ in range(1))
    for options in ({}, {"steps_per_epoch": 1}):
        with pytest.raises(ValueError, match="can be read more than once"):
            CapsuleRegression(4, 2).fit(once, verbose=0, **options)
    assert len(list(once)) == 1  # nothing was taken
    encoder = keras.Sequential([SubspaceProjection(3)])
    with pytest.raises(ValueError, match="can be read twice"):
        CapsuleRegression(4, 2, encoder=encoder).adapt((x, y) for _ in range(1))


@pytest.mark.skipif(BACKEND == "jax", reason="float64 is off in JAX by default")
def test_double_precision():
    x, y = blobs()
    single, _ = fitted(x, y, 10)
    model = CapsuleRegression(4, 3, dtype="float64")
    model.compile(**EAGER)
    model.fit(x.astype("float64"), y, epochs=10, verbose=0)
    assert weights(model).dtype == np.float64
    np.testing.assert_allclose(weights(model), weights(single), rtol=1e-3, atol=1e-4)
    assert model.predict(x, verbose=0).dtype == np.float64


def test_half_precision_is_kept_out_of_em():
    x, y = blobs()
    expected, _ = fitted(x, y)
    model = CapsuleRegression(4, 3, dtype="mixed_float16")
    model.compile(**EAGER)
    model.fit(x, y, epochs=5, verbose=0)
    np.testing.assert_allclose(weights(model), weights(expected), rtol=1e-4, atol=1e-5)


def test_a_competition_is_trained_by_gradients_too():
    x, y = blobs()
    model = keras.Sequential([keras.Input((6,)), Competition(4, 3)])
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    history = model.fit(x, y, epochs=10, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]


def test_callbacks_see_the_whole_model():
    """Inside `fit` batches are features; what a callback predicts or evaluates are inputs."""
    x, y = blobs(num_features=9)
    images = x.reshape(-1, 3, 3, 1) * 100
    encoder = keras.Sequential([keras.layers.Rescaling(1 / 100), SubspaceProjection(7)])
    model = CapsuleRegression(4, 2, "all_vs_all", encoder=encoder)
    model.compile(**EAGER)
    seen = []

    def look(epoch, logs):
        probabilities = model.predict(images, verbose=0)
        loss = model.evaluate(images, y, verbose=0, return_dict=True)["loss"]
        seen.append((probabilities, loss, logs["val_loss"]))

    callback = keras.callbacks.LambdaCallback(on_epoch_end=look)
    model.fit(images, y, epochs=2, verbose=0, validation_data=(images, y), callbacks=callback)
    for _, loss, expected in seen:
        assert loss == pytest.approx(expected, rel=1e-4)
    after = model.predict(images, verbose=0)
    np.testing.assert_allclose(seen[-1][0], after, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after, ops.convert_to_numpy(model(images)), rtol=1e-4, atol=1e-6)


def test_steps_that_overflow_leave_the_weights():
    x, y = blobs()
    model = CapsuleRegression(4, 2, initializer=NOISE)
    model.compile(update="batch", rate=1e30, **EAGER)
    model.adapt(x, y)
    with pytest.raises(ValueError, match="A step was not finite"):
        model.fit(x, y, epochs=3, verbose=0, batch_size=60)
    assert np.isfinite(weights(model)).all()


def test_online_em_skips_batches_that_are_not_finite():
    x, y = blobs()
    model = CapsuleRegression(4, 2)
    model.compile(update="batch", rate=0.5)
    model.adapt(x, y)
    x[50] = np.nan
    with pytest.raises(ValueError, match="`x` or `sample_weight` has NaN"):
        model.fit(
            ((x[i : i + 40], y[i : i + 40]) for i in (0, 40, 80)), steps_per_epoch=2, verbose=0
        )
    assert np.isfinite(weights(model)).all()


@pytest.mark.parametrize("architecture", ["multiclass", "all_vs_all"])
def test_each_fit_measures_its_data(architecture):
    (x, y), (other, labels) = blobs(size=100), blobs(size=80, seed=5)
    other[:, :2] *= 7
    model, _ = fitted(x, y, 2, architecture=architecture, ridge=1.0, momentum=0.5)
    expected = CapsuleRegression(4, 3, architecture)
    expected.compile(ridge=1.0, momentum=0.5, **EAGER)
    expected.adapt(other, labels)
    expected.competition.kernel.assign(weights(model))
    expected.restart(model.velocity)
    for pair in (model, expected):
        pair.fit(other, labels, epochs=2, verbose=0)
    np.testing.assert_allclose(weights(model), weights(expected), rtol=1e-5, atol=1e-6)
    # what `adapt` has measured stands
    factor = ops.convert_to_numpy(expected._trainer.state.factor)
    expected.fit(x, y, verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(expected._trainer.state.factor), factor)


@pytest.mark.parametrize("update", ["epoch", "batch"])
def test_options_that_change_between_fits(update):
    x, y = blobs()
    model = CapsuleRegression(4, 2)
    model.compile(update=update, rate=0.5, momentum=0.9, ridge=1.0)
    model.fit(x, y, verbose=0)
    model.rate = model.momentum = 0.0
    before = weights(model)
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(weights(model), before)
    model.rate = 1.0
    model.fit(x, y, verbose=0)
    assert np.abs(weights(model) - before).max() > 1e-3
    for name in ("ridge", "update"):
        with pytest.raises(AttributeError):
            setattr(model, name, "another")
    for name, value in [("momentum", 1.0), ("rate", -1.0), ("threshold", "low")]:
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            setattr(model, name, value)
    with pytest.raises(ValueError, match="from number to number only. Give schedules to `compile`"):
        model.rate = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.9)


def test_a_second_fit_checks_its_data():
    x, y = blobs()
    model, _ = fitted(x, y, 1)
    for arguments, message in [
        ((x, y + 97), "integers from 0 to 3"),
        ((x[:, :3], y), r"must have the shape \(n, 6\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.fit(*arguments, verbose=0)
    with pytest.raises(ValueError, match="`sample_weight` must be finite and >= 0"):
        model.fit(x, y, sample_weight=-np.ones(len(x)), verbose=0)
    with pytest.raises(ValueError, match="Received besides: sample_weight"):
        model.fit(iter([(x, y)]), sample_weight=np.ones(len(x)), verbose=0)
    with pytest.raises(ValueError, match="no weights yet. Call `adapt` or `fit` first"):
        CapsuleRegression(4, 2).evaluate(x, y)
    if BACKEND != "jax":  # which warns of its own conversion to float32
        with pytest.raises(ValueError, match="too large for its squares"):
            CapsuleRegression(4, 2).fit(x.astype("float64") * 1e200, y, verbose=0)
