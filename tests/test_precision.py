"""Mixed precision: what is rounded to bfloat16 and what is not; convolutions of wide kernels."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.activations import exponential_squash, squash
from kcaps.backend import convolution
from kcaps.backend.compiling import product_dtype
from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.models.architectures import decoder
from kcaps.routing import ROUTINGS, Routing, StoredVotes, Votes

BACKEND = keras.backend.backend()
EPSILON = 2.0**-8  # This is half of the distance of bfloat16 numbers at 1, the largest rounding.


def rounded(x):
    """Returns numbers that bfloat16 can hold, in float32."""
    return np.asarray(ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32")))


def relative_error(x, expected):
    x, expected = (np.asarray(value, "float64") for value in (x, expected))
    return np.linalg.norm(x - expected) / np.linalg.norm(expected)


@pytest.mark.compiled
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ROUTINGS)
def test_gradients_of_routings(rng, gradient, name, training):
    """They err by no more than a rounding or two of bfloat16, for inputs and kernel alike."""
    inputs = rounded(0.5 * rng.normal(size=(16, 24, 8)))
    kernel = rounded(0.2 * rng.normal(size=(24, 8, 5, 16)))
    weights = rng.normal(size=(16, 5, 16)).astype("float32")
    found = {}
    for policy in ("float32", "mixed_bfloat16"):
        layer = DigitCaps(5, 16, routing=name, dtype=policy)
        layer.build(inputs.shape)

        def poses(inputs, kernel, routing=layer.routing):
            outputs = routing(inputs, kernel, training=training)
            return ops.cast(outputs, "float32") * ops.convert_to_tensor(weights)

        found[policy] = gradient(poses, inputs, kernel)
    for mixed, exact in zip(found["mixed_bfloat16"], found["float32"], strict=True):
        assert 0 < relative_error(mixed, exact) < 2 * EPSILON


class WeighsByThirds(Routing):
    """Gives the sums of votes that all have a coupling which bfloat16 rounds, and the dtype."""

    def call(self, inputs, kernel):
        self.seen = product_dtype(inputs.dtype), product_dtype("float32"), product_dtype("float64")
        shape = (kernel.shape[2], inputs.shape[0], inputs.shape[1])
        sums = Votes(inputs, kernel).weighted_sum(ops.full(shape, 1 / 3, "float32"))
        return ops.transpose(sums, (1, 0, 2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_xla_on_a_cpu_multiplies_float32(rng, dtype):
    inputs, kernel = (
        np.asarray(ops.convert_to_numpy(ops.cast(ops.cast(x, dtype), "float32")))
        for x in (rng.uniform(1, 2, (400, 1, 1)), rng.uniform(1, 2, (1, 1, 3, 1)))
    )
    layer = WeighsByThirds(dtype=f"mixed_{dtype}")
    sums = layer(inputs, kernel, training=True)
    assert keras.backend.standardize_dtype(sums.dtype) == dtype
    assert layer.seen == (dtype if BACKEND == "torch" else "float32", "float32", "float64")
    expected = (inputs[:, 0] * kernel[0, 0, :, 0]).astype("float64") / 3  # This product is exact.
    error = np.abs(ops.convert_to_numpy(ops.cast(sums, "float32"))[..., 0] - expected)
    one_rounding = {"bfloat16": EPSILON, "float16": EPSILON / 8}[dtype]
    rounded_once = (error / expected).max() < 1.001 * one_rounding
    assert rounded_once == (BACKEND != "torch")  # Torch rounds couplings and their products too.


@pytest.mark.tensorflow
def test_other_operations_multiply_the_dtype_that_they_are_given():
    """TensorFlow's own products of bfloat16, in inference and exported graphs, are fast."""
    assert [product_dtype(x) for x in ("bfloat16", "float16")] == ["bfloat16", "float16"]
    layer = WeighsByThirds(dtype="mixed_bfloat16")
    layer(np.ones((2, 1, 1)), np.ones((1, 1, 3, 1)), training=False)
    assert layer.seen[0] == "bfloat16"
    layer(np.ones((2, 1, 1)), np.ones((1, 1, 3, 1)), training=True)
    assert layer.seen[0] == "float32" and product_dtype("bfloat16") == "bfloat16"


@pytest.mark.tensorflow
def test_a_gpu_multiplies_half_precision(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    layer = WeighsByThirds(dtype="mixed_bfloat16")
    layer(np.ones((2, 1, 1)), np.ones((1, 1, 3, 1)), training=True)
    assert layer.seen[0] == "bfloat16"


@pytest.mark.parametrize("function", [squash, exponential_squash])
def test_squash_rounds_once(rng, function):
    vectors = rounded(rng.normal(size=(50, 16)))
    found = function(ops.cast(vectors, "bfloat16"))
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(found, "float32")), rounded(function(vectors))
    )


@pytest.mark.parametrize("way", [Votes, StoredVotes])
@pytest.mark.parametrize("components_first", [False, True])
def test_agreements_are_float32(rng, way, components_first):
    """Their softmax is, then: routings take it of nothing else."""
    inputs, kernel = (
        ops.cast(rng.normal(size=shape), "bfloat16") for shape in ((3, 6, 4), (6, 4, 5, 8))
    )
    votes = way(inputs, kernel, components_first)
    assert keras.backend.standardize_dtype(votes.sum().dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(votes.agreement(votes.sum()).dtype) == "float32"


def small_network(routing):
    image = keras.Input((8, 8, 1))
    capsules = PrimaryCaps(4, 8, kernel_size=3, strides=2)(image)
    poses = DigitCaps(3, 8, routing=routing, name="poses")(capsules)
    return CapsNet(image, CapsuleLength()(poses), decoder=decoder(3, 8, (8, 8, 1), units=(16,)))


@pytest.mark.compiled
@pytest.mark.parametrize("routing", ["dynamic", "l2"])
def test_weights_and_losses_of_a_model_are_float32(rng, routing):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small_network(routing)
    model.compile("adam", metrics=["accuracy"])
    images, labels = rng.uniform(0, 255, (6, 8, 8, 1)).astype("float32"), np.arange(6) % 3
    lengths = model(images)
    rebuilt = model.decoder(np.ones((6, 3, 8), "float32"))
    loss = model.compute_loss(y=ops.convert_to_tensor(labels), y_pred=lengths)
    for tensor in (lengths, rebuilt, loss):
        assert keras.backend.standardize_dtype(tensor.dtype) == "float32"
    model.fit(images, labels, verbose=0)
    optimizers = [model.optimizer, *[model.routing_optimizer] * bool(model.routing_variables)]
    variables = [*model.variables, *(v for each in optimizers for v in each.variables)]
    kinds = {v.dtype for v in variables if "float" in v.dtype}
    assert kinds == {"float32"} and model.get_layer("poses").compute_dtype == "bfloat16"


def slow_gradients(images, kernel, upstream, strides, padding):
    """Returns a convolution and its gradients, from pixel to pixel, of images and kernel."""
    (_, *size, _), (*window, _, _) = images.shape, kernel.shape
    if padding == "same":
        new = [-(-n // s) for n, s in zip(size, strides, strict=True)]
        need = [
            max((m - 1) * s + k - n, 0)
            for m, s, k, n in zip(new, strides, window, size, strict=True)
        ]
        edges = [(n // 2, n - n // 2) for n in need]
    else:
        new = [(n - k) // s + 1 for n, k, s in zip(size, window, strides, strict=True)]
        edges = [(0, 0), (0, 0)]
    wide = np.pad(images, [(0, 0), *edges, (0, 0)])
    outputs = np.zeros((len(images), *new, kernel.shape[-1]))
    of_wide, of_kernel = np.zeros_like(wide), np.zeros_like(kernel)
    for row, column in np.ndindex(*new):
        top, left = row * strides[0], column * strides[1]
        part = np.s_[:, top : top + window[0], left : left + window[1]]
        outputs[:, row, column] = np.einsum("byxc,yxcf->bf", wide[part], kernel)
        if upstream is not None:
            of_wide[part] += np.einsum("bf,yxcf->byxc", upstream[:, row, column], kernel)
            of_kernel += np.einsum("byxc,bf->yxcf", wide[part], upstream[:, row, column])
    top, left = edges[0][0], edges[1][0]
    return outputs, of_wide[:, top : top + size[0], left : left + size[1]], of_kernel


@pytest.mark.tensorflow
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_convolution_by_phases(rng, strided, padding):
    """Sums of small integers are exact in bfloat16, so that each pixel must be in its place."""
    size, window, strides = strided
    import tensorflow as tf

    images = rng.integers(-1, 2, (2, *size, 3)).astype("float32")
    kernel = rng.integers(-1, 2, (*window, 3, 2)).astype("float32")
    shape = slow_gradients(images, kernel, None, strides, padding)[0].shape
    upstream = rng.integers(-1, 2, shape).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec((None, *size, 3)), tf.TensorSpec(kernel.shape)])
    def run(images, kernel):
        images, kernel = (tf.cast(x, "bfloat16") for x in (images, kernel))
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = convolution.convolve_by_phases(images, kernel, strides, padding)
        slopes = tape.gradient(outputs, [images, kernel], tf.cast(upstream, "bfloat16"))
        return [tf.cast(x, "float32") for x in (outputs, *slopes)]

    expected = slow_gradients(images, kernel, upstream, strides, padding)
    for found, right in zip(run(images, kernel), expected, strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.fixture
def phases(monkeypatch):
    """Function that says whether a `PrimaryCaps` is convolved by phases, in a traced step."""
    import tensorflow as tf

    def count(channels, filters, kernel_size=4, strides=2, dtype="mixed_bfloat16", training=True):
        calls = []
        original = convolution.convolve_by_phases
        monkeypatch.setattr(
            convolution,
            "convolve_by_phases",
            lambda *args: calls.append(args) or original(*args),
        )
        layer = PrimaryCaps(
            filters // 8, 8, kernel_size, strides, kernel_initializer="zeros", dtype=dtype
        )
        spec = tf.TensorSpec((None, 9, 9, channels))
        tf.function(lambda x: layer(x, training=training)).get_concrete_function(spec)
        monkeypatch.setattr(convolution, "convolve_by_phases", original)
        return bool(calls)  # Keras may trace a layer twice.

    return count


@pytest.mark.tensorflow
class TestWhereConvolutionsGoByPhases:
    def test_wide_kernels_of_bfloat16(self, phases):
        assert phases(128, 256) and phases(256, 128) and phases(128, 256, 9, (1, 2))

    def test_no_narrow_kernels(self, phases):
        assert not phases(128, 248)

    def test_no_kernels_that_zeros_would_double(self, phases):
        assert phases(256, 256, 3, 2)  # 16 / 9
        assert not phases(256, 256, 1, 2) and not phases(256, 256, 5, 4)

    @pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
    def test_no_other_precision(self, phases, dtype):
        assert not phases(128, 256, dtype=dtype)

    def test_no_inference_and_no_convolution_without_strides(self, phases):
        assert not phases(128, 256, training=False) and not phases(128, 256, strides=1)

    def test_not_with_a_gpu(self, phases, monkeypatch):
        import tensorflow as tf

        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
        assert not phases(128, 256)


@pytest.mark.tensorflow
def test_gradients_of_wide_primary_caps(rng):
    """By phases, they err as the plain ones do: by the roundings of bfloat16."""
    import tensorflow as tf

    images = rounded(rng.normal(size=(4, 6, 6, 128)))
    layers = [PrimaryCaps(32, 8, 3, 2, dtype=dtype) for dtype in ("float32", "mixed_bfloat16")]
    layers[0](images)
    layers[1](images)
    weights = [rounded(layers[0].get_weights()[0]), rounded(rng.normal(size=256))]
    upstream = rounded(rng.normal(size=(4, 128, 8)))

    def gradients(layer):
        layer.set_weights(weights)

        @tf.function
        def run(images):
            with tf.GradientTape() as tape:
                tape.watch(images)
                capsules = tf.cast(layer(images, training=True), "float32")
                loss = tf.reduce_sum(capsules * upstream)
            return tape.gradient(loss, [images, *(v.value for v in layer.trainable_variables)])

        return run(tf.constant(images))

    for mixed, exact in zip(gradients(layers[1]), gradients(layers[0]), strict=True):
        assert mixed.dtype == "float32"
        assert 0 < relative_error(mixed, exact) < 4 * EPSILON
