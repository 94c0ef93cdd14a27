"""Layers around and among capsules: constants, recurrent layers, lookups, and shared layers."""

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers, ops

from export import verify
from export.fold import fold
from export.images import Images
from export.inference import inference_model
from export.onnx import export_onnx
from export.saved_model import export_saved_model
from exporting import FORBIDDEN, contents, onnx_outputs
from kcaps.layers import CapsuleLength, ConstantCaps, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.routing import ROUTINGS

PIXELS = np.random.default_rng(1).uniform(size=(30, 8, 8, 1)).astype("float32")


def capsules(*before, routing="dynamic"):
    """A model of capsules after some layers."""
    image = x = keras.Input((8, 8, 1))
    for layer in before:
        x = layer(x)
    return keras.Model(
        image, CapsuleLength()(DigitCaps(3, 4, routing=routing)(PrimaryCaps(4, 4, 3)(x)))
    )


def assert_exports(model, folder, images=PIXELS, **options):
    """Exports to both formats; both must give Keras' values, from the image alone."""
    given = Images(images)
    export_onnx(model, folder / "model.onnx", test_images=given, **options)
    graph = onnx.load(folder / "model.onnx").graph
    assert [value.name for value in graph.input] == ["image"]
    assert not {node.op_type for node in graph.node} & FORBIDDEN
    export_saved_model(model, folder / "saved_model", test_images=given)
    served = tf.saved_model.load(str(folder / "saved_model"))
    part = images[: options.get("batch_size") or 5]
    expected = inference_model(model).predict_on_batch(part)
    for outputs in (onnx_outputs(folder / "model.onnx", part), served.serve(part)):
        assert set(outputs) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, atol=1e-5)
    return graph


@pytest.mark.parametrize(
    "routing",
    [pytest.param(x, marks=[] if x == "l2" else pytest.mark.long) for x in ROUTINGS],
)
def test_a_constant_capsule(tmp_path, routing):
    image = keras.Input((8, 8, 1), name="image")
    x = ConstantCaps()(PrimaryCaps(4, 4, 3)(image))
    assert_exports(keras.Model(image, CapsuleLength()(DigitCaps(3, 4, routing)(x))), tmp_path)


def adapted(**options):
    layer = layers.Normalization(**options)
    layer.adapt(PIXELS)
    return layer


NORMALIZATIONS = {
    "given": lambda: layers.Normalization(mean=0.5, variance=0.1),
    "inverted": lambda: layers.Normalization(mean=0.5, variance=0.1, invert=True),
    "by_channel": lambda: layers.Normalization(mean=[0.5], variance=[0.1]),
    "of_pixels": lambda: layers.Normalization(
        axis=(1, 2, 3), mean=PIXELS.mean(0), variance=PIXELS.var(0)
    ),
    "adapted": adapted,
    "adapted_as_a_whole": lambda: adapted(axis=None),
    "adapted_by_row": lambda: adapted(axis=1),
}


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_normalization(tmp_path, kind):
    routing = "l2" if kind.startswith("adapted") else "dynamic"
    assert_exports(capsules(NORMALIZATIONS[kind](), routing=routing), tmp_path)


@keras.saving.register_keras_serializable(package="test")
class Constants(layers.Layer):
    """A layer that holds tensors of all kinds as constants."""

    def __init__(self, use="scalar", **kwargs):
        super().__init__(**kwargs)
        self.use = use
        rng = np.random.default_rng(2)
        self.scalar = tf.constant(2.0)
        self.small = ops.convert_to_tensor(rng.normal(size=(8, 1)).astype("float32"))
        self.large = ops.convert_to_tensor(rng.normal(size=(64, 64)).astype("float32"))
        self.filters = tf.constant(rng.normal(size=(3, 3, 1, 20)).astype("float32"))
        self.mask = tf.constant(rng.uniform(size=(8, 8, 1)) > 0.5)
        self.paddings = tf.constant([[0, 0], [1, 1], [2, 2], [0, 0]])
        self.shape = tf.constant([-1, 4, 16, 1])

    def call(self, x):
        if self.use == "scalar":
            return x * self.scalar + self.scalar
        if self.use == "small":
            return x * self.small
        if self.use == "large":
            return ops.reshape(ops.matmul(ops.reshape(x, (-1, 64)), self.large), (-1, 8, 8, 1))
        if self.use == "filters":
            return tf.nn.conv2d(x, self.filters, 1, "SAME")
        if self.use == "mask":
            return ops.where(self.mask, x, self.scalar)
        if self.use == "paddings":
            return tf.pad(x, self.paddings)
        return tf.reshape(x, self.shape)

    def get_config(self):
        return {**super().get_config(), "use": self.use}


@pytest.mark.long
@pytest.mark.parametrize(
    ("use", "routing"),
    [
        ("scalar", "dynamic"),
        ("small", "l1"),
        ("large", "dynamic"),
        ("filters", "l2"),
        ("mask", "dynamic"),
        ("paddings", "dynamic"),
        ("reshaping", "dynamic"),
    ],
)
def test_constants_that_layers_hold(tmp_path, use, routing):
    assert_exports(capsules(Constants(use), routing=routing), tmp_path)


def test_constants_in_models_inside_and_used_twice(tmp_path):
    image = keras.Input((8, 8, 1))
    both = layers.add([Constants("small")(image), Constants("small")(image)])
    layer = layers.Normalization(mean=0.5, variance=0.1)
    inner = capsules(layers.Normalization(mean=0.1, variance=2.0))
    model = keras.Model(image, inner(layers.add([layer(both), layer(image)])))
    assert_exports(model, tmp_path)
    assert_exports(keras.Sequential([keras.Input((8, 8, 1)), layer, inner]), tmp_path)


def test_constants_in_lower_precision_and_of_a_fixed_size(tmp_path, rng):
    model = capsules(layers.Normalization(mean=0.5, variance=0.1), Constants("filters"))
    given = Images(PIXELS, rng.integers(3, size=30), PIXELS)
    for precision in ("float16", "int8"):
        options = {"precision": precision, "max_accuracy_drop": 100}
        export_onnx(model, tmp_path / "model.onnx", test_images=given, **options)
        graph = onnx.load(tmp_path / "model.onnx").graph
        assert [value.name for value in graph.input] == ["image"]
    assert_exports(model, tmp_path, batch_size=4)


def test_a_constant_that_no_config_holds_is_not_lost(tmp_path):
    """Folding copies layers by their config: such a layer must stay what it is."""
    layer = Constants("small")
    layer.small = tf.constant(np.linspace(0, 3, 8, dtype="float32")[:, None])
    assert_exports(capsules(layer, layers.Conv2D(2, 1), routing="l2"), tmp_path)


def test_the_same_constants_give_the_same_bytes(tmp_path):
    model = capsules(Constants("large"), layers.Normalization(mean=0.5, variance=0.1))
    for name in ("first", "second"):
        export_onnx(model, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


RECURRENT = {
    "LSTM": lambda **options: layers.LSTM(4, **options),
    "GRU": lambda **options: layers.GRU(4, **options),
    "SimpleRNN": lambda **options: layers.SimpleRNN(4, **options),
    "Bidirectional": lambda **options: layers.Bidirectional(layers.GRU(4, **options)),
    "dropout": lambda **options: layers.LSTM(4, dropout=0.1, recurrent_dropout=0.2, **options),
    "RNN": lambda **options: layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)], **options),
}
STEPS = np.random.default_rng(3).normal(size=(9, 5, 3)).astype("float32")


def recurrent(kind, **options):
    steps = keras.Input((5, 3))
    return keras.Model(steps, layers.Dense(2)(layers.Flatten()(RECURRENT[kind](**options)(steps))))


@pytest.mark.long
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_and_what_passes(tmp_path, kind):
    with pytest.raises(
        ValueError, match=r"Loop.*both `unroll=True` and a fixed batch size"
    ) as error:
        export_onnx(recurrent(kind), tmp_path / "model.onnx")
    assert "sorted" not in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="the graph has .*Shape.* Give a fixed batch size"):
        export_onnx(recurrent(kind, unroll=True), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    model = recurrent(kind, unroll=True, return_sequences=True)
    assert_exports(model, tmp_path, STEPS, batch_size=3)


@pytest.mark.parametrize("kind", ["GRU", "RNN", "dropout"])
def test_a_fixed_batch_size_alone_does_not_unroll(tmp_path, kind):
    with pytest.raises(ValueError, match="the graph has Loop: .*`unroll=True` and a fixed batch"):
        export_onnx(recurrent(kind), tmp_path / "model.onnx", batch_size=3)


def test_recurrent_layers_export_to_saved_models(tmp_path):
    model = recurrent("GRU")
    export_saved_model(model, tmp_path / "saved_model", test_images=Images(STEPS))
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    (value,) = loaded.serve(STEPS).values()
    np.testing.assert_allclose(value, model.predict_on_batch(STEPS), atol=1e-5)


class Repeated(layers.Layer):
    def call(self, x):
        return ops.fori_loop(0, 3, lambda step, value: 2 * value, x)


class Scanned(layers.Layer):
    def call(self, x):
        return ops.scan(lambda a, b: (a + b, a), 0 * x[:, 0], ops.moveaxis(x, 1, 0))[0]


class Chosen(layers.Layer):
    def call(self, x):
        return ops.cond(ops.sum(x) > 0, lambda: 2 * x, lambda: x)


@pytest.mark.parametrize(
    ("layer", "message"),
    [(Repeated, "has Loop: "), (Scanned, "has Loop: "), (Chosen, "has If: .*keras.ops.where")],
)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_other_loops_and_conditions(tmp_path, layer, message, batch_size):
    steps = keras.Input((5, 3))
    model = keras.Model(steps, layers.Flatten()(layers.Dense(2)(layer()(steps))))
    with pytest.raises(ValueError, match=f"the graph {message}"):
        export_onnx(model, tmp_path / "model.onnx", batch_size=batch_size)


def test_the_advice_of_a_fixed_batch_size_holds(tmp_path):
    """It is given where it helps, and not where it does not."""
    ids = keras.Input((4,), dtype="int32")
    helped = keras.Model(ids, layers.Dense(3)(ops.one_hot(ids, 256)))
    with pytest.raises(ValueError, match="has Gather, Shape: .* Give a fixed batch size"):
        export_onnx(helped, tmp_path / "model.onnx")
    export_onnx(helped, tmp_path / "model.onnx", batch_size=2)
    other = keras.Model(ids, layers.CategoryEncoding(256)(ids))
    for batch_size in (None, 2):
        with pytest.raises(ValueError, match="has Shape: .* a fixed batch size does not help"):
            export_onnx(other, tmp_path / "other.onnx", batch_size=batch_size)


def embedded(size, output=layers.Flatten):
    ids = keras.Input((4,), dtype="int32")
    return keras.Model(ids, output()(layers.Embedding(size, 3, name="table")(ids)))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_embeddings_and_what_passes(tmp_path, rng, batch_size):
    model = embedded(10)
    with pytest.raises(
        ValueError, match="the graph has Gather: .*looks up rows of a table"
    ) as error:
        export_onnx(model, tmp_path / "model.onnx", batch_size=batch_size)
    assert "fixed batch size" not in str(error.value)
    assert "EinsumDense('btn,nd->btd', (t, d)) of keras.ops.one_hot(ids, n)" in str(error.value)
    ids = keras.Input((4,), dtype="int32")
    product = layers.EinsumDense("btn,nd->btd", (4, 3))
    same = keras.Model(ids, layers.Flatten()(product(ops.one_hot(ids, 10))))
    product.set_weights(model.get_layer("table").get_weights())
    numbers = rng.integers(10, size=(20, 4)).astype("int32")
    np.testing.assert_array_equal(same.predict_on_batch(numbers), model.predict_on_batch(numbers))
    assert_exports(same, tmp_path, numbers, batch_size=batch_size)


class Refusing(layers.Layer):
    """A layer that fails on pixels of 1 or more."""

    def call(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(x, ops.cast(1, x.dtype))]):
            return tf.identity(x)


def test_images_that_the_model_cannot_take(tmp_path, rng):
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, layers.Flatten()(Refusing()(image)))
    for failing in (embedded(10), model):
        with pytest.raises(
            ValueError, match="64 random images, pixels from 0 to 255, on which it fails with Inv"
        ) as error:
            export_saved_model(failing, tmp_path / "saved_model")
        assert "Give `test_images`" in str(error.value) and "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"indices\[0,0\] = \d+ is not in \[0, 10\)"):
        export_saved_model(embedded(10), tmp_path / "saved_model")
    numbers = rng.integers(10, size=(20, 4))
    export_saved_model(embedded(10), tmp_path / "saved_model", test_images=Images(numbers))
    with pytest.raises(ValueError, match="Received: 20 given images, on which it fails"):
        export_saved_model(embedded(9), tmp_path / "saved_model", test_images=Images(numbers))


def test_images_that_fail_in_onnx_and_when_verified(monkeypatch, tmp_path):
    """Whatever kind of error a model raises; the file itself may take the images."""
    model = capsules()
    export_onnx(model, tmp_path / "model.onnx")
    before = contents(tmp_path)

    def fail(self, images):
        raise RuntimeError("no such pixels\nand a trace")

    monkeypatch.setattr(keras.Model, "predict_on_batch", fail)
    message = "pixels from 0 to 255, on which it fails with RuntimeError: no such pixels. Give"
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=message):
        verify.verify_onnx(model, tmp_path / "model.onnx")
    assert contents(tmp_path) == before


def test_calibration_images_that_do_not_fit(tmp_path, rng):
    given = Images(PIXELS, rng.integers(3, size=30), PIXELS[:, :5])
    with pytest.raises(ValueError, match="`calibration` must be training images"):
        export_onnx(capsules(), tmp_path / "model.onnx", test_images=given, precision="int8")
    assert not list(tmp_path.iterdir())


def shared_layers(routing, rng):
    """Layers from images to poses, which have a call in another graph already."""
    chain = [layers.Rescaling(1 / 255), layers.Conv2D(2, 3), PrimaryCaps(4, 4, 3)]
    chain.append(DigitCaps(3, 4, routing=routing))
    other = keras.Input((8, 8, 1))
    keras.Model(other, through(chain, layers.Rescaling(3.0)(other)))
    if routing in ("l1", "l2"):
        coefficients = rng.normal(size=chain[-1].routing.coefficients.shape)
        coefficients[::4] = 0  # the first of four types of capsules
        chain[-1].routing.coefficients.assign(coefficients)
    return chain


def through(chain, x):
    for layer in chain:
        x = layer(x)
    return x


@pytest.mark.long
@pytest.mark.parametrize("routing", ["l1", "l2", "dynamic"])
def test_layers_that_have_another_call(tmp_path, rng, routing):
    """The poses, and what is folded, are those of the graph that is exported."""
    chain = shared_layers(routing, rng)
    length, images = CapsuleLength(), 255 * PIXELS
    image, left, right = (keras.Input((8, 8, 1)) for _ in range(3))
    net = CapsNet(image, length(through(chain, image)))
    left_poses, right_poses = through(chain, left), through(chain, right)
    for model in (
        net,
        keras.Model(left, length(left_poses)),
        keras.Model(right, length(right_poses)),
    ):
        lines = fold(inference_model(model))[1]
        assert any("multiplied into conv2d" in line for line in lines)
        assert any("1 types of primary_caps" in line for line in lines) == (routing != "dynamic")
        assert_exports(model, tmp_path, images)
        outputs = onnx_outputs(tmp_path / "model.onnx", images[:4])
        np.testing.assert_allclose(outputs["poses"], through(chain, images[:4]), atol=1e-5)


@pytest.mark.parametrize("routing", ["l1", "l2"])
def test_layers_called_twice_in_one_graph_are_not_folded(tmp_path, rng, routing):
    chain = shared_layers(routing, rng)
    image = keras.Input((8, 8, 1))
    darker = through(chain, layers.Rescaling(0.5)(image))
    length = CapsuleLength()
    model = keras.Model(image, [length(through(chain, image)), length(darker)])
    assert fold(inference_model(model))[1] == []
    graph = assert_exports(model, tmp_path, 255 * PIXELS)
    assert len(graph.output) == 3


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("routing", ["dynamic", "l2"])
def test_several_outputs(tmp_path, as_dict, routing):
    image = keras.Input((8, 8, 1))
    poses = DigitCaps(3, 4, routing=routing)(PrimaryCaps(4, 4, 3)(image))
    length = CapsuleLength(name="length")(poses)
    head = layers.Dense(5, "softmax", name="head")(layers.Flatten()(poses))
    outputs = {"head": head, "length": length} if as_dict else [length, head]
    assert_exports(keras.Model(image, outputs), tmp_path)
    names = [value.name for value in onnx.load(tmp_path / "model.onnx").graph.output]
    expected = ["class_lengths", "poses"]
    assert names == (["head", *expected] if as_dict else [*expected, "head"])
