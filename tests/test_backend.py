"""The backends and the private names of Keras that kcaps.backend knows: they are as it takes them.

Each test of a private name fails once Keras has it no more, or uses it in another way.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.backend import keras_private
from kcaps.backend.arrays import available_dtype, batched, needs_batches
from kcaps.backend.compiling import compiled
from kcaps.backend.replicas import Replicated
from kcaps.backend.steps import minimise, run_step, state_beside_metrics
from kcaps.layers import CapsuleLength, ConcurrentCaps, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.routing import ROUTINGS, Votes

BACKEND = keras.backend.backend()


def regression(cls=keras.Model):
    inputs = keras.Input((3,))
    model = cls(inputs, keras.layers.Dense(1, kernel_initializer="ones")(inputs))
    model.compile(keras.optimizers.SGD(0.125), loss="mse")
    return model


@pytest.fixture
def data(rng):
    return rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")


class RecordingModel(keras.Model):
    """A model that notes which private methods Keras calls, with which arguments and results."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        self.notes.append(("build", iterator, data_batch))
        super()._maybe_symbolic_build(iterator, data_batch)

    def _make_function(self, step_function):
        def noted(data):
            logs = step_function(data)
            self.notes.append(("step", set(logs)))
            return logs

        return super()._make_function(noted)

    def _get_metrics_result_or_logs(self, logs):
        results = super()._get_metrics_result_or_logs(logs)
        self.notes.append(("logs", set(logs), set(results)))
        return results


@pytest.mark.tensorflow
def test_fit_calls_the_methods_that_replicas_override(data):
    model = regression(RecordingModel)
    model.notes = []
    model.fit(*data, epochs=1, batch_size=4, verbose=0)
    build, step, logs = model.notes
    assert build[0] == "build" and build[1] is not None and build[2] is None
    _, _, batches = next(iter(build[1]))  # as `Replicated` reads the first batch
    assert [tuple(part.shape) for part in next(batches)[:2]] == [(4, 3), (4, 1)]
    assert step == ("step", {"loss"})  # `_make_function` was given the step of a batch
    assert logs == ("logs", {"loss"}, {"loss"})


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["_maybe_symbolic_build", "_make_function"])
def test_replicas_override_methods_that_keras_has(name):
    assert callable(getattr(keras.Model, name)) and name in vars(Replicated)


@pytest.mark.tensorflow
def test_logs_of_replicas_are_the_metrics_of_all_examples(two_devices):
    """Keras alone would report the mean of the replicas' own means."""

    class Network(Replicated, keras.Model):
        pass

    x, y = np.zeros((6, 3), "float32"), np.arange(6.0)[:, None]
    with two_devices.scope():
        model = regression(Network)
        history = model.fit(x, y, batch_size=6, epochs=1, verbose=0).history
    assert history["loss"][0] == pytest.approx(np.mean(y**2), rel=1e-6)


def test_keras_names_the_validation_of_fit(data):
    received = []

    class Network(keras.Model):
        def evaluate(self, x=None, y=None, *args, **kwargs):
            received.append(keras_private.is_validation_of_fit(kwargs))
            return super().evaluate(x, y, *args, **kwargs)

    model = regression(Network)
    model.fit(*data, validation_data=data, epochs=1, verbose=0)
    model.evaluate(*data, verbose=0)
    assert received == [True, False]


def test_keras_opens_a_scope_for_its_old_format(tmp_path):
    received = []

    class Layer(keras.layers.Layer):
        def get_config(self):
            received.append(keras_private.is_writing_legacy_format())
            return super().get_config()

    model = keras.Sequential([keras.Input((2,)), Layer()])
    keras.saving.save_model(model, tmp_path / "model.h5")
    model.save(tmp_path / "model.keras")
    assert received[0] is True and received[-1] is False


def test_a_save_makes_no_optimizer_where_keras_knows_what_it_skips(monkeypatch, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    model.save(tmp_path / "model.keras")
    keras_private.keep_skipped_attributes()
    monkeypatch.setattr(keras.optimizers.Optimizer, "__init__", None)
    model.save(tmp_path / "model.keras")


def test_origin_of_a_tensor():
    first, second = keras.Input((3,)), keras.Input((3,))
    layer = keras.layers.Add()
    layer([second, first])
    tensor = layer([first, second])
    operation, node = keras_private.origin(tensor)
    assert operation is layer and node.outputs[0] is tensor
    assert [id(x) for x in node.input_tensors] == [id(first), id(second)]
    _, node = keras_private.origin(keras.layers.BatchNormalization()(first, training=True))
    assert node.arguments.kwargs["training"] is True


def test_keras_exports_models_that_are_marked_as_called(tmp_path):
    model = regression()
    with pytest.raises(ValueError, match="never called"):
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    keras_private.mark_as_called(model)
    try:
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    except Exception as error:  # of libraries that are missing
        assert "never called" not in str(error)


class CountingModel(keras.Model):
    """A model with steps of its own, and a variable that is neither weight nor metric."""

    def train_step(self, *arguments):
        return run_step(self, self.count, arguments, training=True)

    def test_step(self, *arguments):
        return run_step(self, self.count, arguments, training=False)

    @property
    def metrics_variables(self):
        return super().metrics_variables + state_beside_metrics([self.state["count"]])

    def count(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        self.state["count"].assign(self.state["count"] + 1)
        self.trainable_variables[0].assign(self.trainable_variables[0] + ops.mean(x))
        return {"count": self.state["count"] * 1}


def test_a_step_assigns_variables_on_every_backend(data):
    inputs = keras.Input((3,))
    model = CountingModel(inputs, keras.layers.Dense(1, kernel_initializer="ones")(inputs))
    object.__setattr__(model, "state", {"count": keras.Variable(0.0, trainable=False)})
    model.compile("sgd")
    history = model.fit(*data, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    assert history["count"] == [2.0, 4.0]
    kernel = ops.convert_to_numpy(model.trainable_variables[0])
    np.testing.assert_allclose(kernel, 1 + 4 * data[0].mean(), rtol=1e-5)
    model.evaluate(*data, batch_size=4, verbose=0)
    assert float(model.state["count"]) == 6.0


def test_several_optimizers_step_from_one_pass(data):
    x, y = data
    other = keras.optimizers.SGD(0.5)

    class Network(keras.Model):
        @property
        def metrics_variables(self):
            return super().metrics_variables + state_beside_metrics(other.variables)

        def train_step(self, *arguments):
            return run_step(self, self.step, arguments, training=True)

        def step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            kernel, bias = self.trainable_variables

            def objectives():
                outputs = self(x, training=True)
                return outputs, [ops.mean(ops.square(outputs - y)), ops.mean(ops.square(outputs))]

            outputs = minimise(self, objectives, [(self.optimizer, [kernel]), (other, [bias])])
            return {"mean": ops.mean(outputs)}

    model = regression(Network)
    kernel, bias = model.trainable_variables
    model.optimizer.build([kernel])
    other.build([bias])
    logs = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    outputs = x.sum(1, keepdims=True)
    assert logs["mean"][0] == pytest.approx(outputs.mean(), abs=1e-6)
    expected = 1 - 0.125 * 2 * x.T @ (outputs - y) / 8
    np.testing.assert_allclose(ops.convert_to_numpy(kernel), expected, rtol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(bias), [-outputs.mean()], rtol=1e-5)


def test_compiled_functions_give_the_same(rng):
    x = rng.normal(size=(3, 4)).astype("float32")

    def function(x):
        return ops.tanh(x) @ ops.transpose(x)

    whole = compiled(function)
    np.testing.assert_allclose(ops.convert_to_numpy(whole(x)), np.tanh(x) @ x.T, rtol=1e-5)
    assert (whole is function) == (BACKEND == "torch")


@pytest.mark.tensorflow
def test_compiled_functions_are_programs_of_xla(xla_calls):
    assert any(xla_calls(compiled(lambda x: x + 1), np.ones(3, "float32")))


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_batches_keep_order_and_dtype(rng, size):
    x, y = rng.normal(size=(10, 2)), np.arange(10)
    assert needs_batches(x)
    batches = batched((x, None, y), size)
    parts = batches if BACKEND == "tensorflow" else [batches[n] for n in range(len(batches))]
    parts = [[np.asarray(part) for part in batch] for batch in parts]
    assert [len(part) for part, _ in parts] == [len(y[n : n + size]) for n in range(0, 10, size)]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), x)
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), y)
    assert parts[0][0].dtype == "float64"


def test_dtypes_that_there_are():
    assert available_dtype(np.dtype("float32")) == "float32"
    assert available_dtype("float64") == ("float32" if BACKEND == "jax" else "float64")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "concurrent"),
    [
        ("dynamic", False),
        ("inverted_attention", False),
        ("inverted_attention", True),
        ("self_attention", False),
        ("uniform", False),
    ],
)
def test_votes_have_the_fast_layout_at_inference(rng, monkeypatch, name, concurrent):
    """Components come first where TensorFlow runs the operations one by one, not in XLA.

    It never stores votes: `votes_of` takes the factored ones.
    """
    received = []

    class RecordedVotes(Votes):
        def __init__(self, inputs, kernel, components_first=False):
            received.append(components_first)
            super().__init__(inputs, kernel, components_first)

    layer = DigitCaps(3, 4, routing=name)
    if concurrent:
        layer = ConcurrentCaps([layer])
    layer.build((None, 6, 5))
    module = "uniform" if name == "uniform" else "stored_votes"
    monkeypatch.setattr(f"kcaps.routing.{module}.Votes", RecordedVotes)
    capsules = rng.normal(size=(2, 6, 5)).astype("float32")
    poses = []
    for training in (False, True):
        received.clear()
        poses.append(ops.convert_to_numpy(layer(capsules, training=training)))
        assert received[-1] == (not training)  # of several, the one with agreements
    np.testing.assert_allclose(*poses, atol=1e-6)


def test_keras_on_another_backend_leaves_tensorflow_out():
    """A process of its own, in which nothing else has imported it."""
    code = (
        "import sys, keras; from kcaps.backend.keras_private import leave_tensorflow_out;"
        "leave_tensorflow_out(); keras.utils.set_random_seed(0);"
        "print(keras.backend.backend(), 'tensorflow' in sys.modules)"
    )
    backend = "jax" if BACKEND == "tensorflow" else BACKEND
    environment = {**os.environ, "KERAS_BACKEND": backend}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert result.stdout.split() == [backend.encode(), b"False"], result.stderr


@pytest.mark.skipif(BACKEND != "torch", reason="tensors have a device of their own on torch")
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("routing", list(ROUTINGS))
def test_no_tensor_is_made_on_another_device(routing, precision):
    """On the device `meta`, which stands for a GPU here: it has shapes and no values."""
    import torch

    keras.config.set_dtype_policy(precision)
    image = keras.Input((8, 8, 1))
    poses = DigitCaps(3, 4, routing=routing)(PrimaryCaps(2, 4, kernel_size=3, strides=2)(image))
    decoder = keras.Sequential([keras.Input((3, 4)), keras.layers.Flatten()])
    decoder.add(keras.layers.Dense(64))
    decoder.add(keras.layers.Reshape((8, 8, 1)))
    model = CapsNet(image, CapsuleLength()(poses), decoder=decoder)
    model.compile("adam", metrics=["accuracy"])
    x, y = np.full((2, 8, 8, 1), 9.0, "float32"), np.array([0, 2])
    model.train_on_batch(x, y)
    with keras.StatelessScope(), keras.device("meta"), torch.no_grad():
        logs = model.test_step((torch.ones(x.shape), torch.zeros(2, dtype=torch.int64)))
    assert {value.device.type for value in logs.values()} == {"meta"}
