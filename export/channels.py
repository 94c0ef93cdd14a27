"""Factors and offsets of channels, multiplied into the convolutions beside them."""

import keras
import numpy as np

from kcaps.backend.keras_private import origin
from kcaps.layers import FusedBatchNormalization

_NORMALIZATIONS = (keras.layers.BatchNormalization, FusedBatchNormalization)
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_LAST = (-1, 3)  # the axis of the channels of maps that have them last


class Unchanged(keras.layers.Layer):
    """Returns its inputs, in the place of a layer that a convolution computes now.

    It takes the arguments of such a layer.
    """

    def call(self, inputs, mask=None, training: bool | None = None):
        return inputs


class Convolution:
    """The weights of a convolution, which take up what becomes of its inputs and outputs.

    They are float64 until the layer is made anew.

    Args:
        layer: Built `Conv2D` of one group, or `DepthwiseConv2D`, channels last.
    """

    def __init__(self, layer):
        self.layer = layer
        self.is_depthwise = type(layer) is keras.layers.DepthwiseConv2D
        # (height, width, inputs, outputs), or (height, width, channels, multiplier)
        self.kernel, *bias = (array.astype("float64") for array in layer.get_weights())
        outputs = self.kernel.shape[2:] if self.is_depthwise else self.kernel.shape[3:]
        self.bias = np.reshape(bias[0], outputs) if bias else np.zeros(outputs)

    def take_from_inputs(self, scale, shift=0.0):
        """Takes up `scale · x + shift`, of numbers or of an array for each channel.

        A shift needs a convolution without padding, which would not be shifted.
        """
        scale, shift = (np.reshape(x, (-1, 1)) for x in (scale, shift))
        self.bias += np.sum(self.kernel * shift, (0, 1) if self.is_depthwise else (0, 1, 2))
        self.kernel *= scale

    def take_from_outputs(self, scale, shift):
        """Takes up `scale · y + shift`, of an array for each channel of the outputs."""
        scale, shift = (np.reshape(x, self.bias.shape) for x in (scale, shift))
        self.kernel *= scale
        self.bias = self.bias * scale + shift

    def replacement(self, shape):
        """Returns a layer with the new weights, built for inputs of a shape."""
        has_bias = self.layer.use_bias or bool(self.bias.any())
        config = {**self.layer.get_config(), "use_bias": has_bias}
        layer = type(self.layer).from_config(config)
        layer.build(shape)
        layer.set_weights([self.kernel, np.ravel(self.bias)] if has_bias else [self.kernel])
        return layer


def fold_channels(model: keras.Model, calls, scales: bool) -> tuple[dict, list[str]]:
    """Multiplies what layers do to channels into the convolutions before or after them.

    Args:
        model: A functional Keras model.
        calls: The calls of its layers, see `export.fold`.
        scales: Whether the scale of a `Rescaling` layer is one of these, too.

    Returns:
        New layers, by the names of those in whose place they are, and a list of lines on what was
        done.
    """
    new, changed, lines, count = {}, {}, [], 0
    for layer in model.layers:
        scale = _scale(layer, calls) if scales else None
        found = scale or _normalization(layer, calls)
        if found is None:
            continue
        convolution, take, *numbers = found
        if convolution.name not in changed:
            changed[convolution.name] = Convolution(convolution)
        take(changed[convolution.name], *numbers)
        new[layer.name] = Unchanged(name=layer.name)
        count += scale is None
        if scale is not None:
            lines.append(f"{layer.name} multiplied into {convolution.name}")
    for name, convolution in changed.items():
        new[name] = convolution.replacement(calls.source(convolution.layer).shape)
    if count:
        times = "once" if count == 1 else f"{count} times"
        lines.append(f"batch normalisation multiplied into convolutions, {times}")
    return new, lines


def _scale(layer, calls):
    """Returns the float32 convolution that takes up a Rescaling without offset, how, or None."""
    if type(layer) is not keras.layers.Rescaling or np.ndim(layer.scale) or np.any(layer.offset):
        return None
    consumer = calls.only_consumer(layer)
    # Both in float32: Rescaling casts what is not.
    if type(consumer) is not keras.layers.Conv2D or not _is_float32(calls, layer, consumer):
        return None
    return consumer, Convolution.take_from_inputs, layer.scale


def _normalization(layer, calls):
    """Returns the convolution that takes up a batch normalisation, how, and the numbers; or None.

    One that was called with `training=True` measures the batch, at inference too.
    """
    if type(layer) not in _NORMALIZATIONS or layer.axis not in _LAST or layer.renorm:
        return None
    if calls.source(layer) is None or calls.options(layer).get("training"):
        return None
    scale, shift = _numbers(layer)
    chain = [_source(layer, calls), layer]
    if type(chain[0]) is keras.layers.MaxPooling2D and (scale > 0).all():
        chain.insert(0, _source(chain[0], calls))  # What grows has its maxima where they were.
    first, *_ = chain
    if _is_usable(first) and first.activation is keras.activations.linear:
        if _is_float32(calls, *chain):
            return first, Convolution.take_from_outputs, scale, shift
    after = calls.only_consumer(layer)
    if _is_usable(after) and after.padding == "valid" and _is_float32(calls, layer, after):
        return after, Convolution.take_from_inputs, scale, shift
    return None


def _numbers(layer):
    """Returns scale and shift of each channel by a layer of batch normalisation, in float64."""
    scale = 1 / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    scale *= _array(layer.gamma) if layer.scale else 1
    shift = -_array(layer.moving_mean) * scale
    if layer.center:
        shift += getattr(layer, "bias_scale", 1.0) * _array(layer.beta)
    return scale, shift


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def _source(layer, calls):
    """Returns the layer whose result a layer alone reads, or None."""
    source, _ = origin(calls.source(layer))
    return source if calls.only_consumer(source) is layer else None


def _is_usable(layer):
    """Tells whether a layer is a convolution that `Convolution` can stand for."""
    if type(layer) not in _CONVOLUTIONS or layer.data_format != "channels_last":
        return False
    return type(layer) is keras.layers.DepthwiseConv2D or layer.groups == 1


def _is_float32(calls, *layers):
    """Tells whether layers that follow one another compute in float32, from their inputs on."""
    return {calls.source(layers[0]).dtype, *(x.compute_dtype for x in layers)} == {"float32"}
