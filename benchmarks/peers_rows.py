"""The rows of the comparison with peers: what they have in common, and those of kcaps."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from device import BACKEND, step_function
from keras import ops
from subjects import (
    INPUT_DIM,
    NUM_CLASSES,
    OUTPUT_DIM,
    POSITIONS,
    layer_call,
    make_layer,
    network,
    step_batch,
)

LIBRARIES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
ROUTINGS = ("dynamic", "l1", "l2")
WINDOW = 9  # of both convolutions


@dataclasses.dataclass(frozen=True)
class Row:
    """A function that is timed, and what tells that it computes the right thing.

    Args:
        call: Function without arguments, which is timed.
        arrays: Function from the results of the first calls to the arrays that are compared: poses
            and gradients in the layout of Keras' layer, or the losses of the steps.
        group: Name of the computation. Rows of a group give the same arrays.
        may_fail: Whether the row is left out where its first call fails, as for want of a compiler.
    """

    call: Callable[[], object]
    arrays: Callable[[list], list[np.ndarray]]
    group: str = "dynamic"
    may_fail: bool = False


def first_weights(filters, types):
    """Returns the weights that every network begins with, in the order of kcaps' network."""
    rng, num_inputs = np.random.default_rng(1), POSITIONS * types

    def draw(deviation, *shape):
        return rng.normal(scale=deviation, size=shape).astype("float32")

    deviation = NUM_CLASSES / (0.25 * num_inputs * OUTPUT_DIM) ** 0.5  # as VoteScaling has it
    return [
        draw(1 / WINDOW, WINDOW, WINDOW, 1, filters),
        np.zeros(filters, "float32"),
        draw(1 / (WINDOW * filters**0.5), WINDOW, WINDOW, filters, types * INPUT_DIM),
        np.zeros(types * INPUT_DIM, "float32"),
        draw(deviation, num_inputs, INPUT_DIM, NUM_CLASSES, OUTPUT_DIM),
    ]


def poses_and_gradients(results):
    """Returns the arrays of the last of Keras' results."""
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in keras.tree.flatten(results[-1])]


def losses(results):
    """Returns the losses of Keras' first steps, from what `step_function` gives."""
    if not isinstance(results[0], dict):
        return [np.array(results)]
    # A training function of Keras tells the mean of all losses so far.
    means = [float(logs["loss"]) for logs in results]
    return [np.diff(means * np.arange(1, len(means) + 1), prepend=0.0)]


def begin(variables, weights):
    """Assigns the first weights; coupling coefficients, which come last, begin as kcaps has it."""
    for variable, value in zip(variables, weights, strict=False):
        variable.assign(value)


def kcaps_layers(args):
    """Returns the rows of kcaps' layers on this backend, by name."""
    rows = {}
    for routing in ROUTINGS:
        layer = make_layer(routing, POSITIONS * args.types)
        begin([layer.kernel], first_weights(args.filters, args.types)[-1:])
        call = layer_call(layer, args.batch_size)
        rows[f"kcaps on {LIBRARIES[BACKEND]}, {routing}"] = Row(call, poses_and_gradients, routing)
    return rows


def keras_step(args, model, **options):
    """Returns the function that trains a Keras model for one step, from the first weights."""
    begin(model.weights, first_weights(args.filters, args.types))
    model.compile("adam", loss="margin", **options)
    return step_function(model, *step_batch(args.batch_size))


def kcaps_steps(args):
    """Returns the rows of training steps of kcaps' networks on this backend, by name."""
    rows = {}
    for routing in ROUTINGS:
        for update in ("joint",) if routing == "dynamic" else ("joint", "alternating"):
            call = keras_step(args, network(routing, args.filters, args.types), update=update)
            group = routing if routing == "dynamic" else f"{routing}, {update}"
            rows[f"kcaps on {LIBRARIES[BACKEND]}, {group}"] = Row(call, losses, group)
    return rows


def product(args):
    """Returns the row of a product of square matrices, by name: its rate is that of the floor."""
    matrix = np.random.default_rng(0).normal(size=(args.product, args.product))
    matrix = ops.convert_to_tensor(matrix, keras.config.dtype_policy().compute_dtype)
    row = Row(lambda: ops.matmul(matrix, matrix), lambda _: [], "product")
    return {f"matrix product on {LIBRARIES[BACKEND]}": row}
