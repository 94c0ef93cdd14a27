"""Routing absorbed into kernels, for inference."""

import copy
import dataclasses

import keras
import numpy as np
from keras import ops

from kcaps.activations import squash
from kcaps.layers import DigitCaps, PrimaryCaps
from kcaps.routing import DiscriminativeRouting


@dataclasses.dataclass(frozen=True)
class FoldedLayer:
    """What was done to one layer of capsules."""

    name: str
    pairs: int
    zero_pairs: int
    removed_types: int

    def __str__(self):
        text = f"{self.name}: coefficients of {self.pairs:,} pairs multiplied into the kernel"
        if self.zero_pairs:
            text += f", {self.zero_pairs:,} of them zero"
        if self.removed_types:
            text += f"; {self.removed_types} types of primary capsules removed"
        return text


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


def fold_routing(model):
    """Multiplies the coefficients of `"l1"` and `"l2"` routings into the kernels of their layers.

    Nothing of the routing is left: `Σ_i b_ij u_i W_ij` becomes one product of the flattened
    capsules with the kernel `b_ij W_ij`. A pair of capsules with a coefficient of zero costs
    nothing to keep in that product, and a graph would need a gather to skip it. A *type* of
    primary capsules whose coefficients are zero at all positions and for all output capsules pays:
    its filters, nearly all of its cost, are removed from the convolution.

    Args:
        model: A functional Keras model. It is not changed.

    Returns:
        A model with the same inputs and outputs, and a list of `FoldedLayer`. The model itself,
        where there is nothing to fold.
    """
    inner = {layer.name: fold_routing(layer) for layer in model.layers if _has_graph(layer)}
    folded = [layer.name for layer in model.layers if _is_folded(layer)]
    if not folded and not any(report for _, report in inner.values()):
        return model, []
    model = copy.deepcopy(model)  # the layers that stay are called again
    replacements = {name: part for name, (part, report) in inner.items() if report}
    report = [line for _, lines in inner.values() for line in lines]
    for layer in map(model.get_layer, folded):
        coefficients = ops.convert_to_numpy(layer.routing.coefficients)  # (i, j)
        kernel = ops.convert_to_numpy(layer.kernel) * coefficients[:, None, :, None]
        primary = _only_source(layer, model.outputs)
        num_removed = 0
        if primary is not None:
            used = coefficients.reshape(-1, primary.num_capsules, layer.num_capsules).any((0, 2))
            used[0] |= not used.any()  # a convolution needs a filter
            num_removed = int(np.sum(~used))
            if num_removed:
                replacements[primary.name] = _primary_caps_of_types(primary, used)
                rows = np.tile(used, len(kernel) // primary.num_capsules)
                kernel = kernel[rows]
        replacements[layer.name] = FoldedCaps(kernel, name=layer.name, dtype=layer.dtype_policy)
        report.append(
            FoldedLayer(layer.name, coefficients.size, int(np.sum(coefficients == 0)), num_removed)
        )
    result = keras.models.clone_model(
        model, clone_function=lambda layer: replacements.get(layer.name, layer)
    )
    return result, report


def _has_graph(layer):
    return isinstance(layer, keras.Model) and bool(getattr(layer, "inputs", None))


def _is_folded(layer):
    return (
        isinstance(layer, DigitCaps)
        and type(layer.routing) is DiscriminativeRouting
        and len(layer._inbound_nodes) == 1
    )


def _only_source(layer, outputs):
    """The PrimaryCaps layer that feeds `layer` and nothing else, or None."""
    source = layer.input._keras_history.operation
    if not isinstance(source, PrimaryCaps) or any(layer.input is output for output in outputs):
        return None
    used_once = len(source._inbound_nodes) == 1 and len(source._outbound_nodes) == 1
    return source if used_once else None


def _primary_caps_of_types(layer, used):
    """A PrimaryCaps layer with the filters of the types in the mask `used` alone."""
    config = {**layer.get_config(), "num_capsules": int(used.sum())}
    result = PrimaryCaps.from_config(config)
    result.build(layer.input.shape)
    filters = np.repeat(used, layer.capsule_dim)  # types and components are the channels
    result.conv.set_weights([array[..., filters] for array in layer.conv.get_weights()])
    return result
