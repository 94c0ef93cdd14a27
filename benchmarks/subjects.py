"""The subjects of the benchmark: a layer alone, and a training step of a whole network."""

import functools

import keras
import numpy as np
from device import full_precision, gpu_name, gradient_function, inference_function, step_function
from keras import ops
from textbook import TextbookCaps, squash

from kcaps.layers import CapsuleLength, DigitCaps
from kcaps.models import CapsNet, capsnet

IMAGE = (28, 28, 1)
POSITIONS = 36  # of the primary capsules on such an image; each holds all types
NUM_CLASSES, INPUT_DIM, OUTPUT_DIM = 10, 8, 16


def make_layer(routing, num_inputs):
    """Returns a built layer: `"textbook"`, or `DigitCaps` with a routing or its name."""
    if routing == "textbook":
        layer = TextbookCaps(NUM_CLASSES, OUTPUT_DIM)
    else:
        layer = DigitCaps(NUM_CLASSES, OUTPUT_DIM, routing=routing)
    layer.build((None, num_inputs, INPUT_DIM))
    return layer


def random_batch(shape, poses_shape):
    """Returns random input capsules, and a random gradient with respect to the poses."""
    rng = np.random.default_rng(0)
    # Capsules of lengths around one half, as PrimaryCaps gives them.
    return rng.normal(scale=0.2, size=shape), rng.normal(size=poses_shape)


def layer_batch(batch_size, num_inputs):
    """Returns what `random_batch` does, for a layer that `make_layer` makes."""
    shape = (batch_size, num_inputs, INPUT_DIM)
    return random_batch(shape, (batch_size, NUM_CLASSES, OUTPUT_DIM))


def call_on(layer, shape):
    """Returns a function without arguments: poses and gradients on one random batch of a shape."""
    batch = random_batch(shape, layer.compute_output_shape(shape))
    inputs, upstream = (ops.convert_to_tensor(x, layer.compute_dtype) for x in batch)
    return functools.partial(gradient_function(layer), inputs, upstream)


def layer_call(layer, batch_size):
    """Returns what `call_on` does, for a layer that `make_layer` made."""
    return call_on(layer, (batch_size, layer.kernel.shape[0], INPUT_DIM))


def layer_inference(layer, batch_size):
    """Returns a function without arguments: poses of one random batch."""
    inputs = keras.Input(layer.kernel.shape[:2], dtype=layer.compute_dtype)
    model = keras.Model(inputs, layer(inputs))
    shape = (batch_size, *layer.kernel.shape[:2])
    capsules = np.random.default_rng(0).normal(scale=0.2, size=shape)
    capsules = ops.convert_to_tensor(capsules, dtype=layer.compute_dtype)
    infer = inference_function(model)
    return lambda: infer(capsules)


def difference_to_textbook(num_inputs):
    """Returns the largest relative difference of poses and gradients to the textbook's.

    Raises:
        RuntimeError: if it is more than rounding.
    """
    ours, textbook = (make_layer("dynamic", num_inputs), make_layer("textbook", num_inputs))
    textbook.kernel.assign(ours.kernel)
    with full_precision():
        pairs = zip(
            *(keras.tree.flatten(layer_call(layer, 8)()) for layer in (ours, textbook)), strict=True
        )
        pairs = [tuple(map(ops.convert_to_numpy, pair)) for pair in pairs]
    difference = np.max([np.abs(a - b).max() / np.abs(b).max() for a, b in pairs])
    tolerance = 1e-4 if gpu_name() is None else 1e-2  # TensorFlow multiplies in TF32
    if not difference <= tolerance:
        raise RuntimeError(
            "The textbook layer and kcaps' dynamic routing do not compute the same: they differ "
            f"by {difference:.1e} of the largest value."
        )
    return difference


def network(name, filters, types):
    """Returns a routing's network without decoder, or that of `"textbook"` or `"convolutions"`."""
    model = capsnet(
        IMAGE,
        NUM_CLASSES,
        routing="dynamic" if name in ("convolutions", "textbook") else name,
        filters=filters,
        num_primary_capsules=types,
        decoder_units=None,
    )
    if name in ("convolutions", "textbook"):
        # A new layer of its settings, without what PrimaryCaps does to train faster.
        config = model.get_layer("primary_caps").conv.get_config() | {"name": "primary_conv"}
        features = keras.layers.Conv2D.from_config(config)(model.get_layer("conv").output)
        if name == "convolutions":
            return keras.Model(model.input, features)
        capsules = squash(keras.layers.Reshape((-1, INPUT_DIM))(features))
        poses = TextbookCaps(NUM_CLASSES, OUTPUT_DIM)(capsules)
        return CapsNet(model.input, CapsuleLength()(poses))
    return model


def mean_square(_, features):
    return ops.mean(ops.square(ops.cast(features, "float32")), axis=(1, 2, 3))


def step_batch(batch_size):
    """Returns random images of pixels 0 to 255, and their random labels."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, size=(batch_size, *IMAGE)).astype("float32")
    return images, rng.integers(NUM_CLASSES, size=batch_size)


def step_calls(name, batch_size, filters, types):
    """Returns functions that train a network for one step, by row: one for each kind of update."""
    images, labels = step_batch(batch_size)

    def step(loss="margin", **options):
        model = network(name, filters, types)
        model.compile("adam", loss=loss, **options)  # Keras chooses about XLA in every row
        return step_function(model, images, labels)

    if name == "convolutions":
        return {name: step(mean_square)}
    if network(name, filters, types).routing_variables:
        return {f"{name}, {update}": step(update=update) for update in ("joint", "alternating")}
    return {name: step()}
