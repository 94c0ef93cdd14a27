"""EM by NumPy: what Keras' loop gives, for every architecture and option."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.regression import CapsuleRegression, ThresholdSchedule
from kcaps.regression.competition import ARCHITECTURES
from kcaps.regression.em import NumPyTraining, probabilities
from kcaps.regression.interpolation import class_probabilities, continued_fraction, namespace
from kcaps.regression.schedule import Convergence

BACKEND = keras.backend.backend()
DTYPES = ["float32"] if BACKEND == "jax" else ["float32", "float64"]  # JAX has no float64 as it is
ACCURACY = {"float32": {"rtol": 2e-3, "atol": 2e-4}, "float64": {"rtol": 1e-9, "atol": 1e-10}}
OPTIONS = [
    {},
    {"momentum": 0.9, "threshold": 0.5, "ridge": 2.0},
    {"threshold": 0.8},
    {"ridge": 0.5, "momentum": 0.5},
]


def blobs(dtype, size=120, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=size)
    y[:4] = np.arange(4)
    x = (rng.normal(size=(4, 6)) * 1.5)[y] + rng.normal(size=(size, 6))
    return x.astype(dtype), y, rng.uniform(0.2, 3.0, size=size)


def pair(x, y, weights, dims=3, architecture="multiclass", **options):
    """A compiled model, and NumPy's training of the same problems."""
    model = CapsuleRegression(4, dims, architecture, dtype=str(x.dtype))
    model.compile(**options)
    model.build((None, x.shape[1]))
    model.built = True
    return model, NumPyTraining(model.competition, (x, y, weights), **options)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("options", OPTIONS)
def test_kernels_and_logs_equal_those_of_keras(dtype, architecture, options):
    x, y, weights = blobs(dtype)
    for given, dims in ((None, 3), (weights, (1, 4, 2, 3))):
        model, training = pair(x, y, given, dims, architecture, **options)
        history = model.fit(x, y, sample_weight=given, epochs=6, verbose=0).history
        logs = [training.iterate() for _ in range(6)]
        assert training.kernel.dtype == dtype
        np.testing.assert_allclose(training.kernel, model.kernel, **ACCURACY[dtype])
        np.testing.assert_allclose(training.velocity, model.velocity, **ACCURACY[dtype])
        for name in ("loss", "error"):
            received = [values[name] for values in logs]
            np.testing.assert_allclose(received, history[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_of_examples_add_up(monkeypatch, architecture):
    x, y, weights = blobs("float64")
    options = {"momentum": 0.9, "threshold": 0.5, "ridge": 1.0, "architecture": architecture}
    _, whole = pair(x, y, weights, **options) if BACKEND != "jax" else numpy_pair(x, y, weights)
    monkeypatch.setattr("kcaps.regression.em._BLOCK", 50)
    _, blocks = pair(x, y, weights, **options) if BACKEND != "jax" else numpy_pair(x, y, weights)
    assert len(blocks._parts) > len(whole._parts)
    for _ in range(4):
        assert blocks.iterate()["loss"] == pytest.approx(whole.iterate()["loss"], rel=1e-10)
    np.testing.assert_allclose(blocks.kernel, whole.kernel, rtol=1e-8, atol=1e-10)


def numpy_pair(x, y, weights):
    """Returns what `pair` does for arrays of float64, which the backend may not have."""
    model = CapsuleRegression(4, 3)
    model.build((None, x.shape[1]))
    return model, NumPyTraining(model.competition, (x, y, weights), momentum=0.9, ridge=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e12])
def test_probabilities_equal_those_of_the_model(dtype, architecture, scale):
    x, y, _ = blobs(dtype)
    model, training = pair(x, y, None, (1, 3, 2, 3), architecture)
    model.kernel = training.kernel
    received = probabilities(model.competition, model.kernel, x * np.asarray(scale, dtype))
    assert received.dtype == dtype
    expected = ops.convert_to_numpy(model(x * np.asarray(scale, dtype)))
    np.testing.assert_allclose(received, expected, rtol=1e-3 if dtype == "float32" else 1e-10)
    np.testing.assert_allclose(received.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_formulas_of_arrays_equal_those_of_tensors(dtype):
    beta = np.logspace(-8, 6, 40).astype(dtype)
    for found, expected in zip(
        continued_fraction(beta, 7), continued_fraction(ops.convert_to_tensor(beta), 7), strict=True
    ):
        assert isinstance(found, np.ndarray) and found.dtype == dtype
        np.testing.assert_allclose(found, ops.convert_to_numpy(expected), rtol=1e-6)


def test_which_namespace_computes():
    array = np.ones(3)
    assert namespace(array, array) is not ops
    assert namespace(ops.convert_to_tensor(array), array) is ops
    assert namespace(array, 1.0) is ops


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rounds_of_falling_threshold_equal_those_of_keras(architecture):
    dtype = DTYPES[-1]
    x, y, weights = blobs(dtype, 160, seed=3)
    model, training = pair(x[:110], y[:110], weights[:110], 2, architecture, momentum=0.9)
    schedules = [ThresholdSchedule((0.8, 0.3, 0.0), (7, 4, 3)) for _ in range(2)]
    held_out = x[110:], y[110:], weights[110:]
    model.fit(
        x[:110],
        y[:110],
        sample_weight=weights[:110],
        validation_data=held_out,
        epochs=300,
        verbose=0,
        callbacks=[schedules[0]],
    )
    count = training.fit(300, [schedules[1]], held_out)
    assert schedules[1].finished and count == sum(schedules[1].rounds)
    assert schedules[0].best == pytest.approx(schedules[1].best, abs=1e-6)
    if dtype == "float64":  # otherwise one example decides the length of a round
        assert schedules[0].rounds == schedules[1].rounds
        np.testing.assert_allclose(training.kernel, model.kernel, rtol=1e-8, atol=1e-9)
    np.testing.assert_array_equal(training.kernel, schedules[1].best_kernel)


def test_the_error_of_ties():
    """Capsules that are all alike tell nothing apart: every class is an error."""
    x, y, _ = blobs("float32")
    _, training = pair(x, y, None)
    training.kernel = np.ones_like(training.kernel)
    assert training.error(x, y) == 1.0 == training.iterate()["error"]
    weights = np.where(y == 0, 1.0, 0.0)
    training.kernel = np.zeros_like(training.kernel)
    training.kernel[:, :, 0] = 1.0
    assert training.error(x, y, weights) == 0.0


@pytest.mark.parametrize("change", ["examples", "ridge"])
def test_steps_that_are_not_finite(change):
    x, y, _ = blobs("float32")
    _, training = pair(x, y, None, ridge=1.0)
    before = training.kernel.copy()
    if change == "examples":
        training._parts = [
            part._replace(features=part.features * np.float32(1e30)) for part in training._parts
        ]
    else:
        training._ridges = np.full_like(training._ridges, np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="A step was not finite"):
            training.iterate()
    np.testing.assert_array_equal(training.kernel, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, np.where(y == 2, 1, y)), "Received: none of class 2"),
        (lambda x, y: (x * 0, y), "must not be zero in all examples"),
        (lambda x, y: (x * np.float32(1e-35), y), "The size of features must be from"),
    ],
)
def test_data_that_em_cannot_use(change, message):
    x, y = change(*blobs("float32")[:2])
    with pytest.raises(ValueError, match=message):
        pair(x, y, None)


class Run:
    """A model whose losses and errors are given."""

    kernel = np.full((1, 2, 2, 1), 3.0)
    stop_training = False


@pytest.mark.parametrize(
    ("losses", "errors", "stops"),
    [
        ([5.0, 4.0, 3.9, 3.9, 3.9, 3.9], [0.5] * 6, 6),  # 3 iterations without an improvement
        ([5.0] * 6, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], None),  # the error falls
        ([5.0, 5.0, 5.0, 6.0, 7.0, 8.0], [0.5] * 6, 4),
        ([5.0, 4.9999, 4.9998, 4.9997, 4.9996, 4.9995], [0.5] * 6, 4),  # below `tol` each
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], [0.5] * 6, None),
        ([5.0, 4.0, 5.0, 3.9, 3.0, 4.0], [0.5, 0.6, 0.5, 0.5, 0.5, 0.5], None),
    ],
)
def test_convergence(losses, errors, stops):
    callback, run = Convergence(tol=0.001, n_iter_no_change=3, penalty=0.0, num_problems=1), Run()
    callback.set_model(run)
    callback.on_train_begin()
    count = None
    for epoch, (loss, error) in enumerate(zip(losses, errors, strict=True)):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"loss": loss, "error": error})
        if run.stop_training and count is None:
            count = epoch + 1
    assert count == stops and callback.finished == (stops is not None)


def test_convergence_counts_the_prior():
    """The likelihood alone falls all the time; with its prior it does not get better."""
    callback, run = Convergence(tol=1e-6, n_iter_no_change=2, penalty=0.5, num_problems=2), Run()
    callback.set_model(run)
    callback.on_train_begin()
    for epoch in range(3):
        run.kernel = np.full((1, 1, 1, 1), np.sqrt(2.0 * epoch))
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"loss": 5.0 - epoch, "error": 0.5})
        assert callback.loss == pytest.approx(2.5)  # of two problems
    assert callback.finished


def test_the_penalised_likelihood_never_falls():
    """By plain EM, whose iterations the criterion watches."""
    x, y, weights = blobs(DTYPES[-1])
    _, training = pair(x, y, weights, ridge=3.0)
    values = []
    for _ in range(30):
        prior = 1.5 * np.sum(np.square(training.kernel)) / weights.sum()
        values.append(training.iterate()["loss"] + prior)
    assert np.diff(values).max() < 1e-6 and values[-1] < values[0]


def test_class_probabilities_stay_tensors():
    """The public functions give the backend's tensors for arrays, as before."""
    assert ops.is_tensor(class_probabilities(np.ones((2, 3, 2), "float32")))
