"""Options of training: each changes what it says, and a run goes on with them bit for bit."""

import dataclasses
import json
import math
import sys

import keras
import numpy as np
import pytest

from harness import checkpoints, optimizers, progress, run_folder, schedules, stopping, training
from harness.network_settings import NetworkSettings
from kcaps import losses
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from networks import capsnets, presets
from programs import recipe_here, refused


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """The default folder of a run, `ckpt/`, is not the one that `make demo` leaves in a clone."""
    monkeypatch.chdir(tmp_path)


def settings_of(monkeypatch, *words, data_set="cifar10"):
    monkeypatch.setattr(sys, "argv", ["recipes/tiny.py", *map(str, words)])
    return training.begin("A tiny recipe.", NetworkSettings, data_set=data_set)


def tiny_network(shape=(8, 8, 1), routing="l2"):
    image = keras.Input(shape, name="image")
    x = keras.layers.Conv2D(4, 3, strides=2)(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.BatchNormalization()(x)
    capsules = PrimaryCaps(2, 4, kernel_size=3)(x)
    return CapsNet(image, CapsuleLength()(DigitCaps(10, 4, routing=routing)(capsules)))


def values(variables):
    return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]


def run(monkeypatch, output, *words, routing="l2", callback=None):
    """Trains a tiny network on generated images by the options of a command line."""
    words = ("--synthetic", "--limit", 60, "--batch-size", 16, "--output", output, *words)
    settings = settings_of(monkeypatch, *words, data_set="digits")
    images = settings.load_images("digits")
    model = tiny_network(routing=routing)
    settings.compile(model, images.train[0])
    if callback:
        made = training._callbacks
        with monkeypatch.context() as patch:
            patch.setattr(training, "_callbacks", lambda *args: [*made(*args), callback])
            training.train(model, images, settings.run, settings.change(images))
    else:
        training.train(model, images, settings.run, settings.change(images))
    return model


def test_defaults_are_those_of_the_table(monkeypatch):
    for key, expected in presets.TRAININGS.items():
        data_set, network, *preset = key
        words = () if data_set == "digits" else ("--network", network)
        words += ("--preset", *preset) if preset else ()
        settings = settings_of(monkeypatch, *words, data_set=data_set)
        for name, value in dataclasses.asdict(expected).items():
            value = list(value) if isinstance(value, tuple) else value
            assert getattr(settings, name) == value, (key, name)
            # A run goes on with the values, not with the names that they came of.
            if name != "epochs":
                assert settings.run.arguments[name] == value
    assert set(presets.DEFAULT_NETWORKS) == {data_set for data_set, *_ in presets.TRAININGS}
    for data_set, network in presets.DEFAULT_NETWORKS.items():
        assert settings_of(monkeypatch, data_set=data_set).network == network
    assert settings_of(monkeypatch, "--preset", "best").widths == [128, 384, 384]


def test_an_option_replaces_a_value_of_the_table(monkeypatch):
    words = ("--network=reference", "--optimizer", "sgd", "--augment", "shift", "cutout")
    settings = settings_of(monkeypatch, *words, "--cutout-size", 3, "--epochs", 7)
    table = presets.training_of("cifar10", "reference")
    assert settings.network == "reference" and settings.schedule == table.schedule
    # A rate of Adam is none of SGD.
    assert settings.learning_rate == 0.1 and settings.weight_decay == 5e-4
    assert settings.augment == ["shift", "cutout"] and settings.cutout_size == 3
    assert settings.epochs == 7 and settings.batch_size == table.batch_size
    settings = settings_of(monkeypatch, "--optimizer", "adamw", "--learning-rate", 0.5)
    assert settings.learning_rate == 0.5 and settings.weight_decay == 0.004
    assert settings_of(monkeypatch, "--loss", "margin").label_smoothing == 0
    assert settings_of(monkeypatch).label_smoothing > 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "--preset best --network reference",
            "--preset best is of --network deep. Received: reference.",
        ),
        ("--loss margin --label-smoothing 0.1", "this --loss has no smoothed labels"),
        ("--label-smoothing 0.1 --loss=spread", "Received: --label-smoothing 0.1."),
        ("--label-smoothing 1", "must be >= 0 and < 1, received 1"),
        ("--optimizer adam --momentum 0.9", "--optimizer sgd alone takes it"),
        ("--optimizer lion", "argument --optimizer: invalid choice: 'lion'"),
        ("--schedule constant --final-rate 0.1", "--schedule linear and cosine alone have it"),
        ("--decay-steps 9", "--schedule exponential alone has them"),
        ("--warm-up -0.1", "argument --warm-up: must be >= 0 and < 1, received -0.1"),
        ("--average-weights 1", "argument --average-weights: must be >= 0 and < 1"),
        ("--weight-decay -1", "argument --weight-decay: must be >= 0"),
        ("--augment none shift", "--augment none goes with no other. Received: none shift."),
        ("--augment mirror --max-shift 3", "--augment has no shift"),
        ("--cutout-size 3 --augment mirror", "--augment has no cutout"),
        ("--augment turn", "argument --augment: invalid choice: 'turn'"),
        ("--early-stopping -1", "argument --early-stopping: must be >= 0"),
        ("--network reference --widths 1 2", "--network deep alone has blocks"),
        ("--routing dynamic --routing-rate 1", "--routing l1 and l2 alone have coefficients"),
        ("--penalty-weight 1", "--routing l1 and l2 alone have coefficients"),
        ("--no-decoder", "this --network has none"),
        ("--validation-share 0", "must be > 0 and < 1, received 0"),
        ("--preset good", "argument --preset: invalid choice: 'good'"),
    ],
)
def test_options_that_do_not_fit(monkeypatch, tmp_path, capsys, words, line):
    assert line in refused(capsys, lambda: settings_of(monkeypatch, *words.split()))
    assert not list(tmp_path.iterdir())


def test_data_sets_with_one_network(monkeypatch, capsys):
    words = ("--network", "deep")
    line = refused(capsys, lambda: settings_of(monkeypatch, *words, data_set="digits"))
    assert "--network must be left out: digits has one network" in line
    words = ("--preset", "best")
    line = refused(capsys, lambda: settings_of(monkeypatch, *words, data_set="mnist"))
    assert "--preset must be left out: mnist has one preset" in line


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("warm_up", [0.0, 0.25])
@pytest.mark.parametrize("name", schedules.NAMES)
def test_schedules_against_closed_formulas(name, warm_up):
    rate, steps, final = 0.8, 200, 0.1
    schedule = schedules.of(name, rate, steps, warm_up=warm_up, final_rate=final, decay_steps=30)
    before = round(warm_up * steps)
    if name == "constant" and not warm_up:
        assert schedule == rate
        return
    places = range(0, steps + 20, 7)
    expected = []
    for step in places:
        since = max(step - before, 0)
        part = min(since / (steps - before), 1)
        value = {
            "constant": rate,
            "exponential": rate * 0.96 ** (since / 30),
            "linear": rate * (final + (1 - final) * (1 - part)),
            "cosine": rate * (final + (1 - final) * (1 + math.cos(math.pi * part)) / 2),
        }[name]
        expected.append(min((step + 1) / (before + 1), 1) * value)
    np.testing.assert_allclose(rates(schedule, places), expected, rtol=2e-5)
    assert float(schedule(0)) > 0


def test_coefficients_follow_the_schedule_and_have_their_penalty(monkeypatch, tmp_path):
    words = ("--routing", "l1", "--routing-rate", 0.01, "--penalty-weight", 0.3, "--warm-up", 0.1)
    words = ("--synthetic", "--limit", 60, *words, "--schedule", "cosine", "--no-decoder")
    settings = settings_of(monkeypatch, *words, data_set="digits")
    images = settings.load_images("digits")
    model = capsnets.build(settings, images.shape, images.num_classes)
    settings.compile(model, images.train[0])
    assert model.decoder is None and model.class_layer.routing.penalty_weight == 0.3
    places = range(0, 60, 7)
    both = model.optimizer._learning_rate, model.routing_optimizer._learning_rate
    ours, theirs = (rates(each, places) for each in both)
    np.testing.assert_allclose(theirs, np.multiply(ours, 0.01 / settings.learning_rate), rtol=1e-5)
    # A program that does not know the warm-up loads it.
    checkpoints.write_model(model, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.routing_optimizer.get_config()["learning_rate"]["class_name"] == "CosineDecay"
    assert isinstance(model.routing_optimizer._learning_rate, schedules.WarmUp)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_last_images_are_for_validation(monkeypatch, share):
    words = ("--synthetic", "--limit", 60, "--validation-share", share)
    images = settings_of(monkeypatch, *words, data_set="digits").load_images("digits")
    assert len(images.validation[1]) == round(60 * share)
    whole = np.concatenate([images.train[1], images.validation[1]])
    everything = settings_of(monkeypatch, *words[:3], data_set="digits").load_images("digits")
    np.testing.assert_array_equal(
        whole, np.concatenate([everything.train[1], everything.validation[1]])
    )


@pytest.mark.parametrize("name", schedules.NAMES)
def test_a_model_with_a_warm_up_loads_without_its_class(name, tmp_path):
    """A checkpoint has the schedule of Keras that follows; the model that trains keeps its own."""
    schedule = schedules.of(name, 0.5, 100, warm_up=0.1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(schedule), "mse")
    checkpoints.write_model(model, tmp_path / "model.keras")
    found = keras.saving.load_model(tmp_path / "model.keras").optimizer
    config = found.get_config()["learning_rate"]
    assert config == keras.optimizers.schedules.serialize(schedule.schedule)
    assert config["module"] == "keras.optimizers.schedules"
    kept = [model.optimizer._learning_rate, schedules.WarmUp.from_config(schedule.get_config())]
    for each in kept:
        assert rates(each, (0, 4, 9, 10, 50)) == rates(schedule, (0, 4, 9, 10, 50))


def compiled(monkeypatch, *words, model=None, **options):
    settings = settings_of(monkeypatch, *words, **options)
    model = model or tiny_network()
    settings.compile(model, np.zeros((100, 8, 8, 1)))
    return model


@pytest.mark.parametrize(
    ("words", "kind", "config"),
    [
        ("--optimizer adam --weight-decay 0", "Adam", {"weight_decay": None}),
        ("--optimizer adam --weight-decay 0.2", "Adam", {"weight_decay": 0.2}),
        ("--optimizer adamw", "AdamW", {"weight_decay": 0.004}),
        ("--optimizer adamw --weight-decay 0", "AdamW", {"weight_decay": 0.0}),
        ("--weight-decay 0", "SGD", {"momentum": 0.85, "nesterov": True, "weight_decay": None}),
        ("--momentum 0.6 --weight-decay 0.02", "SGD", {"momentum": 0.6, "weight_decay": 0.02}),
        ("--optimizer muon", "Muon", {"weight_decay": 0.004, "adam_weight_decay": 0.004}),
        (
            "--optimizer muon --weight-decay 0",
            "Muon",
            {"weight_decay": None, "adam_weight_decay": None},
        ),
        ("--average-weights 0.9", "SGD", {"use_ema": True, "ema_momentum": 0.9}),
        ("", "SGD", {"use_ema": False}),
    ],
)
def test_optimizers(monkeypatch, words, kind, config):
    optimizer = compiled(monkeypatch, *words.split()).optimizer
    assert type(optimizer).__name__ == kind
    found = optimizer.get_config()
    assert {name: found[name] for name in config} == config


def test_the_schedule_has_all_steps(monkeypatch):
    words = ("--epochs", 6, "--batch-size", 20, "--learning-rate", 0.5, "--warm-up", 0.2)
    model = compiled(monkeypatch, *words, "--final-rate", 0.1)
    schedule = model.optimizer._learning_rate
    assert schedule.steps == 6  # of 30
    np.testing.assert_allclose(rates(schedule, (6, 18, 30)), [0.5, 0.275, 0.05], rtol=1e-6)


@pytest.mark.parametrize("routing", ["l2", "em", "self_attention", "inverted_attention"])
def test_kernels_alone_decay(monkeypatch, routing):
    """A step with gradients of nothing shows which weights do."""
    model = tiny_network(routing=routing)
    model.get_layer("conv2d").trainable = routing != "em"  # A frozen kernel stays as it is.
    words = ("--weight-decay", 0.5, "--schedule", "constant", "--warm-up", 0)
    compiled(monkeypatch, *words, "--learning-rate", 0.1, model=model)
    routed = {id(v) for v in model.routing_variables}
    variables = [v for v in model.trainable_variables if id(v) not in routed]
    for variable in model.variables:
        variable.assign(np.ones(variable.shape))
    if not model.optimizer.built:
        model.optimizer.build(variables)
    model.optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    decayed = [v.path for v in model.variables if not np.allclose(values([v])[0], 1)]
    kernels = [v.path for v in model.trainable_variables if v.name == "kernel"]
    assert decayed == kernels and len(kernels) == (2 if routing == "em" else 3)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            np.testing.assert_allclose(values([variable])[0], 0.95, rtol=1e-6)


def test_muon_takes_its_step_for_matrices_alone(monkeypatch, capsys):
    """Convolutions and capsules have kernels of four axes, and take AdamW's."""
    model = compiled(monkeypatch, "--optimizer", "muon")
    own = capsys.readouterr().out
    others = {id(v) for v in model.routing_variables}
    total = sum(math.prod(v.shape) for v in model.trainable_variables if id(v) not in others)
    assert own == f"muon: 0 of {total} weights are in matrices, others take AdamW's step\n"
    assert all(velocity is not None for velocity in model.optimizer.adam_velocities)
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert optimizers.count_matrices(dense) == (6, 8)


@pytest.mark.parametrize("name", ["margin", "spread", "length_cross_entropy"])
def test_losses(monkeypatch, name):
    smoothing = ("--label-smoothing", 0.3) if name == "length_cross_entropy" else ()
    model = compiled(monkeypatch, "--loss", name, *smoothing)
    expected = losses.LOSSES[name](**({"label_smoothing": 0.3} if smoothing else {}))
    assert model.loss.get_config() == expected.get_config()
    labels, lengths = np.array([1, 3]), np.random.default_rng(0).uniform(size=(2, 10))
    assert float(model.loss(labels, lengths)) == float(expected(labels, lengths))


class Trace(keras.callbacks.Callback):
    """Remembers the weights after each step, and the validation losses of each epoch."""

    def __init__(self):
        super().__init__()
        self.steps, self.losses = [], []

    def own(self):
        others = {id(v) for v in self.model.routing_variables}
        return [v for v in self.model.trainable_variables if id(v) not in others]

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.steps.append(values(self.own()))

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["val_loss"])


@pytest.mark.parametrize("routing", ["dynamic", "l2"])
def test_averaged_weights_against_a_loop(monkeypatch, tmp_path, routing):
    """The best model is that of the averages, which are validated."""
    trace = Trace()
    words = ("--average-weights", 0.8, "--epochs", 2, "--learning-rate", 0.05)
    run(monkeypatch, tmp_path, *words, routing=routing, callback=trace)
    assert len(trace.steps) == 6
    best = int(np.argmin(trace.losses))
    averages, *steps = trace.steps[: 3 * (best + 1)]
    for step in steps:
        averages = [0.8 * a + 0.2 * w for a, w in zip(averages, step, strict=True)]
    history = run_folder.read_history(tmp_path / "history.csv")
    assert history["val_loss"] == trace.losses
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    others = {id(v) for v in loaded.routing_variables}
    found = values(v for v in loaded.trainable_variables if id(v) not in others)
    far = 0.0
    for one, two, last in zip(found, averages, steps[-1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
        far = max(far, np.abs(two - last).max())
    assert far > 1e-3
    images = settings_of(monkeypatch, "--synthetic", "--limit", 60, data_set="digits").load_images(
        "digits"
    )
    loss = loaded.evaluate(*images.validation, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(trace.losses[best], rel=1e-5)


OPTIONS = (
    *("--optimizer", "sgd", "--learning-rate", 0.05, "--schedule", "exponential"),
    *("--warm-up", 0.1, "--average-weights", 0.7, "--weight-decay", 0.01),
    *("--augment", "mirror", "shift", "cutout", "elastic", "--max-shift", 1, "--cutout-size", 2),
)


@pytest.mark.parametrize("routing", ["l2"])
def test_a_resumed_run_equals_an_uninterrupted_one(monkeypatch, tmp_path, routing):
    """With averaged weights, whose swaps leave rounding errors on TensorFlow."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    # The schedule of a run depends on its number of epochs: it is interrupted, not lengthened.
    words = (*OPTIONS, "--epochs", 3, "--loss", "length_cross_entropy", "--label-smoothing", 0.1)
    whole = run(monkeypatch, tmp_path / "whole", *words, routing=routing)
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "parts", *words, routing=routing, callback=Stop())
    assert checkpoints.epochs_in(tmp_path / "parts" / checkpoints.STATE) == 1
    keras.utils.set_random_seed(99)
    parts = run(monkeypatch, tmp_path / "parts", *words, "--resume", routing=routing)
    states = [
        checkpoints.read_state(tmp_path / name / checkpoints.STATE) for name in ("whole", "parts")
    ]
    assert states[0][0] == states[1][0] == 3 and states[0][1].keys() == states[1][1].keys()
    for name, value in states[0][1].items():
        np.testing.assert_array_equal(value, states[1][1][name])
    for one, two in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    histories = [run_folder.read_history(tmp_path / n / "history.csv") for n in ("whole", "parts")]
    assert histories[0]["val_loss"] == histories[1]["val_loss"]


def test_a_run_goes_on_with_its_options_alone(monkeypatch, tmp_path, capsys):
    run(monkeypatch, tmp_path, "--epochs", 1, "--average-weights", 0.5)
    capsys.readouterr()
    same = ("--synthetic", "--limit", 60, "--batch-size", 16, "--output", tmp_path, "--resume")
    for words, line in [
        ((), "average_weights was 0.5, received 0.0"),
        (("--average-weights", 0.5, "--warm-up", 0.5), "warm_up was 0.0, received 0.5"),
        (
            ("--average-weights", 0.5, "--augment", "shift"),
            "augment was ['half-pixel'], received ['shift']",
        ),
    ]:
        message = refused(
            capsys, lambda w=words: settings_of(monkeypatch, *same, *w, data_set="digits")
        )
        assert line in message
    # What the table says may be said again.
    words = ("--average-weights", 0.5, "--learning-rate", 2e-3)
    assert settings_of(monkeypatch, *same, *words, data_set="digits").resume


def keras_stops_after(patience, losses):
    """The epochs that Keras' own callback lets a training have."""
    callback = keras.callbacks.EarlyStopping("val_loss", patience=patience, mode="min")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        if model.stop_training:
            return epoch + 1
    return len(losses)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_early_stopping_goes_on_counting(patience):
    """Interrupted after each epoch, it ends where Keras' own does that is left alone."""
    rng = np.random.default_rng(patience)
    for _ in range(30):
        losses = rng.integers(0, 6, size=9).astype(float).tolist()
        expected = keras_stops_after(patience, losses)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        done = 0
        while done < len(losses) and not stopping.EarlyStopping(patience, losses[:done]).is_over:
            callback = stopping.EarlyStopping(patience, losses[:done])
            callback.set_model(model)
            model.stop_training = False
            callback.on_train_begin()
            callback.on_epoch_end(done, {"val_loss": losses[done]})
            done += 1
            assert model.stop_training == stopping.EarlyStopping(patience, losses[:done]).is_over
        assert done == expected


def test_a_run_that_has_ended_early_is_over(monkeypatch, tmp_path):
    words = ("--early-stopping", 2, "--epochs", 8, "--learning-rate", 1e-9)
    made = training._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(training, "_callbacks", lambda *args: [Falling(), *made(*args)])
        run(monkeypatch, tmp_path, *words)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["epochs"] == 3 and report["best_epoch"] == 1
    state = (tmp_path / checkpoints.STATE).read_bytes()
    run(monkeypatch, tmp_path, *words, "--resume")
    assert (tmp_path / checkpoints.STATE).read_bytes() == state
    again = json.loads((tmp_path / "report.json").read_text())
    assert again == report


@pytest.mark.parametrize(("keep", "epoch"), [("best", 1), ("last", 3)])
def test_the_model_of_the_best_or_of_the_last_epoch_is_kept(monkeypatch, tmp_path, keep, epoch):
    weights = []

    class Remembering(Falling):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            weights.append(self.model.get_weights())

    made = training._callbacks
    words = ("--epochs", 3, "--keep", keep)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_callbacks", lambda *args: [Remembering(), *made(*args)])
        run(monkeypatch, tmp_path, *words)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["best_epoch"], report["kept_epoch"]) == (1, epoch)
    assert report["validation_loss"] == epoch - 0.5
    kept = keras.saving.load_model(tmp_path / "model.keras").get_weights()
    for received, expected in zip(kept, weights[epoch - 1], strict=True):
        np.testing.assert_array_equal(received, expected)


class Falling(keras.callbacks.Callback):
    """Gives each epoch a higher validation loss than the one before."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = 0.5 + epoch


def test_mirror_images_are_averaged_in_the_report(monkeypatch, tmp_path, capsys):
    model = run(monkeypatch, tmp_path / "a", "--epochs", 1, "--mirror-test")
    images = settings_of(monkeypatch, "--synthetic", "--limit", 60, data_set="digits").load_images(
        "digits"
    )
    x, labels = images.test
    outputs = [model.predict(part, verbose=0) for part in (x, x[:, :, ::-1])]
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert report["test_accuracy"] == np.mean(outputs[0].argmax(-1) == labels)
    expected = np.mean(sum(outputs).argmax(-1) == labels)
    assert report["test_accuracy_mirrored"] == pytest.approx(expected)
    assert f"({100 * expected:.2f} % with mirror images) on" in capsys.readouterr().out
    run(monkeypatch, tmp_path / "b", "--epochs", 1)
    report = json.loads((tmp_path / "b/report.json").read_text())
    assert "test_accuracy_mirrored" not in report
    assert "with mirror images" not in capsys.readouterr().out


def test_a_line_for_each_epoch(monkeypatch, tmp_path, capsys):
    run(monkeypatch, tmp_path, "--epochs", 2)
    lines = capsys.readouterr().out.splitlines()
    history = run_folder.read_history(tmp_path / "history.csv")
    for number in range(2):
        loss, accuracy = history["loss"][number], history["val_accuracy"][number]
        start = f"epoch {number + 1} of 2: loss {loss:.4g}, val_accuracy {accuracy:.4g}"
        assert lines[number + 1].startswith(start)
    assert lines[1].endswith(" to go") and "to go" not in lines[2]


def test_time_to_go(monkeypatch, capsys):
    times = iter([0.0, 100.0, 130.0, 170.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    callback = progress.Progress(24)
    callback.on_train_begin()
    for epoch in range(2, 5):  # The run goes on after two epochs.
        callback.on_epoch_end(epoch, {"loss": 1.2345678, "val_loss": 2.0, "val_accuracy": 0.81})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch 3 of 24: loss 1.235, val_accuracy 0.81; 35 min to go",
        "epoch 4 of 24: loss 1.235, val_accuracy 0.81; 10 min to go",  # 30 s each
        "epoch 5 of 24: loss 1.235, val_accuracy 0.81; 11 min to go",  # 35 s each
    ]
    assert progress.duration(99) == "99 s" and progress.duration(7000) == "1.9 h"


def test_overlapping_digits_by_a_network_without_a_decoder(tmp_path):
    words = ("--synthetic", "--limit", 40, "--epochs", 1, "--batch-size", 12, "--mirror-test")
    words += ("--widths", 8, 16, 16, "--augment", "shift", "elastic", "--output", tmp_path / "a")
    result = recipe_here("multi_mnist", *words)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[1].startswith("epoch 1 of 1: loss ") and "val_exact_match" in lines[1]
    report = json.loads((tmp_path / "a/report.json").read_text())
    for name in ("test_accuracy", "test_accuracy_mirrored"):
        assert f"{100 * report[name]:.2f} %" in lines[-1]
    assert (tmp_path / "a/curves.png").exists()
    assert not (tmp_path / "a/reconstructions.png").exists()
    model = keras.saving.load_model(tmp_path / "a/model.keras")
    assert model.decoder is None and model.input_shape == (None, 36, 36, 1)
