"""Rows of the textbook's formulation in JAX under `jit`, without kcaps and Keras."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from peers_rows import Row, first_weights
from subjects import INPUT_DIM, POSITIONS, layer_batch, step_batch

NAME = "JAX textbook, jit"


def squash(x):
    squared = jnp.sum(x**2, axis=-1, keepdims=True)
    return squared / (1 + squared) * x / jnp.sqrt(squared + 1e-7)


def caps(inputs, kernel, num_iterations=3):
    """Returns poses of capsules by dynamic routing."""
    votes = jnp.einsum("bik,ikjd->bijd", inputs, kernel)
    logits = jnp.zeros_like(votes[..., :1])
    for iteration in range(num_iterations):
        couplings = jax.nn.softmax(logits, axis=2)
        poses = squash(jnp.sum(couplings * votes, axis=1, keepdims=True))
        if iteration < num_iterations - 1:
            logits = logits + jnp.sum(votes * poses, axis=-1, keepdims=True)
    return jnp.squeeze(poses, axis=1)


def lengths(weights, images):
    """Returns the lengths of the class capsules of the whole network, in the images' dtype."""
    first, first_bias, second, second_bias, kernel = (x.astype(images.dtype) for x in weights)
    convolve = functools.partial(
        jax.lax.conv_general_dilated, padding="VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    features = jax.nn.relu(convolve(images, first, (1, 1)) + first_bias)
    features = convolve(features, second, (2, 2)) + second_bias
    capsules = squash(features.reshape(len(images), -1, INPUT_DIM))
    return jnp.linalg.norm(caps(capsules, kernel).astype("float32"), axis=-1)


def margin_loss(weights, images, labels):
    found = lengths(weights, images)
    present = jax.nn.one_hot(labels, found.shape[-1])
    loss = present * jax.nn.relu(0.9 - found) ** 2
    loss = loss + 0.5 * (1 - present) * jax.nn.relu(found - 0.1) ** 2
    return loss.sum(axis=-1).mean()


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, images, labels):
    """Returns the loss and the new state: weights, both moments of Adam, and the steps so far."""
    weights, means, squares, count = state
    loss, gradients = jax.value_and_grad(margin_loss)(weights, images, labels)
    count = count + 1
    means = [0.9 * m + 0.1 * g for m, g in zip(means, gradients, strict=True)]
    squares = [0.999 * s + 0.001 * g**2 for s, g in zip(squares, gradients, strict=True)]
    rate = 1e-3 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    moments = zip(weights, means, squares, strict=True)
    weights = [w - rate * m / (jnp.sqrt(s) + 1e-7) for w, m, s in moments]
    return loss, (weights, means, squares, count)


@jax.jit
def gradient(inputs, kernel, upstream):
    """Returns poses, and the gradients of inputs and kernel."""
    poses, backward = jax.vjp(lambda u, w: caps(u, w.astype(u.dtype)), inputs, kernel)
    return poses, *backward(upstream)


def poses_and_gradients(results):
    """Returns the arrays of the last result."""
    return [np.asarray(x, "float32") for x in results[-1]]


def compute_dtype(args):
    return "float32" if args.precision == "float32" else "bfloat16"


def layers(args):
    """Returns the row of the layer, by name."""
    batch = layer_batch(args.batch_size, POSITIONS * args.types)
    inputs, upstream = (jnp.asarray(x, compute_dtype(args)) for x in batch)
    kernel = jnp.asarray(first_weights(args.filters, args.types)[-1])
    return {NAME: Row(lambda: gradient(inputs, kernel, upstream), poses_and_gradients)}


def steps(args):
    """Returns the row of training steps, by name."""
    images, labels = step_batch(args.batch_size)
    images, labels = jnp.asarray(images / 255, compute_dtype(args)), jnp.asarray(labels)
    weights = [jnp.asarray(x) for x in first_weights(args.filters, args.types)]
    zeros = [[jnp.zeros_like(x) for x in weights] for _ in range(2)]
    state = (weights, *zeros, jnp.zeros((), "int32"))

    def call():
        nonlocal state  # The step takes the memory of the old state for the new one.
        loss, state = train_step(state, images, labels)
        return loss

    return {NAME: Row(call, lambda results: [np.array(results, "float32")])}
