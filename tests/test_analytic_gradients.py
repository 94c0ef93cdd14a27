"""Gradients derived by hand (Daza, section 1.1 and 3.2) against automatic differentiation.

Equation numbers are the paper's. Samples are in rows, x~ is what comes before an activation. Keras'
kernels are W transposed.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kcaps.losses import LogLoss, log

EPSILON = 1e-3
# float32: gradients here are of order 1.
close = dict(rtol=1e-4, atol=2e-6)


def softmax(x):
    z = np.exp(x - x.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def cross_entropy_backward(targets, x):  # (3), (39)
    return -targets / x


def softmax_backward(grad, x):  # (28): x is the output
    jacobian = np.stack([np.diag(row) - np.outer(row, row) for row in x])  # (16)
    return np.einsum("bi,bij->bj", grad, jacobian)


def relu_backward(grad, x):  # (32): x is the input
    return grad * (x > 0)


def linear_backward(grad, x, kernel):  # (33) to (38), summed over the batch
    return (
        grad @ kernel.T,
        sum(np.outer(g, row) for g, row in zip(grad, x, strict=True)).T,
        sum(grad),
    )


def normalise(x):  # (40) to (42)
    return (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON)


def batch_normalization_backward(grad, x, gamma):  # section 3.2 a
    normal, size = normalise(x), len(x)
    grad_gamma, grad_beta = (grad * normal).sum(0), grad.sum(0)
    scale = gamma / (size * np.sqrt(x.var(0) + EPSILON))
    return scale * (size * grad - grad_beta - normal * grad_gamma), grad_gamma, grad_beta


def normal(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def one_hot(rng, batch, classes):
    return np.eye(classes, dtype="float32")[rng.integers(classes, size=batch)]


def call(layer, variables, x):
    """A layer in training, as a function of its variables."""
    state = [ops.convert_to_numpy(v) for v in layer.non_trainable_variables]
    return layer.stateless_call(variables, state, x, training=True)[0]


def test_cross_entropy(rng, gradient):
    targets, x = one_hot(rng, 4, 5), softmax(normal(rng, 4, 5))
    found = gradient(lambda p: log(targets, p, from_logits=False), x)
    np.testing.assert_allclose(found, cross_entropy_backward(targets, x), **close)


def test_softmax(rng, gradient):
    x = normal(rng, 3, 5)
    for i in range(5):  # a row of the Jacobian at a time
        grad = np.eye(5, dtype="float32")[[i, i, i]]
        found = gradient(lambda x, grad=grad: ops.multiply(grad, ops.softmax(x)), x)
        np.testing.assert_allclose(found, softmax_backward(grad, softmax(x)), **close)
    grad = normal(rng, 3, 5)
    found = gradient(lambda x: ops.multiply(grad, ops.softmax(x)), x)
    np.testing.assert_allclose(found, softmax_backward(grad, softmax(x)), **close)


@pytest.mark.parametrize(
    "loss",
    [
        LogLoss(reduction="sum"),
        keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum"),
    ],
)
def test_cross_entropy_of_softmax(rng, gradient, loss):
    targets, x = one_hot(rng, 4, 5), normal(rng, 4, 5)
    probabilities = softmax(x)
    expected = softmax_backward(cross_entropy_backward(targets, probabilities), probabilities)
    np.testing.assert_allclose(expected, probabilities - targets, **close)
    np.testing.assert_allclose(gradient(lambda x: loss(targets, x), x), expected, **close)


@pytest.mark.parametrize("relu", [ops.relu, layers.ReLU()])
def test_relu(rng, gradient, relu):
    x, grad = normal(rng, 4, 5), normal(rng, 4, 5)
    x[0, 0] = 0  # the indicator is of x > 0
    found = gradient(lambda x: ops.multiply(grad, relu(x)), x)
    np.testing.assert_allclose(found, relu_backward(grad, x), **close)


def test_linear(rng, gradient):
    layer = layers.Dense(3)
    layer.build((None, 5))
    arrays = normal(rng, 4, 5), normal(rng, 5, 3), normal(rng, 3)
    grad = normal(rng, 4, 3)
    found = gradient(lambda x, *variables: ops.multiply(grad, call(layer, variables, x)), *arrays)
    for a, b in zip(found, linear_backward(grad, *arrays[:2]), strict=True):
        np.testing.assert_allclose(a, b, **close)


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4, 3)])
def test_batch_normalization(rng, gradient, shape):
    """Also of images, where each place of each sample is one of the s."""
    layer = layers.BatchNormalization(epsilon=EPSILON)
    layer.build((None, *shape[1:]))
    x, gamma, beta, grad = normal(rng, *shape), normal(rng, 3), normal(rng, 3), normal(rng, *shape)
    y = ops.convert_to_numpy(call(layer, [gamma, beta], x))
    np.testing.assert_allclose(
        y.reshape(-1, 3), gamma * normalise(x.reshape(-1, 3)) + beta, rtol=1e-4, atol=1e-5
    )
    found = gradient(
        lambda x, *variables: ops.multiply(grad, call(layer, variables, x)), x, gamma, beta
    )
    expected = batch_normalization_backward(grad.reshape(-1, 3), x.reshape(-1, 3), gamma)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-3, atol=1e-5)


def test_a_network(rng, gradient):
    """All of them, one after the other: linear, batch normalisation, ReLU, linear, loss."""
    network = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(7),
            layers.BatchNormalization(epsilon=EPSILON),
            layers.ReLU(),
            layers.Dense(3, name="logits"),
        ]
    )
    x, targets = normal(rng, 8, 5), one_hot(rng, 8, 3)
    variables = [normal(rng, *variable.shape) for variable in network.trainable_variables]
    kernel, bias, gamma, beta, last_kernel, last_bias = variables
    found = gradient(
        lambda *variables: log(targets, call(network, variables, x)) / len(x), *variables
    )
    first = x @ kernel + bias
    before_relu = gamma * normalise(first) + beta
    hidden = np.maximum(before_relu, 0)
    probabilities = softmax(hidden @ last_kernel + last_bias)
    grad = cross_entropy_backward(targets, probabilities) / len(x)
    grad = softmax_backward(grad, probabilities)
    grad, *last = linear_backward(grad, hidden, last_kernel)
    grad = relu_backward(grad, before_relu)
    grad, *middle = batch_normalization_backward(grad, first, gamma)
    _, *begin = linear_backward(grad, x, kernel)
    for a, b in zip(found, [*begin, *middle, *last], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
