"""Contract of the layers: values, saving, shapes, precision, and errors."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.initializers import VoteScaling
from kcaps.layers import (
    CapsuleLength,
    CapsuleMask,
    ConstantCaps,
    ConvCaps2D,
    DigitCaps,
    PrimaryCaps,
)
from kcaps.routing import ROUTINGS, DynamicRouting

LAYERS = {
    "primary_caps": (lambda: PrimaryCaps(3, 4, kernel_size=3, strides=2), (9, 8, 2), (36, 4)),
    "capsule_length": (CapsuleLength, (5, 4), (5,)),
    "constant_caps": (ConstantCaps, (5, 4), (6, 4)),
    "capsule_mask": (lambda: CapsuleMask(num_active=2), (5, 4), (5, 4)),
    "primary_caps_map": (
        lambda: PrimaryCaps(3, 4, kernel_size=3, strides=2, as_map=True),
        (9, 8, 2),
        (4, 3, 3, 4),
    ),
    "capsule_length_map": (CapsuleLength, (3, 2, 5, 4), (3, 2, 5)),
    "digit_caps_of_maps": (lambda: DigitCaps(5, 4), (3, 2, 2, 3), (5, 4)),
    **{
        f"conv_caps_{name}": (
            lambda name=name: ConvCaps2D(5, 4, 3, 2, "same", routing=name),
            (4, 3, 2, 3),
            (2, 2, 5, 4),
        )
        for name in ROUTINGS
    },
    **{
        f"digit_caps_{name}": (lambda name=name: DigitCaps(5, 4, routing=name), (6, 3), (5, 4))
        for name in ROUTINGS
    },
}
layers = pytest.mark.parametrize(("make", "shape", "output"), LAYERS.values(), ids=LAYERS)


@layers
def test_output_shapes_symbolic_and_real(rng, make, shape, output):
    layer = make()
    symbolic = layer(keras.Input(shape))
    assert symbolic.shape == (None, *output)
    assert layer.compute_output_shape((None, *shape)) == (None, *output)
    for batch in (1, 7):
        outputs = layer(rng.normal(size=(batch, *shape)).astype("float32"))
        assert outputs.shape == (batch, *output)


@layers
def test_keras_file_round_trip(rng, tmp_path, make, shape, output):
    inputs = rng.normal(size=(3, *shape)).astype("float32")
    model = keras.Sequential([keras.Input(shape), make()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()


@layers
def test_zero_inputs_have_finite_gradients(gradient, make, shape, output):
    layer = make()
    inputs = np.zeros((2, *shape), "float32")
    layer(inputs)
    assert np.isfinite(gradient(lambda x: layer(x, **training(layer)), inputs)).all()


def training(layer):
    return {"training": True} if isinstance(layer, (ConvCaps2D, DigitCaps, PrimaryCaps)) else {}


@pytest.mark.compiled
@layers
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(rng, gradient, make, shape, output, policy):
    """The error of the calculation, from inputs and weights that half precision can hold."""

    def rounded(x):
        return ops.convert_to_numpy(ops.cast(ops.cast(x, policy.removeprefix("mixed_")), "float32"))

    inputs = rounded(0.3 * rng.normal(size=(4, *shape)))
    exact = make()
    exact(inputs)
    exact.set_weights([rounded(w) for w in exact.get_weights()])
    keras.config.set_dtype_policy(policy)
    mixed = make()
    mixed(inputs)
    mixed.set_weights(exact.get_weights())
    if isinstance(mixed, (ConvCaps2D, DigitCaps)):
        assert mixed.routing.compute_dtype == mixed.compute_dtype
        assert mixed.kernel.dtype == "float32"
        assert np.isfinite(gradient(lambda x: mixed(x, training=True), inputs)).all()
    outputs = mixed(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == mixed(keras.Input(shape)).dtype
    error = ops.convert_to_numpy(ops.cast(outputs, "float32") - exact(inputs))
    # bfloat16 has 8 bits of mantissa; layer normalisation magnifies the rounding
    assert np.abs(error).max() < (0.05 if policy == "mixed_bfloat16" else 0.01)


def test_primary_caps_group_neighbouring_channels_of_a_position(rng):
    layer = PrimaryCaps(3, 4, kernel_size=2, strides=2)
    images = rng.normal(size=(2, 6, 5, 3)).astype("float32")
    capsules = ops.convert_to_numpy(layer(images))
    kernel, bias = (w.astype("float64") for w in layer.get_weights())
    for row in range(3):
        for column in range(2):
            window = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            channels = np.einsum("bhwc,hwcf->bf", window, kernel) + bias
            for kind in range(3):
                s = channels[:, 4 * kind : 4 * kind + 4]
                norm = np.linalg.norm(s, axis=-1, keepdims=True)
                index = (row * 2 + column) * 3 + kind
                np.testing.assert_allclose(capsules[:, index], s * norm / (1 + norm**2), atol=1e-5)


def in_graph(function):
    """Keras compiles a training step on TensorFlow in this way."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function)


@pytest.mark.parametrize("strides", [1, 2, (1, 3)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_primary_caps_train_as_they_infer(rng, gradient, strides, padding):
    """In training, a convolution with strides is compiled apart from its gradient."""
    layer = PrimaryCaps(3, 4, kernel_size=3, strides=strides, padding=padding)
    images = rng.normal(size=(5, 9, 8, 2)).astype("float32")
    layer.build(images.shape)
    arrays = [images, *layer.get_weights()]
    upstream = rng.normal(size=layer.compute_output_shape(images.shape))
    upstream = ops.convert_to_tensor(upstream, "float32")

    def capsules(training):
        return in_graph(
            lambda x, *weights: layer.stateless_call(weights, [], x, training=training)[0]
        )

    for batch in (1, 5):
        poses = [capsules(training)(images[:batch], *arrays[1:]) for training in (True, False)]
        np.testing.assert_allclose(*map(ops.convert_to_numpy, poses), atol=1e-6)
    trained, inferred = (
        gradient(lambda *x, training=training: capsules(training)(*x) * upstream, *arrays)
        for training in (True, False)
    )
    for pair in zip(trained, inferred, strict=True):
        np.testing.assert_allclose(*pair, atol=2e-5)  # sums over 5 · 72 positions


@pytest.mark.tensorflow
class TestWhatPrimaryCapsCompile:
    @pytest.fixture
    def calls(self, xla_calls):
        """Function `(training, **options)`: for each call in a layer's graph whether XLA's."""

        def find(training=True, **options):
            layer = PrimaryCaps(3, 4, kernel_size=3, **{"strides": 2, **options})
            images = np.zeros((5, 9, 8, 7), "float32")
            return xla_calls(lambda x: layer(x, training=training), images)

        return find

    @pytest.mark.parametrize("strides", [2, (1, 2)])
    def test_strides_in_training(self, calls, strides):
        assert calls(strides=strides) == [True]

    def test_the_order_of_the_layer_counts(self, calls):
        usual = keras.config.image_data_format()
        keras.config.set_image_data_format("channels_first")
        try:
            assert calls(data_format="channels_last") == [True]
        finally:
            keras.config.set_image_data_format(usual)

    @pytest.mark.parametrize(
        "options",
        [
            *({"strides": 1}, {"training": False}, {"data_format": "channels_first"}),
            *({"dtype": dtype} for dtype in ("mixed_bfloat16", "float64")),
        ],
    )
    def test_nothing_else(self, calls, options):
        assert not calls(**options)

    def test_nothing_with_a_gpu(self, calls, monkeypatch):
        import tensorflow as tf

        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
        assert not calls()

    def test_nothing_outside_of_a_graph(self, monkeypatch):
        """Each size of a batch would be compiled anew."""
        import tensorflow as tf

        monkeypatch.setattr(tf, "custom_gradient", None)
        layer = PrimaryCaps(3, 4, kernel_size=3, strides=2)
        assert layer(np.zeros((5, 9, 8, 2), "float32"), training=True).shape == (5, 36, 4)
        assert layer(keras.Input((9, 8, 2)), training=True).shape == (None, 36, 4)


def test_primary_caps_are_the_same_channels_first(rng):
    """TensorFlow cannot convolve channels first on a CPU: the convolution is stood in for."""
    last = PrimaryCaps(3, 4, kernel_size=2)
    first = PrimaryCaps(3, 4, kernel_size=2, data_format="channels_first")
    images = rng.normal(size=(2, 6, 5, 3)).astype("float32")
    expected = ops.convert_to_numpy(last(images))
    assert first.compute_output_shape((None, 3, 6, 5)) == last.compute_output_shape((None, 6, 5, 3))
    first.build((None, 3, 6, 5))
    first.conv.call = lambda x: ops.transpose(
        last.conv(ops.transpose(x, (0, 2, 3, 1))), (0, 3, 1, 2)
    )
    capsules = ops.convert_to_numpy(first(images.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(capsules, expected, atol=1e-6)


def test_capsule_length(rng):
    poses = rng.normal(size=(3, 5, 4)).astype("float32")
    np.testing.assert_allclose(CapsuleLength()(poses), np.linalg.norm(poses, axis=-1), rtol=1e-5)
    keras.config.set_dtype_policy("mixed_float16")
    assert keras.backend.standardize_dtype(CapsuleLength()(poses).dtype) == "float32"


def test_votes_of_a_constant_capsule_are_biases(rng):
    """Under uniform routing, the layer is squash((Σ_i u_i W_i + length · W_{I+1}[0]) / J)."""
    capsules = rng.normal(size=(3, 6, 4)).astype("float32")
    layer = DigitCaps(5, 2, routing="uniform")
    poses = ops.convert_to_numpy(layer(ConstantCaps(length=1.5)(capsules)))
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")  # (i, k, j, d)
    sums = (np.einsum("bik,ikjd->bjd", capsules, kernel[:-1]) + 1.5 * kernel[-1, 0]) / 5
    squared = np.sum(sums**2, -1, keepdims=True)
    np.testing.assert_allclose(poses, sums * squared**0.5 / (1 + squared), rtol=1e-5, atol=1e-6)


def test_a_constant_capsule_weighs_as_much_as_all_others():
    """With capsules of length one half and the initial kernel, the two parts of the sum."""
    inputs = keras.random.normal((200, 64, 8), seed=1)
    inputs *= 0.5 / ops.norm(inputs, axis=-1, keepdims=True)
    layer = DigitCaps(50, 16, routing="uniform", kernel_initializer=VoteScaling(seed=2))
    layer.build((None, 65, 8))
    capsules = ops.concatenate([inputs, ConstantCaps()(inputs)[:, -1:]], axis=1)
    votes = ops.convert_to_numpy(ops.einsum("bik,ikjd->bijd", capsules, layer.kernel)) / 50
    others = np.linalg.norm(votes[:, :-1].sum(1), axis=-1).mean()
    constant = np.linalg.norm(votes[:, -1], axis=-1).mean()
    assert constant == pytest.approx(others, rel=0.1)


class TestCapsuleMask:
    poses = np.array([[[3, 0], [0, 4], [1, 1]], [[0, 1], [0, 0], [2, 0]]], "float32")

    def expect(self, masked, kept):
        expected = self.poses * np.array(kept, "float32")[..., None]
        np.testing.assert_array_equal(masked, expected)

    def test_keeps_the_longest_without_labels(self):
        self.expect(CapsuleMask()(self.poses), [[0, 1, 0], [0, 0, 1]])
        self.expect(CapsuleMask(num_active=2)(self.poses), [[1, 1, 0], [1, 0, 1]])

    def test_keeps_the_labelled(self):
        for labels in ([0, 1], [[0], [1]], [[1, 0, 0], [0, 1, 0]]):
            self.expect(CapsuleMask()(self.poses, labels=np.array(labels)), [[1, 0, 0], [0, 1, 0]])

    def test_two_hot_labels_keep_two(self):
        labels = np.array([[1, 0, 1], [0, 1, 1]])
        self.expect(CapsuleMask()(self.poses, labels=labels), labels)

    def test_ties_keep_exactly_one(self):
        kept = np.any(ops.convert_to_numpy(CapsuleMask()(np.ones((1, 4, 2)))) != 0, axis=-1)
        assert kept.sum() == 1

    def test_labels_may_be_symbolic(self):
        poses, labels = keras.Input((3, 2)), keras.Input((), dtype="int32")
        model = keras.Model([poses, labels], CapsuleMask()(poses, labels=labels))
        self.expect(model.predict([self.poses, np.array([0, 2])]), [[1, 0, 0], [0, 0, 1]])


@pytest.mark.compiled
@pytest.mark.parametrize("routing", ROUTINGS)
def test_three_capsule_layers_stack(rng, gradient, routing):
    inputs = keras.Input((12, 4))
    x = inputs
    for num_capsules in (8, 6, 3):
        x = DigitCaps(num_capsules, 4, routing=routing)(x)
    model = keras.Model(inputs, CapsuleLength()(x))
    capsules = rng.normal(size=(5, 12, 4)).astype("float32")
    lengths = model.predict(capsules)
    assert lengths.shape == (5, 3)
    if routing == "inverted_attention":  # layer-normalised: √4
        np.testing.assert_allclose(lengths, 2.0, rtol=1e-4)
    else:
        assert (lengths > 1e-3).all() and (lengths < 1).all()
    gradients = gradient(lambda x: model(x, training=True), capsules)
    assert np.isfinite(gradients).all() and gradients.any()


def test_digit_caps_config_covers_every_argument():
    layer = DigitCaps(
        5,
        4,
        routing=DynamicRouting(2),
        kernel_initializer=VoteScaling(3.0, seed=1),
        kernel_regularizer=keras.regularizers.L2(0.1),
        kernel_constraint=keras.constraints.MaxNorm(2.0),
    )
    copy = DigitCaps.from_config(layer.get_config())
    assert (copy.num_capsules, copy.capsule_dim, copy.routing.num_iterations) == (5, 4, 2)
    assert copy.kernel_initializer.scale == 3.0
    assert float(copy.kernel_regularizer.l2) == pytest.approx(0.1)
    assert copy.kernel_constraint.max_value == 2.0
    copy.build((None, 6, 3))
    assert copy.kernel.shape == (6, 3, 5, 4)
    assert len(copy.losses) == 1


def test_primary_caps_config_covers_every_argument():
    layer = PrimaryCaps(2, 4, (3, 2), (2, 1), "same", "channels_last", "zeros", name="primary")
    copy = PrimaryCaps.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.compute_output_shape((None, 5, 5, 1)) == (None, 3 * 5 * 2, 4)
    copy.build((None, 5, 5, 1))
    assert not np.any(copy.get_weights()[0])


def test_a_routing_with_weights_serves_one_layer():
    first = DigitCaps(5, 4, routing="l2")
    first.build((None, 6, 3))
    second = DigitCaps(5, 4, routing=first.routing)
    with pytest.raises(ValueError, match="Give each layer an instance of its own"):
        second.build((None, 6, 3))


def test_a_routing_without_weights_serves_layers_of_one_dtype():
    routing = DynamicRouting()
    for _ in range(2):
        DigitCaps(5, 4, routing=routing).build((None, 6, 3))
    with pytest.raises(ValueError, match="has the dtype, of another layer"):
        DigitCaps(5, 4, routing=routing, dtype="mixed_bfloat16").build((None, 6, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrimaryCaps(0, 8, 3), "`num_capsules` must be a positive integer"),
        (lambda: PrimaryCaps(2, -1, 3), "`capsule_dim` must be a positive integer"),
        (lambda: PrimaryCaps(2, 8, 9)(np.zeros((1, 5, 5, 1))), "output size would be zero"),
        (lambda: PrimaryCaps(2, 8, 3)(keras.Input((None, 5, 1))), "known height, width"),
        (lambda: DigitCaps(0, 16), "`num_capsules` must be a positive integer"),
        (lambda: DigitCaps(10, 1.5), "capsule_dim=1.5"),
        (lambda: DigitCaps(10, 16, routing="best"), "`routing` must be one of 'dynamic'"),
        (lambda: DigitCaps(10, 16)(keras.Input((None, 8))), "known number and dimension"),
        (lambda: DigitCaps(10, 16)(np.zeros((2, 3))), "expected min_ndim=3"),
        (lambda: ConstantCaps(length=0), "`length` must be positive"),
        (
            lambda: ConstantCaps()(keras.Input((None, 4))),
            "needs a known number of capsules and of components",
        ),
        (lambda: CapsuleMask(num_active=0), "`num_active` must be a positive integer"),
        (lambda: CapsuleMask(num_active=4)(np.zeros((1, 3, 2))), "must not exceed the number"),
        (lambda: CapsuleMask()(np.zeros((2, 3, 2)), np.zeros((2, 4))), "`labels` must be integers"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
