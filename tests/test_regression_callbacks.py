"""Capsule regression with Keras' callbacks and files, and what it shows before the first epoch."""

import csv

import keras
import numpy as np
import pytest
from keras import callbacks, ops
from keras.optimizers.schedules import InverseTimeDecay

from kcaps.regression import CapsuleRegression, SubspaceProjection

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(90, 6)).astype("float32")
Y = np.arange(90) % 3


def make_model(encoder=True, **options):
    layers = keras.Sequential([SubspaceProjection(4)]) if encoder else None
    model = CapsuleRegression(3, 2, encoder=layers)
    model.compile(**{"momentum": 0.9, **options})
    model.adapt(X, Y)
    return model


def fit(callback, epochs=6, model=None, verbose=0, **options):
    model = model or make_model(**options)
    return model, model.fit(
        X, Y, epochs=epochs, verbose=verbose, validation_data=(X, Y), callbacks=[callback]
    )


@pytest.mark.parametrize("update", ["epoch", pytest.param("batch", marks=pytest.mark.long)])
def test_callbacks_lower_the_rate(update):
    plateau = callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=10.0)
    model, history = fit(plateau, update=update, rate=0.8)
    assert history.history["learning_rate"] == [0.8, 0.8, 0.4, 0.2, 0.1, 0.05]
    assert model.rate == 0.025
    assert float(ops.convert_to_numpy(model._trainer.state.rate)) == pytest.approx(0.025)
    scheduler = callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    model, history = fit(scheduler, epochs=3, update=update, rate=0.8)
    assert history.history["learning_rate"] == [0.4, 0.2, 0.1] and model.rate == 0.1


def test_the_rate_that_a_callback_sets_is_used():
    model = make_model(momentum=0.0)
    stop = callbacks.LearningRateScheduler(lambda epoch, rate: 0.0 if epoch else 1.0)
    kernels = []
    watch = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kernels.append(model.kernel))
    before = model.kernel
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[stop, watch])
    assert np.abs(kernels[0] - before).max() > 1e-4
    np.testing.assert_array_equal(kernels[1], kernels[0])
    np.testing.assert_array_equal(kernels[2], kernels[0])


def test_a_schedule_is_not_set_by_callbacks():
    schedule = InverseTimeDecay(1.0, decay_steps=3, decay_rate=1.0)
    model = make_model(update="batch", rate=schedule)
    model.fit(X, Y, epochs=3, verbose=0, batch_size=90)
    assert model.optimizer.learning_rate == pytest.approx(0.5)
    assert model.optimizer.iterations == 3
    scheduler = callbacks.LearningRateScheduler(lambda epoch, rate: rate)
    with pytest.raises(ValueError, match="`rate` can be set from number to number only"):
        fit(scheduler, model=model)


def test_bad_rates_of_callbacks():
    model = make_model()
    for value in (-1.0, float("nan")):
        scheduler = callbacks.LearningRateScheduler(lambda epoch, rate, value=value: value)
        with pytest.raises(ValueError, match="`rate` must be a finite number >= 0"):
            fit(scheduler, model=model)
    model.optimizer.learning_rate = ops.convert_to_tensor(0.5)
    assert model.rate == 0.5
    with pytest.raises(ValueError, match="its optimizer applies no gradients"):
        model.optimizer.apply([])


def test_early_stopping_restores_the_best_weights():
    early = callbacks.EarlyStopping(
        "val_loss", patience=2, min_delta=10.0, restore_best_weights=True
    )
    kernels = []
    model = make_model()
    watch = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kernels.append(model.kernel))
    history = model.fit(X, Y, epochs=9, verbose=0, validation_data=(X, Y), callbacks=[watch, early])
    assert len(history.epoch) == 3
    np.testing.assert_array_equal(model.kernel, kernels[0])


def test_checkpoints(tmp_path):
    model, _ = fit(callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"))
    loaded = keras.saving.load_model(tmp_path / "6.keras")
    np.testing.assert_array_equal(loaded.kernel, model.kernel)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    loaded.fit(X, Y, verbose=0)
    model, _ = fit(
        callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    )
    other = make_model()
    other.load_weights(tmp_path / "6.weights.h5")
    np.testing.assert_array_equal(other.kernel, model.kernel)


def test_logs_and_numbers(tmp_path):
    _, history = fit(callbacks.CSVLogger(tmp_path / "log.csv"))
    with open(tmp_path / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["val_loss"]) for line in lines] == history.history["val_loss"]
    _, history = fit(callbacks.TerminateOnNaN())
    assert len(history.epoch) == 6


class Interrupt(callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options", [{}, {"update": "batch", "rate": InverseTimeDecay(1.0, 3, 1.0)}]
)
def test_a_backup_goes_on_as_if_nothing_had_happened(tmp_path, options):
    whole = make_model(**options)
    whole.fit(X, Y, epochs=6, verbose=0, shuffle=False)
    with pytest.raises(KeyboardInterrupt):
        backup = callbacks.BackupAndRestore(tmp_path / "backup")
        make_model(**options).fit(
            X, Y, epochs=6, verbose=0, shuffle=False, callbacks=[backup, Interrupt()]
        )
    resumed = make_model(**options)
    backup = callbacks.BackupAndRestore(tmp_path / "backup")
    history = resumed.fit(X, Y, epochs=6, verbose=0, shuffle=False, callbacks=[backup])
    assert history.epoch == [3, 4, 5]
    np.testing.assert_array_equal(resumed.kernel, whole.kernel)
    np.testing.assert_array_equal(resumed.velocity, whole.velocity)


def test_a_saved_model_is_without_the_state_of_training(tmp_path):
    import h5py

    model, _ = fit(callbacks.Callback())
    model.save_weights(tmp_path / "m.weights.h5")
    found = []
    with h5py.File(tmp_path / "m.weights.h5") as file:
        file.visit(found.append)
    assert not any("velocity" in name for name in found)


@pytest.mark.tensorflow
def test_tensorboard(tmp_path):
    options = {"histogram_freq": 1, "write_steps_per_second": True, "update_freq": 1}
    for rate in (1.0, InverseTimeDecay(1.0, 3, 1.0)):
        board = callbacks.TensorBoard(tmp_path / str(type(rate).__name__), **options)
        fit(board, update="batch", rate=rate)
        assert list(tmp_path.glob(f"{type(rate).__name__}/train/events*"))


@pytest.mark.parametrize("name", ["m.h5", "m.hdf5"])
def test_formats_that_lose_a_part_are_refused(tmp_path, name):
    model, path = make_model(), tmp_path / name
    for use in (
        lambda: model.save(path),
        lambda: model.save(str(path)),
        lambda: model.load_weights(path),
        lambda: keras.saving.save_model(model, path),
        lambda: keras.Sequential([keras.Input((6,)), model]).save(path),
        lambda: fit(callbacks.ModelCheckpoint(path), model=model),
    ):
        with pytest.raises(ValueError, match=r"`\.keras`"):
            use()
    for use in (model.save_weights, lambda path: keras.saving.save_weights(model, path)):
        with pytest.raises(ValueError, match=r"`\.weights\.h5`"):
            use(path)


def test_formats_that_keep_all(tmp_path):
    model = make_model()
    whole = keras.Sequential([keras.Input((6,)), model])
    for saved, name in ((model, "m.keras"), (whole, "whole.keras")):
        saved.save(tmp_path / name)
        loaded = keras.saving.load_model(tmp_path / name)
        np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    model.save_weights(tmp_path / "m.weights.h5")
    expected = model.kernel
    for name in ("m.keras", "m.weights.h5"):
        model.kernel = np.zeros_like(expected)
        model.load_weights(tmp_path / name)
        np.testing.assert_array_equal(model.kernel, expected)


@pytest.mark.parametrize("verbose", [0, 1, 2, "auto"])
def test_what_fit_shows_before_its_first_epoch(capsys, verbose):
    model = CapsuleRegression(3, 2, encoder=keras.Sequential([SubspaceProjection(4)]))
    model.fit(X, Y, epochs=2, verbose=verbose)
    shown = capsys.readouterr().out
    if verbose == 0:
        assert shown == ""
        return
    before, _, after = shown.partition("Epoch 1/2")
    assert after
    texts = "Measuring second moments", "Encoding 90 examples", "Compiling the steps of EM"
    places = [before.index(text) for text in texts]
    assert places == sorted(places)
    assert ("━" in before) == (verbose != 2)  # the bar
    model.fit(X, Y, epochs=2, verbose=verbose)
    again = capsys.readouterr().out
    assert "Measuring" in again and "Compiling" not in again
    model.adapt(X, Y)
    assert capsys.readouterr().out == ""
    model.fit(X, Y, epochs=2, verbose=verbose)
    assert "Measuring" not in capsys.readouterr().out


def batches_of(size):
    for start in range(0, 90, size):
        yield X[start : start + size], Y[start : start + size]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return list(batches_of(30))[index]


class Iterable:
    """Batches whose number is not known."""

    def __iter__(self):
        return batches_of(30)


@pytest.mark.parametrize(("make", "count"), [(Batches, 3), (Iterable, None)])
def test_the_bar_of_a_stream(capsys, make, count):
    from kcaps.regression.schedule import Progress, number_of_batches

    assert number_of_batches(make(), 4096) == count
    assert number_of_batches(make(), 4096, steps=2) == 2
    assert number_of_batches(X, 40) == 3
    with Progress(1).bar("Looking", count) as observe:
        for batch in batches_of(30):
            observe(batch)
    shown = capsys.readouterr().out
    assert shown.startswith("Looking\n") and shown.endswith("\n") and "3/" in shown
    for verbose in (0, 2):
        with Progress(verbose).bar("Looking", count) as observe:
            assert observe is None
    assert capsys.readouterr().out == "Looking\n"


def test_what_fit_shows_of_a_stream(capsys):
    model = CapsuleRegression(3, 2)
    model.fit(Batches(), epochs=2, verbose=0)
    assert capsys.readouterr().out == ""
    model.fit(Batches(), epochs=2, verbose=1)
    before, _, after = capsys.readouterr().out.partition("Epoch 1/2")
    assert before.startswith("Measuring second moments") and "3/3" in before and after
