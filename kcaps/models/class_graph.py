"""Finds the class capsules in the graph of a model, and what a decoder and a routing need there."""

import dataclasses
import math
from collections.abc import Callable

import keras

from kcaps.graph import Call, class_calls, in_order, length_calls
from kcaps.layers import DigitCaps
from kcaps.layers.routed_caps import RoutedCaps
from kcaps.models.targets import ClassOutput
from kcaps.validation import agree

# Weights of class capsules beyond which a network is larger than its images are worth.
_MANY_WEIGHTS = 10_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class ClassGraph:
    """The class capsules of a model, and the output that has their labels.

    Args:
        candidates: List of the calls of `DigitCaps` that may be the class capsules, of which more
            than one make a decoder and a routing objective an error.
        output: The output whose targets are the labels, or None where that is not clear.
    """

    candidates: list[Call]
    output: ClassOutput | None

    @classmethod
    def of(cls, model: keras.Model) -> "ClassGraph | None":
        """Returns the class graph of a functional model, or None where it has no `DigitCaps`."""
        candidates = class_calls(model.output)
        return cls(candidates, class_output(model, candidates[-1])) if candidates else None

    @property
    def call(self) -> Call:
        """The call of the class capsules: the last one, where several may be meant."""
        return self.candidates[-1]

    def check_unique(self, name: str) -> None:
        """Raises a `ValueError`, with `name` in it, if several capsules may be the classes'."""
        if len(self.candidates) > 1:
            found = [call.layer.name for call in self.candidates]
            raise ValueError(
                f"{name} needs to know which capsules are the classes. Make their lengths, by "
                "CapsuleLength, an output, and those of no other DigitCaps. Received: a graph with "
                f"{len(found)} that may be meant, by the layers {found}."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Networks:
    """The networks that a training step runs in the place of the model.

    They share all layers with it. Keras would save them with it if they were not in this class.

    Args:
        below: Network from the model's inputs to `"capsules"`, which enter the class capsules.
        whole: Network from these inputs to `"capsules"`, `"image"`, `"outputs"` and `"poses"`.
    """

    below: keras.Model
    whole: keras.Model

    @classmethod
    def of(cls, model: keras.Model, call: Call, image: keras.KerasTensor) -> "Networks":
        """Returns the networks of a model, its class capsules and the input to be rebuilt."""
        tensors = {"capsules": call.inputs[0]}
        below = keras.Model(model.input, tensors)
        tensors |= {"image": image, "outputs": model.output, "poses": call.outputs[0]}
        return cls(below, keras.Model(model.input, tensors))


def routed_layers(layers: list) -> list[RoutedCaps]:
    """Returns the layers with a routing among a model's, and inside of models among them."""
    found = []
    for layer in layers:
        if isinstance(layer, RoutedCaps):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found += routed_layers(layer.layers)
    return found


def check_objective(graph: ClassGraph | None) -> None:
    """Raises a `ValueError` if class capsules have no routing objective, or are not clear.

    Args:
        graph: The class graph of a model in which a layer has l1 or l2 routing.
    """
    if graph is not None:
        graph.check_unique("l1 or l2 routing")
    routing = graph and graph.call.layer.routing
    if routing is None or not routing.routing_variables:
        raise ValueError(
            'The last DigitCaps must use a routing with an objective ("l1" or "l2") and stand '
            "in the model itself when another layer has such a routing: its capsules define "
            "the objective of all. In a keras.Model, coefficients follow the loss. "
            f"Received: {routing or 'no DigitCaps'} in the last layer."
        )


def class_output(model: keras.Model, call: Call) -> ClassOutput | None:
    """Returns the output of a model that tells the classes, or None where that is not clear.

    It is the one with the lengths of the class capsules, by `CapsuleLength`, or the only output,
    if that has one number for each class capsule.

    Args:
        model: A functional model.
        call: The `kcaps.graph.Call` of its class capsules.
    """
    outputs = keras.tree.flatten(model.output)
    num_capsules = call.outputs[0].shape[1]
    measured = [x for x in length_calls(model.output) if x.inputs[0] is call.outputs[0]]
    ends = {id(x.outputs[0]) for x in measured}
    places = [n for n, tensor in enumerate(outputs) if id(tensor) in ends]
    is_length = bool(places)
    if not places and len(outputs) == 1 and tuple(outputs[0].shape[1:]) == (num_capsules,):
        places = [0]
    if not places:
        return None
    paths = [path for path, _ in keras.tree.flatten_with_path(model.output)]
    names = tuple(model.output_names)
    return ClassOutput(paths[places[0]], places[0], names, num_capsules, is_length)


def rebuilt_input(decoder: keras.layers.Layer, model: keras.Model) -> keras.KerasTensor:
    """Builds a decoder for the class capsules of a model, and returns the input that it rebuilds.

    Args:
        decoder: Layer or model from masked poses to images. One without variables yet, such as a
            `keras.Sequential` without an input, gets them.
        model: The `CapsNet` that it is for.

    Returns:
        The first input of the model that has the shape of the decoder's images.

    Raises:
        ValueError: for an object that is no layer, a model whose class capsules are missing or not
            clear, or a decoder that does not make images of the shape of an input.
    """
    if not isinstance(decoder, keras.layers.Layer):
        raise ValueError(f"`decoder` must be a Keras model. Received: decoder={decoder!r}.")
    graph = model._class_graph
    if graph is None:
        found = routed_layers(model.layers)
        inside = [layer.name for layer in found if isinstance(layer, DigitCaps)]
        received = f"those inside of other models, {inside}" if inside else "a graph without them"
        raise ValueError(
            "`decoder` needs class capsules to decode, which a DigitCaps of the model's own graph "
            "makes: a model's `input` and `output` continue its graph, a call does not. "
            f"Received: {received}."
        )
    graph.check_unique("`decoder`")
    poses = graph.call.outputs[0]
    try:
        image = decoder(keras.KerasTensor(poses.shape, dtype=poses.dtype))
    except Exception as error:  # Its layers may raise any error for inputs that do not fit.
        raise ValueError(
            f"`decoder` must take poses of shape {tuple(poses.shape)}. Received: "
            f"{decoder.name!r}, which cannot: {error}"
        ) from error
    shape = getattr(image, "shape", ())
    for tensor in in_order(model.input):
        if agree(shape[1:], tensor.shape[1:]):
            return tensor
    raise ValueError(
        "`decoder` must make images of the shape of an input, "
        f"{' or '.join(str(tuple(tensor.shape)) for tensor in model.inputs)}. "
        f"Received: {decoder.name!r}, which makes {tuple(shape)}."
    )


def print_note_on_size(model: keras.Model, show: Callable) -> None:
    """Prints below a summary that the class capsules have many weights, where they do.

    Args:
        model: A `CapsNet`.
        show: Function that prints a line.
    """
    layer = model.class_layer
    if layer is None or not layer.built or math.prod(layer.kernel.shape) < _MANY_WEIGHTS:
        return
    num_inputs = layer.kernel.shape[0]
    show(
        f"Note: {layer.name} has {math.prod(layer.kernel.shape):,} weights, a matrix for each pair "
        f"of one of its {num_inputs:,} input capsules and a class, and the input capsules grow "
        "with the image. For larger images put capsules on a network that makes its maps small: "
        "docs/networks.md has examples."
    )
