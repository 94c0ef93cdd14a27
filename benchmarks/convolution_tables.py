"""The table of ways to compute the convolution of the primary capsules, which has strides."""

import keras
import numpy as np
from device import gradient_function
from keras import ops
from subjects import INPUT_DIM
from timing import interleaved, milliseconds, quartiles, table

from kcaps.backend.convolution import convolve_by_phases, in_phases

SIZE, WINDOW, STRIDES = 20, 9, (2, 2)  # of the reference network


class Convolution(keras.layers.Layer):
    """The valid convolution of a reference `PrimaryCaps`, in one of several `WAYS`."""

    def __init__(self, way, filters, channels):
        super().__init__()
        self.way = way
        self.kernel = self.add_weight(
            shape=(WINDOW, WINDOW, channels, filters), initializer="lecun_normal", name="kernel"
        )
        self.built = True

    def call(self, inputs, training=None):
        return WAYS[self.way](inputs, ops.convert_to_tensor(self.kernel))


def _plain(inputs, kernel):
    return ops.conv(inputs, kernel, STRIDES, "valid", "channels_last")


def _by_phases(inputs, kernel):
    maps, kernel = in_phases(inputs, kernel, STRIDES, "valid")
    return ops.conv(maps, kernel, 1, "valid", "channels_last")


def _by_products(inputs, kernel):
    return convolve_by_phases(inputs, kernel, STRIDES, "valid")


WAYS = {"with strides": _plain, "by phases": _by_phases, "by phases and products": _by_products}


def convolution_section(args):
    """Prints the speed of the convolution forward and backward, by the way of computing it."""
    rows = {way: _call(args, way) for way in WAYS}
    seconds = interleaved(rows, args.repeats, args.calls, args.threads)
    filters, lines = args.types * INPUT_DIM, []
    for way, values in seconds.items():
        ratio = np.median(values / seconds["with strides"])
        args.records.add(
            "convolution",
            way,
            quartiles(values),
            batch_size=args.batch_size,
            note=f"{ratio:.4f} of that with strides",
        )
        lines.append((way, *milliseconds(values), f"{ratio:.3f}"))
    table(
        f"Convolution of the primary capsules forward and backward: batch {args.batch_size}, "
        f"{args.filters} × {filters}",
        ("way", "ms", "quartiles", "of that with strides"),
        lines,
    )


def _call(args, way):
    """Returns a function without arguments: features and gradients on one random batch."""
    layer = Convolution(way, args.types * INPUT_DIM, args.filters)
    rng, size = np.random.default_rng(0), (SIZE - WINDOW) // STRIDES[0] + 1
    shapes = [(SIZE, SIZE, args.filters), (size, size, args.types * INPUT_DIM)]
    images, upstream = (
        ops.convert_to_tensor(rng.normal(size=(args.batch_size, *shape)), layer.compute_dtype)
        for shape in shapes
    )
    gradient = gradient_function(layer)
    return lambda: gradient(images, upstream)
