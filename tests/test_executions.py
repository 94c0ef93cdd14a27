"""Several steps in one call, as on a GPU: they do what as many calls of one step do."""

import keras
import numpy as np
import pytest

import programs
from harness import divergence, executions, training
from harness.executions import take_steps_together
from harness.feeding import Feed
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from pictures_of.batches import Batches

BACKEND = keras.backend.backend()
STEPS = 7  # of an epoch, in executions of 3: the last one has one step


def network(routing="l2", **options):
    """A small network with all that a step may change: dropout's seed, averages, coefficients."""
    image = keras.Input((6, 6, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Dropout(0.2, seed=4)(image))
    poses = DigitCaps(3, 4, routing=routing)(PrimaryCaps(2, 4, kernel_size=3)(x))
    model = CapsNet(image, CapsuleLength()(poses))
    rate = keras.optimizers.schedules.ExponentialDecay(1e-2, 4, 0.5)
    routing_rate = {"routing_learning_rate": 1e-3} if routing == "l2" else {}
    model.compile(keras.optimizers.Adam(rate), metrics=["accuracy"], **routing_rate, **options)
    return model


class Asked(Batches):
    """Batches that keep which of them are asked for."""

    def __call__(self, number, part=slice(None)):
        self.made.append(number)
        return super().__call__(number, part)


def fit(monkeypatch, together, epochs=2, **options):
    """Trains a network in executions of three steps, or of one; returns all that came of it."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(size=(30, 6, 6, 1)).astype("float32"), rng.integers(3, size=30)
    batches = Asked(30, 4, 0, lambda indices: (x[indices], y[indices]))
    object.__setattr__(batches, "made", [])
    monkeypatch.setattr(executions, "gpu_name", lambda: "a GPU" if together else None)
    monkeypatch.setattr(executions, "STEPS", 3)
    keras.utils.set_random_seed(0)
    model, feed, ends = network(**options), Feed(batches, STEPS), []
    take_steps_together(model, STEPS)
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: ends.append((step, logs["loss"]))
    )
    callbacks = [feed.starting(), record]
    arguments = {"shuffle": False, "verbose": 0, "validation_data": (x, y), "callbacks": callbacks}
    history = model.fit(feed, epochs=epochs, **arguments).history
    variables = [*model.variables, *model.optimizer.variables]
    if model.routing_optimizer:
        variables += model.routing_optimizer.variables
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    return values, history, ends, batches.made


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"update": "joint"}, marks=pytest.mark.compiled),
        pytest.param({"routing": "dynamic"}, marks=pytest.mark.compiled),
    ],
    ids=str,
)
def test_steps_together_are_steps_one_by_one(monkeypatch, options):
    """Up to the rounding of another program: 1e-6 of the largest value of each variable."""
    if BACKEND == "torch":
        pytest.skip("torch takes one step a call")
    alone, alone_history, alone_ends, _ = fit(monkeypatch, False, **options)
    found, history, ends, made = fit(monkeypatch, True, **options)
    assert len(found) == len(alone)
    for one, two in zip(found, alone, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-6 * max(1e-3, np.abs(two).max()))
    assert history.keys() == alone_history.keys() and len(history["loss"]) == 2
    for name, values in alone_history.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name
    # Callbacks are told of the last step of each execution, with the mean of the steps so far.
    # Keras takes the last execution for a whole one.
    assert [step for step, _ in ends] == [2, 5, 8] * 2
    for (_, loss), step in zip(ends[:3], (2, 5, 6), strict=True):
        assert loss == pytest.approx(alone_ends[step][1], rel=1e-5)
    # Every batch is trained on, and beyond the epochs only what is made ahead is made.
    assert set(range(2 * STEPS)) <= set(made) <= set(range(2 * STEPS + 3))


def test_no_more_batches_are_asked_for_than_an_epoch_has(monkeypatch):
    """Keras asks the feed by indices, of which those of an epoch are below its steps."""
    if BACKEND != "jax":
        pytest.skip("Keras' own executions on TensorFlow, and none on torch")
    indices, ask = [], Feed.__getitem__

    def count(self, index):
        indices.append(index)
        return ask(self, index)

    monkeypatch.setattr(Feed, "__getitem__", count)
    fit(monkeypatch, True, epochs=1)
    assert sorted(set(indices)) == list(range(STEPS))


def test_without_a_gpu_nothing_changes(monkeypatch):
    model = network()
    monkeypatch.setattr(executions, "gpu_name", lambda: None)
    take_steps_together(model, 9)
    assert model.steps_per_execution == 1 and model.train_function is None
    monkeypatch.setattr(executions, "gpu_name", lambda: "a GPU")
    take_steps_together(model, 9)
    assert model.steps_per_execution == (1 if BACKEND == "torch" else 9)
    assert (model.train_function is None) == (BACKEND != "jax")
    take_steps_together(model, 1000)
    assert model.steps_per_execution == (1 if BACKEND == "torch" else executions.STEPS)


def test_divergence_is_told_with_its_place(monkeypatch, tmp_path, capsys):
    """To the step where steps are alone, and to an execution otherwise."""
    monkeypatch.setattr(executions, "gpu_name", lambda: "a GPU")
    monkeypatch.setattr(executions, "STEPS", 2)
    path = str(programs.RECIPES / "diverging.py")
    arguments = ["--synthetic", "--limit", "60", "--output", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", [path, *arguments])
    settings = training.begin("A run.", epochs=2, batch_size=9, learning_rate=1e-2)
    images = settings.load_images("digits")  # 54 to train on: 6 steps an epoch
    image = keras.Input(images.shape)
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e38), loss, metrics=["accuracy"])
    with pytest.raises(divergence.Diverged) as stop:
        training.train(model, images, settings.run)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    before = "" if BACKEND == "torch" else ", or up to 1 before"
    place = f"step 1, epoch 1, batch 2 of 6{before}: the loss is not finite"
    assert message.startswith(f"error: training diverged at {place}")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("batch", "place"), [(5, "step 12, epoch 2, batch 6 of 7"), (8, "step 13")]
)
def test_the_last_execution_of_an_epoch_ends_with_it(batch, place):
    """Where it has fewer steps than others, Keras tells of a step that the epoch does not have."""
    watch = divergence.Watch(STEPS)
    watch.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    watch.on_epoch_begin(1)
    watch.on_train_batch_end(batch, {"loss": float("nan")})
    assert watch.place(watch.loss).startswith(place)


def test_places_of_steps():
    watch = divergence.Watch(4)
    assert watch.place(9) == "step 9, epoch 3, batch 2 of 4"
    assert watch.place(9, 3) == "step 9, epoch 3, batch 2 of 4, or up to 2 before"
