"""Weights that come with kcaps: what there is, and how a network takes them.

Each is a file in `kcaps/models/weights/`, of which `cards.json` there tells what network it is for,
how it was trained, and what it reached.
"""

import dataclasses
import hashlib
import io
import json
import pathlib

import numpy as np
from keras import ops

from kcaps.routing import ROUTINGS

FOLDER = pathlib.Path(__file__).parent / "weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of the weights in a file.

    Args:
        architecture: Name of the function that makes the network.
        weights: Their name in its argument `weights`.
        sha256: Hash of the file.
        arguments: Arguments of the function, but for `input_shape` and `num_classes`.
        input_shape: Height, width and channels of an image.
        class_names: Names of the classes, in the order of the outputs.
        lengths_of_noise: Class lengths that the network gives for the image of `noise`, by which an
            installation is checked without data.
        test_accuracy: Share of the test images that the network with these weights gets right.
        parameters: Number of trained weights.
        data: Data set that it was trained on.
        licence: Terms of that data set.
        command: Command that trained it.
        commit: Commit of kcaps at which it was trained.
        date: Day of the training.
    """

    architecture: str
    weights: str
    sha256: str
    arguments: dict
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    lengths_of_noise: tuple[float, ...]
    test_accuracy: float
    parameters: int
    data: str
    licence: str
    command: str
    commit: str
    date: str

    @property
    def path(self) -> pathlib.Path:
        """The path of the file."""
        return FOLDER / f"{self.architecture}-{self.weights}.npz"


def cards() -> list[Card]:
    """Returns the cards of all weights that come with kcaps."""
    path = FOLDER / "cards.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    tuples = ("input_shape", "class_names", "lengths_of_noise")
    return [Card(**card | {name: tuple(card[name]) for name in tuples}) for card in found]


def noise(input_shape: tuple[int, int, int]) -> np.ndarray:
    """Returns a batch of one image of random pixels, the same at each call.

    Args:
        input_shape: Height, width and channels.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (1, *input_shape))
    return pixels.astype("float32")


def card_of(architecture: str, weights: str | None) -> Card | None:
    """Returns the card of the weights of a name, or None for no weights.

    Args:
        architecture: Name of the function that makes the network.
        weights: Name of weights, or None.

    Raises:
        ValueError: if there are no weights of that name.
    """
    if weights is None:
        return None
    known = {card.weights: card for card in cards() if card.architecture == architecture}
    if weights not in known:
        names = ", ".join(f'"{name}"' for name in known) or "none"
        raise ValueError(
            f"`weights` of {architecture} must be one of: {names}. Received: weights={weights!r}."
        )
    return known[weights]


def arguments_of(card: Card | None, defaults: dict, **given: object) -> list:
    """Returns arguments of a network: those given, or, where they are None, those of the weights.

    Args:
        card: Card of the weights, or None where there are none.
        defaults: Arguments where there are no weights.
        **given: Arguments by their names.

    Raises:
        ValueError: if an argument is None and there are no weights and no default, or it is one
            with which the network would not take the weights.
    """
    own = dict(defaults)
    if card is not None:
        sizes = {"input_shape": card.input_shape, "num_classes": len(card.class_names)}
        own = {**sizes, **card.arguments}
    for name, value in given.items():
        if value is None and name not in own:
            raise ValueError(f"`{name}` is needed where there are no `weights`.")
        # Classes may be others, and `fill` tells which images do not fit.
        is_fixed = card is not None and name in card.arguments
        if is_fixed and value is not None and _plain(value) != _plain(own[name]):
            raise ValueError(
                f"`weights={card.weights!r}` are for {name}={own[name]!r}. Received: {name}="
                f"{value!r}. Leave it out, or train without `weights`."
            )
    return [own[name] if value is None else value for name, value in given.items()]


def _plain(value):
    """Returns a value with lists for tuples, as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def fill(model, card: Card | None):
    """Gives a network the weights of a card, and returns it; None leaves it as it is.

    The class capsules begin anew where the network has other classes, another number of capsules
    below them or another routing than the one that was trained.

    Args:
        model: A `kcaps.models.CapsNet`.
        card: Card of the weights, or None where there are none.

    Raises:
        ValueError: if a layer below the class capsules has other shapes, or the file is not the one
            that came with kcaps.
    """
    if card is None:
        return model
    stored = read(card)
    below, classes = below_classes(model), model.class_layer.weights
    for variable, values in zip(below, stored, strict=False):
        if tuple(variable.shape) != values.shape:
            raise ValueError(
                f"`weights={card.weights!r}` are for images {card.input_shape}: {variable.path} "
                f"would need the shape {values.shape}. Received: images "
                f"{tuple(model.input_shape[1:])}, which give it the shape {tuple(variable.shape)}."
            )
        variable.assign(values)
    stored = stored[len(below) :]
    shapes = [tuple(variable.shape) for variable in classes]
    is_same = isinstance(model.class_layer.routing, ROUTINGS[card.arguments["routing"]])
    if is_same and shapes == [values.shape for values in stored]:
        for variable, values in zip(classes, stored, strict=True):
            variable.assign(values)
    return model


def below_classes(model) -> list:
    """Returns the variables of a network below its class capsules."""
    classes = {id(variable) for variable in model.class_layer.weights}
    layers = [layer for layer in model.layers if layer is not model.decoder]
    found = [variable for layer in layers for variable in layer.weights]
    return [variable for variable in found if id(variable) not in classes]


def to_file(model) -> bytes:
    """Returns the file of a network's weights: kernels in half precision, all else as it is."""
    arrays = {}
    for number, variable in enumerate(below_classes(model) + model.class_layer.weights):
        values = ops.convert_to_numpy(variable.value)
        arrays[f"{number:03d}"] = values.astype("float16") if values.ndim > 1 else values
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def sha256_of(content: bytes) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read(card: Card) -> list[np.ndarray]:
    """Returns the arrays in the file of a card, in float32.

    Raises:
        ValueError: if the file is missing, or is not the one that came with kcaps.
    """
    if not card.path.is_file():
        raise ValueError(f"{card.path} is missing. Install kcaps again.")
    content = card.path.read_bytes()
    found = sha256_of(content)
    if found != card.sha256:
        raise ValueError(
            f"{card.path} is damaged: its SHA-256 is {found}, where {card.sha256} was expected. "
            "Install kcaps again."
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return [arrays[name].astype("float32") for name in sorted(arrays.files)]
