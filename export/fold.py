"""Routing coefficients and what is done to channels, multiplied into kernels for inference."""

import copy

import keras
import numpy as np
from keras import ops

from export.channels import fold_channels
from kcaps import graph
from kcaps.activations import squash
from kcaps.backend.keras_private import origin
from kcaps.layers import ConvCaps2D, DigitCaps, PrimaryCaps
from kcaps.routing import couplings_to_fold


class FoldedCaps(keras.layers.Layer):
    """Capsules whose routing is part of their kernel: `squash(u W)`, one matrix product.

    Args:
        kernel: Array `(num_inputs, input_dim, num_outputs, output_dim)`, the coupling coefficients
            multiplied in.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).
    """

    def __init__(self, kernel, **kwargs):
        super().__init__(**kwargs)
        num_inputs, input_dim, self.num_outputs, self.output_dim = kernel.shape
        self.fan_in = num_inputs * input_dim
        self.kernel = self.add_weight(
            shape=(self.fan_in, self.num_outputs * self.output_dim), name="kernel"
        )
        self.kernel.assign(np.reshape(kernel, self.kernel.shape))

    def call(self, inputs):
        sums = ops.matmul(ops.reshape(inputs, (-1, self.fan_in)), self.kernel)
        return squash(ops.reshape(sums, (-1, self.num_outputs, self.output_dim)))


class FoldedConvCaps(keras.layers.Layer):
    """Capsule maps whose routing is part of their kernel: one convolution, and squash.

    Args:
        layer: Built `kcaps.layers.ConvCaps2D`, for its sizes.
        kernel: Array of the shape of the layer's kernel, the couplings multiplied in.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).
    """

    def __init__(self, layer: ConvCaps2D, kernel, **kwargs):
        super().__init__(**kwargs)
        _, _, *self.types = kernel.shape
        self.conv = keras.layers.Conv2D(
            self.types[0] * self.types[1],
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            data_format="channels_last",
            use_bias=False,
            dtype=self.dtype_policy,
            name="conv",
        )
        kernel = np.reshape(kernel, (*layer.kernel_size, -1, self.conv.filters))
        self.channels = kernel.shape[2]
        self.conv.build((None, None, None, self.channels))
        self.conv.kernel.assign(kernel)

    def call(self, inputs):
        _, *sizes, _, _ = ops.shape(inputs)
        sums = self.conv(ops.reshape(inputs, (-1, *sizes, self.channels)))
        _, *sizes, _ = ops.shape(sums)
        return squash(ops.reshape(sums, (-1, *sizes, *self.types)))


def fold(model: keras.Model, scales: bool = True) -> tuple[keras.Model, list[str]]:
    """Multiplies into kernels the factors that training keeps apart.

    - The couplings that no example changes, those of `"l1"`, `"l2"` and `"uniform"`. A `ConvCaps2D`
      becomes one convolution and squash; of a `DigitCaps`, `Σ_i b_ij u_i W_ij` becomes one product
      of the flattened capsules with the kernel `b_ij W_ij`. A pair of capsules with a coefficient
      of zero costs nothing to keep in that product, and a graph would need a gather to skip it. A
      *type* of primary capsules whose coefficients are zero at all positions and for all output
      capsules pays: its filters, nearly all of its cost, are removed from the convolution, in front
      of either layer.
    - The scale of a `Rescaling` layer without offset, if a `Conv2D` follows.
    - Batch normalisation, if it follows a convolution without activation, with a maximum over
      windows between them or without; or else, if a convolution without padding follows.

    Args:
        model: A functional Keras model. It is not changed.
        scales: Whether scales are folded. Kernels of 1/255 of their size lose digits in half
            precision. Defaults to True.

    Returns:
        A model with the same inputs and outputs, or the model itself where there is nothing to
        fold, and a list of lines on what was done.
    """
    inner = {
        layer.name: fold(layer, scales)
        for layer in model.layers
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
    }
    new = {name: part for name, (part, lines) in inner.items() if lines}
    lines = [line for _, lines in inner.values() for line in lines]
    calls = _Calls(model)
    folded, told = fold_channels(model, calls, scales)
    new |= folded
    lines += told
    for layer in model.layers:
        if _is_foldable(layer) and calls.source(layer) is not None:
            folded, line = _fold_capsules(layer, calls)
            new |= folded
            lines.append(line)
    if not new or any(map(_holds_arrays, model.layers)):
        return model, []
    try:
        same = copy.deepcopy(model)  # the layers that stay are called again
    except Exception:  # a layer of the user that Keras cannot rebuild from its config
        return model, []
    replaced = keras.models.clone_model(same, clone_function=lambda x: new.get(x.name, x))
    return replaced, lines


class _Calls:
    """The calls of layers in the graph of one model.

    A layer may be called in other models, too, and twice in one: its own `input` and `output` are
    those of its first call, in whichever graph that was.
    """

    def __init__(self, model):
        self._outputs = {id(tensor) for tensor in model.outputs}
        self._calls = graph.calls(model.outputs, keras.Operation)

    def source(self, layer):
        """Returns the tensor that a layer is called on, or None if it is not called once."""
        sources = [call.inputs for call in self._calls if call.layer is layer]
        return sources[0][0] if len(sources) == 1 and sources[0] else None

    def options(self, layer):
        """Returns the keyword arguments of a layer's only call."""
        (call,) = [call for call in self._calls if call.layer is layer]
        return call.options

    def only_consumer(self, layer):
        """Returns the layer that alone reads a layer's output, or None; both are called once."""
        outputs = [call.outputs[0] for call in self._calls if call.layer is layer]
        if len(outputs) != 1 or id(outputs[0]) in self._outputs:
            return None
        readers = [x.layer for x in self._calls if any(y is outputs[0] for y in x.inputs)]
        if len(readers) != 1 or self.source(readers[0]) is not outputs[0]:
            return None
        return readers[0]


def _holds_arrays(layer):
    """Tells whether a user's layer holds an array that a copy from its config may not have."""
    if type(layer).__module__.partition(".")[0] in ("keras", "kcaps"):
        return False
    values = keras.tree.flatten(list(vars(layer).values()))
    return any(isinstance(x, np.ndarray) or keras.ops.is_tensor(x) for x in values)


def _is_foldable(layer):
    """Returns whether a layer has couplings that can be multiplied into its kernel."""
    if type(layer) not in (ConvCaps2D, DigitCaps):
        return False
    return couplings_to_fold(layer.routing, tuple(layer.kernel.shape)) is not None


def _fold_capsules(layer, calls):
    """Returns replacements, by name, for a layer of capsules and its source, and a line."""
    coefficients = layer.routing.fixed_couplings(tuple(layer.kernel.shape))
    coefficients = ops.convert_to_numpy(coefficients)  # (i, j)
    kernel = ops.convert_to_numpy(layer.kernel) * coefficients[:, None, :, None]
    line = f"{layer.name}: coefficients of {coefficients.size:,} pairs multiplied into the kernel"
    if not coefficients.all():
        line += f", {np.sum(coefficients == 0):,} of them zero"
    new = {}
    primary, _ = origin(calls.source(layer))
    if type(primary) is PrimaryCaps and calls.only_consumer(primary) is layer:
        used = coefficients.reshape(-1, primary.num_capsules, layer.num_capsules).any((0, 2))
        used[0] |= not used.any()  # a convolution needs a filter
        if not used.all():
            new[primary.name] = _of_types(primary, used, calls.source(primary))
            kernel = kernel[np.tile(used, len(kernel) // primary.num_capsules)]
            line += f"; {np.sum(~used)} types of {primary.name} removed"
    options = {"name": layer.name, "dtype": layer.dtype_policy}
    if isinstance(layer, ConvCaps2D):
        new[layer.name] = FoldedConvCaps(layer, kernel, **options)
    else:
        new[layer.name] = FoldedCaps(kernel, **options)
    return new, line


def _of_types(layer, used, source):
    """Returns a PrimaryCaps layer with the filters of the types in the mask `used` alone."""
    result = PrimaryCaps.from_config({**layer.get_config(), "num_capsules": int(used.sum())})
    result.build(source.shape)
    filters = np.repeat(used, layer.capsule_dim)  # types and components are the channels
    result.conv.set_weights([array[..., filters] for array in layer.conv.get_weights()])
    return result
