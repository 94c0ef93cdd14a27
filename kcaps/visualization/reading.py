"""What the figures read of a model: its class capsules, what it says of images, its decoder."""

import dataclasses

import keras
import numpy as np
from keras import ops

from kcaps.activations import safe_norm
from kcaps.graph import Call, class_calls, matched
from kcaps.labels import k_hot

_BATCH = 128  # images that a model sees at the same time


@dataclasses.dataclass(frozen=True)
class Reading:
    """The class capsules of a model on some images.

    Args:
        images: The images, `(n, height, width, channels)`.
        poses: Poses of the class capsules, `(n, num_classes, capsule_dim)`.
        lengths: Their lengths, `(n, num_classes)`.
        present: Whether each class is in an image, `(n, num_classes)`: by its labels, or else the
            class of the longest capsule.
    """

    images: np.ndarray
    poses: np.ndarray
    lengths: np.ndarray
    present: np.ndarray

    @property
    def num_classes(self) -> int:
        return self.poses.shape[1]


def read(model: keras.Model, images, labels=None) -> Reading:
    """Returns the class capsules of a model on some images.

    Args:
        model: A functional model with class capsules, such as a `kcaps.models.CapsNet`.
        images: Array `(n, height, width, channels)`, or all inputs of a model with several, in
            a list or dict.
        labels: Classes of the images, in a form that `CapsNet.fit` takes, or None.

    Raises:
        ValueError: for a model without class capsules, images of another kind, or labels of which
            one is no class.
    """
    call = class_call(model)
    shown = images_of(model, images)
    num_classes = call.layer.num_capsules
    # What does not fit is refused before the model takes its time.
    present = None if labels is None else presence(labels, num_classes, len(shown))
    poses = predict(model, call.outputs[0], images)
    lengths = _numbers(safe_norm(ops.convert_to_tensor(poses)))
    if present is None:
        present = np.eye(num_classes, dtype=bool)[lengths.argmax(-1)]
    return Reading(shown, poses, lengths, present)


def presence(labels, num_classes: int, num_images: int) -> np.ndarray:
    """Returns whether each class is in an image, a boolean array `(num_images, num_classes)`.

    Args:
        labels: Integers, or a one-hot or k-hot matrix.
        num_classes: Number of classes.
        num_images: Number of images.

    Raises:
        ValueError: for labels of another number or form, or of which one is no class.
    """
    found = _numbers(k_hot(np.asarray(labels), num_classes, num_images, exact=True))
    wrong = np.flatnonzero(np.isnan(found).any(-1))
    if len(wrong):
        raise ValueError(
            f"`labels` must be classes from 0 to {num_classes - 1}. Received: "
            f"{np.asarray(labels)[wrong[0]]!s} for image {wrong[0]}."
        )
    return found > 0


def class_call(model: keras.Model) -> Call:
    """Returns the call of the class capsules in a model's graph.

    Raises:
        ValueError: for a model without them.
    """
    found = class_calls(model.output) if getattr(model, "inputs", None) else []
    if not found:
        raise ValueError(
            "`model` must be a functional model with a DigitCaps in its own graph, whose capsules "
            "are the classes. One that was folded for an export has none. "
            f"Received: {getattr(model, 'name', model)!r}."
        )
    return found[-1]


def decoder_of(model: keras.Model) -> keras.Model:
    """Returns the decoder of a model.

    Raises:
        ValueError: for a model without one.
    """
    decoder = getattr(model, "decoder", None)
    if decoder is None:
        raise ValueError(
            "`model` must have a decoder, which rebuilds images: "
            "CapsNet(…, decoder=kcaps.models.architectures.decoder(…)), or "
            "kcaps.models.capsnet, which has one. "
            f"Received: {getattr(model, 'name', model)!r} without."
        )
    return decoder


def decode(model: keras.Model, masked_poses: np.ndarray) -> np.ndarray:
    """Returns the images that a model's decoder makes of masked poses, float32."""
    return _in_batches(decoder_of(model), masked_poses)


def predict(model: keras.Model, tensors, images):
    """Returns the values of tensors of a model's graph for some images, float32.

    Args:
        model: A functional model.
        tensors: A `keras.KerasTensor`, or a list of them.
        images: Inputs of the model.
    """
    return _in_batches(keras.Model(model.input, tensors), matched(images, model.input))


def images_of(model: keras.Model, images) -> np.ndarray:
    """Returns the images among the inputs of a model, `(n, height, width, channels)`.

    Those that a decoder rebuilds come first; of a model without one, the first input of that rank.

    Raises:
        ValueError: where there are none of 1 or 3 channels.
    """
    tensors = keras.tree.flatten(model.input)
    arrays = keras.tree.flatten(matched(images, model.input))
    rebuilt = getattr(model, "_image", None) if getattr(model, "decoder", None) else None
    places = [n for n, x in enumerate(tensors) if x is rebuilt]
    places = places or [n for n, x in enumerate(tensors) if len(x.shape) == 4] or [0]
    found = arrays[places[0]] if len(arrays) == len(tensors) else arrays[0]
    found = found if isinstance(found, np.ndarray) else _numbers(ops.convert_to_tensor(found))
    if found.ndim != 4 or found.shape[-1] not in (1, 3) or not len(found):
        raise ValueError(
            "`images` must be an array (n, height, width, channels) of at least one image, with 1 "
            f"or 3 channels. Received: shape {found.shape}."
        )
    return found


def _in_batches(network, inputs):
    """Returns the outputs of a network for arrays of any length, float32.

    `predict` would compile each network anew, of which TensorFlow warns after a few pictures.
    """
    parts = []
    for start in range(0, len(keras.tree.flatten(inputs)[0]), _BATCH):
        part = keras.tree.map_structure(lambda x: x[start : start + _BATCH], inputs)  # noqa: B023
        tensors = keras.tree.map_structure(ops.convert_to_tensor, part)
        parts.append(keras.tree.map_structure(_numbers, network(tensors, training=False)))
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def _numbers(x):
    """Returns a tensor or array as NumPy's, float32: half precision has no place in a picture."""
    return np.asarray(ops.convert_to_numpy(x), "float32")
