"""EM routing in blocks, beside the plain form of it."""

import functools
import math
import re

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.activations import safe_norm
from kcaps.routing import EMRouting
from kcaps.routing.em_blocks import em_in_blocks

TEMPERATURES = [0.1, 0.2, 0.4]


def in_blocks(inputs, kernel, *biases, iterations=3):
    active = ops.minimum(safe_norm(inputs), 1.0)
    return em_in_blocks(inputs, kernel, active, biases, TEMPERATURES[:iterations], 5e-4)


class AtTemperatures(EMRouting):
    """The plain form, at the temperatures above."""

    def _temperatures(self):
        return TEMPERATURES[: self.num_iterations]


def plain_poses(inputs, kernel, *biases, iterations=3):
    routing = AtTemperatures(iterations)
    routing.activation_bias, routing.cost_bias = biases
    *_, (_, poses) = routing.iterate(inputs, kernel)
    return poses


def poses_of(means, logits):
    lengths = ops.sqrt(ops.sum(ops.square(means), axis=-1, keepdims=True))
    return ops.expand_dims(ops.sigmoid(logits), -1) * means / lengths


def draw(rng, batch, num_inputs, input_dim, num_outputs, output_dim):
    """Returns random inputs, kernel and both biases."""
    shapes = (batch, num_inputs, input_dim), (num_inputs, input_dim, num_outputs, output_dim)
    arrays = [scale * rng.normal(size=shape) for scale, shape in zip((0.4, 1), shapes, strict=True)]
    arrays += [0.5 * rng.normal(size=num_outputs) for _ in range(2)]
    return [x.astype("float32") for x in arrays]


SHAPES = [
    ((3, 8, 3, 4, 5), 3),  # two blocks of four
    ((2, 7, 3, 4, 5), 3),  # a prime number, blocks of one
    ((2, 6, 2, 1, 4), 3),  # one output capsule
    ((5, 6, 8, 5, 1), 2),  # one component
    ((1, 1, 1, 2, 3), 2),  # one input capsule and example
    ((4, 12, 2, 3, 6), 1),  # one iteration, which has no assignment
]


@pytest.mark.parametrize(("shape", "iterations"), SHAPES, ids=str)
def test_poses_and_gradients_equal_the_plain_form(rng, gradient, shape, iterations):
    arrays = draw(rng, *shape)
    upstream = ops.convert_to_tensor(rng.normal(size=(shape[0], *shape[3:])), "float32")

    def plain(*tensors):
        return plain_poses(*tensors, iterations=iterations) * upstream

    def blocks(*tensors):
        return poses_of(*in_blocks(*tensors, iterations=iterations)) * upstream

    tensors = [ops.convert_to_tensor(x) for x in arrays]
    expected, received = (ops.convert_to_numpy(f(*tensors)) for f in (plain, blocks))
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=2e-6)
    pairs = zip(gradient(plain, *arrays), gradient(blocks, *arrays), strict=True)
    for expected, received in pairs:
        tolerance = 2e-5 * max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(received, expected, atol=tolerance)


def test_variances_far_from_zero_keep_their_digits(rng):
    """Sums of squares about zero would lose them: the votes are hundreds of times their spread."""
    inputs = np.ones((2, 24, 3)) / math.sqrt(3) + 0.002 * rng.normal(size=(2, 24, 3))
    kernel = 2 + rng.normal(size=(1, 3, 3, 4)) + 0.002 * rng.normal(size=(24, 3, 3, 4))
    inputs, kernel, zeros = (x.astype("float32") for x in (inputs, kernel, np.zeros(3)))
    active = ops.minimum(safe_norm(inputs), 1.0)
    tensors = map(ops.convert_to_tensor, (inputs, kernel, active))
    # A floor far below the variances, which would hide their errors.
    _, logits = em_in_blocks(*tensors, (zeros, zeros), [1.0], 1e-12)

    votes = np.einsum("bik,ikjd->bijd", inputs.astype("float64"), kernel.astype("float64"))
    mass = np.minimum(np.linalg.norm(inputs.astype("float64"), axis=-1), 1) / 3
    weights = (mass / mass.sum(1, keepdims=True))[..., None, None]
    variances = (weights * (votes - (weights * votes).sum(1, keepdims=True)) ** 2).sum(1)
    expected = -0.5 * np.log(variances).sum(-1) * mass.sum(1, keepdims=True)
    np.testing.assert_allclose(ops.convert_to_numpy(logits), expected, rtol=1e-4)


def test_votes_of_any_length_have_finite_gradients(rng, gradient):
    inputs, *others = draw(rng, 2, 8, 3, 3, 4)
    inputs[0, :4] = 0
    inputs[1] *= 1e4
    for values in gradient(lambda *x: poses_of(*in_blocks(*x)), inputs, *others):
        assert np.isfinite(values).all()


def test_a_subclass_with_an_iteration_of_its_own_trains_by_it():
    class Halved(EMRouting):
        def iterate(self, inputs, kernel):
            for couplings, poses in super().iterate(inputs, kernel):
                yield couplings, poses / 2

    inputs, kernel = np.ones((2, 4, 3), "float32"), np.ones((4, 3, 2, 5), "float32")
    whole, half = (cls()(inputs, kernel, training=True) for cls in (EMRouting, Halved))
    np.testing.assert_allclose(
        ops.convert_to_numpy(half), ops.convert_to_numpy(whole) / 2, atol=1e-6
    )


def second_derivatives(function, arrays, upstream, vectors):
    """Returns the gradient of products of first gradients with vectors."""
    if keras.backend.backend() == "jax":
        import jax

        def first(*x):
            gradients = jax.vjp(function, *x)[1](upstream)
            return sum((g * v).sum() for g, v in zip(gradients, vectors, strict=True))

        return jax.grad(first, argnums=tuple(range(len(arrays))))(*arrays)
    import tensorflow as tf

    @tf.function(autograph=False)
    def second(*x):
        with tf.GradientTape() as outer, tf.GradientTape() as inner:
            outer.watch(x)
            inner.watch(x)
            outputs = function(*x)
            gradients = inner.gradient(outputs, x, upstream)
        return outer.gradient(gradients, x, vectors)

    return second(*map(tf.constant, arrays))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch does not compile by XLA")
def test_second_derivatives_equal_those_of_the_plain_form(rng):
    arrays = draw(rng, 3, 8, 3, 4, 5)
    upstream = rng.normal(size=(3, 4, 5)).astype("float32")
    vectors = [rng.normal(size=x.shape).astype("float32") for x in arrays]

    def blocks(*tensors):
        return poses_of(*in_blocks(*tensors))

    pairs = (second_derivatives(f, arrays, upstream, vectors) for f in (plain_poses, blocks))
    for expected, received in zip(*pairs, strict=True):
        tolerance = 2e-5 * np.abs(expected).max()
        np.testing.assert_allclose(received, expected, atol=tolerance)


@pytest.mark.tensorflow
def test_a_persistent_tape_trains_a_batch_of_any_size(rng):
    """It asks for second derivatives in advance, which TensorFlow has of few loops."""
    import tensorflow as tf

    inputs, kernel, *_ = draw(rng, 3, 8, 3, 4, 5)
    routing = EMRouting()
    routing.build(inputs.shape, kernel.shape)

    def train(inputs, persistent):
        with tf.GradientTape(persistent=persistent) as tape:
            tape.watch(inputs)
            poses = routing(inputs, kernel, training=True)
        return tape.gradient(poses, inputs)

    signature = [tf.TensorSpec((None, *inputs.shape[1:]))]
    once, often = (
        tf.function(functools.partial(train, persistent=persistent), signature, autograph=False)
        for persistent in (False, True)
    )
    np.testing.assert_allclose(often(inputs), once(inputs), atol=1e-6)


@pytest.mark.tensorflow
def test_no_tensor_of_a_training_is_as_large_as_the_votes():
    import tensorflow as tf

    sizes = 64, 40, 2, 5, 6
    inputs, kernel, *_ = draw(np.random.default_rng(0), *sizes)
    routing = EMRouting()
    routing.build(inputs.shape, kernel.shape)

    @tf.function(jit_compile=True)
    def train(inputs, kernel):
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            poses = routing(inputs, kernel, training=True)
        return tape.gradient(poses, [inputs, kernel])

    tensors = tf.constant(inputs), tf.constant(kernel)
    program = train.experimental_get_compiler_ir(*tensors)(stage="hlo")
    shapes = re.findall(r"f32\[([\d,]+)\]", program)
    largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
    votes = sizes[0] * sizes[1] * sizes[3] * sizes[4]
    assert largest < votes / 4
