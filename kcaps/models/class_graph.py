"""The class capsules in the graph of a model, and the networks that lead to them."""

import dataclasses

import keras

from kcaps.graph import Call, class_calls
from kcaps.models.targets import ClassOutput, class_output


@dataclasses.dataclass(frozen=True, eq=False)
class ClassGraph:
    """Which capsules of a model are the classes, and which of its outputs has their labels.

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
        """Raises a `ValueError` if several capsules may be those of the classes.

        Args:
            name: What needs to know them, for the message.
        """
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

    They share all layers with it. This is no attribute of Keras' kind, which would be saved.

    Args:
        below: From the model's inputs to `"capsules"`, those that enter the class capsules.
        whole: From the same inputs to these, and to `"image"`, `"outputs"` and `"poses"`.
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
            f"the objective of all. Received: {routing or 'no DigitCaps'} in the last layer."
        )
