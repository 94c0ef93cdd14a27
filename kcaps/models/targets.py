"""Finds the labels of the classes among the targets of a model's outputs, and checks them.

Targets with parts hold the parts of an image apart, such as overlapping digits in one picture: a
dict of `"labels"`, integers `(batch, num_parts)`, and `"parts"`, images `(batch, num_parts, height,
width, channels)`.
"""

import dataclasses

import numpy as np
from keras import ops

from kcaps.labels import one_hot, refuse_text


@dataclasses.dataclass(frozen=True)
class ClassOutput:
    """The output of a model whose targets are the labels of the class capsules.

    Args:
        path: Its path in the structure of outputs: keys of dicts, places in lists.
        index: Its place among all outputs.
        names: Names of all outputs, by which targets may be given too.
        num_capsules: Number of class capsules.
        is_length: Whether it is their lengths, by `CapsuleLength`: then its targets are classes.
    """

    path: tuple
    index: int
    names: tuple
    num_capsules: int
    is_length: bool

    def of(self, structure, losses=None):
        """Returns the part of a structure of targets or weights that belongs to this output.

        Args:
            structure: Structure of targets as Keras takes it: one for each output in lists or
                dicts like the outputs, a dict by the outputs' names, or one for each output that
                has a loss.
            losses: The losses that the model was compiled with.

        Returns:
            A part of `structure`, or None where this output has none.
        """
        is_single, name = len(self.names) == 1, self.names[self.index]
        if isinstance(structure, dict):
            if is_single and are_parts(structure) and set(structure) != {name}:
                return structure
            if self.path and self.path[0] in structure:
                return _at(structure, self.path)
            return structure.get(name)
        if isinstance(structure, list | tuple):
            if len(structure) == len(self.names) and holds_arrays(structure):
                return structure[self.index]
            if len(self.path) > 1 and _at(structure, self.path) is not None:
                return _at(structure, self.path)
        if is_single:
            return structure
        given = structure if isinstance(structure, list | tuple) else [structure]
        each = self._each_loss(losses)
        with_loss = [place for place, loss in enumerate(each) if loss is not None]
        fits = len(given) == len(with_loss) and self.index in with_loss
        return given[with_loss.index(self.index)] if fits else None

    def put(self, structure, part):
        """Returns a structure of targets in which this output's part is another one."""
        replaced = self.of(structure)
        if replaced is structure:
            return part
        if isinstance(structure, dict):
            return {key: part if x is replaced else x for key, x in structure.items()}
        return type(structure)(part if x is replaced else x for x in structure)

    def loss(self, losses):
        """Returns the loss of this output among those that the model was compiled with."""
        return self._each_loss(losses)[self.index]

    def _each_loss(self, losses):
        """Returns a loss, or None, for each output."""
        if isinstance(losses, dict):
            return [losses.get(name) for name in self.names]
        is_each = isinstance(losses, list | tuple) and len(losses) == len(self.names)
        return list(losses) if is_each else [losses] * len(self.names)


def without_name(y, output_names: list):
    """Returns the targets of a model's only output from a dict by its name; others as they are."""
    is_named = len(output_names) == 1 and isinstance(y, dict) and set(y) == set(output_names)
    return y[output_names[0]] if is_named else y


def as_arrays(y, output_shape):
    """Returns targets in a form that Keras reads as such.

    Args:
        y: Targets. Lists of numbers, which Keras takes for structures, become arrays; and labels of
            a single class get an axis for it, so that both of their forms have one rank.
        output_shape: Shape of the model's output, or a list or dict of shapes.
    """
    if isinstance(y, dict):
        return {key: as_arrays(part, None) for key, part in y.items()}
    if isinstance(y, list | tuple):
        is_each = holds_arrays(y) or (output_shape is not None and type(output_shape) is not tuple)
        if is_each:
            return type(y)(as_arrays(part, None) for part in y)
        y = y if as_array(y) is None else as_array(y)
    is_vector = hasattr(y, "__getitem__") and len(getattr(y, "shape", ())) == 1
    is_one = type(output_shape) is tuple and output_shape[1:] == (1,)
    return as_array(y)[:, None] if is_vector and is_one else y


def as_array(data) -> np.ndarray | None:
    """Returns an array, tensor, series or list of numbers as an array, and None for other data."""
    if isinstance(data, np.ndarray):
        return data
    if ops.is_tensor(data):
        try:
            return ops.convert_to_numpy(data)
        except Exception:  # Symbols of a traced function have other errors on each backend.
            return None
    if isinstance(data, list | tuple) or (hasattr(data, "__array__") and hasattr(data, "shape")):
        try:
            return np.asarray(data)
        except ValueError:  # Rows have different lengths.
            return None
    return None


def holds_arrays(structure) -> bool:
    """Returns whether a list is one of targets, rather than of the numbers of one target."""
    return all(
        x is None or isinstance(x, dict) or len(getattr(x, "shape", ())) > 0 for x in structure
    )


def check_labels(labels, num_classes: int, exact: bool = False) -> None:
    """Refuses labels that are no classes, in each form in which they can be read.

    Args:
        labels: Array, tensor, series or list of labels, or a dict of targets with parts; anything
            else, such as None, passes.
        num_classes: Number of classes.
        exact: Whether labels must say of each class that it is there or not, which a decoder and
            the routing objective need; otherwise a matrix may have any numbers.

    Raises:
        ValueError: for text, numbers that are no class, or a matrix with other numbers than 0 and
            1 where labels must be exact.
    """
    has_parts = isinstance(labels, dict)
    labels = as_array(labels.get("labels") if has_parts else labels)
    if labels is None or not labels.size:
        return
    refuse_text(labels, "y")
    is_matrix = labels.ndim == 2 and labels.shape[1] == num_classes and not has_parts
    if is_matrix and num_classes > 1 and not exact:
        return
    if is_matrix or (num_classes == 1 and not has_parts):
        wrong = labels[(labels != 0) & (labels != 1) if exact else ~((labels >= 0) & (labels <= 1))]
        expected = "0 and 1, which say of each class whether it is there"
    else:
        wrong = labels[~np.isin(labels, np.arange(num_classes))]
        expected = f"classes from 0 to {num_classes - 1}"
    if wrong.size:
        raise ValueError(
            f"`y` must hold {expected}. "
            f"Received: {wrong.size} other numbers, such as {wrong.flat[0]}."
        )


def are_parts(y) -> bool:
    """Returns whether targets are meant as a dict with parts: it has one of the two keys."""
    return isinstance(y, dict) and not {"labels", "parts"}.isdisjoint(y)


def check_parts(y: dict) -> None:
    """Raises a `ValueError` for a dict that does not have labels and parts that fit each other."""
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in y.items()}
    if (
        set(y) != {"labels", "parts"}
        or len(shapes["labels"]) != 2
        or shapes["parts"][1:2] != shapes["labels"][1:]
    ):
        raise ValueError(
            "`y` as a dict must hold 'labels', integers of shape (batch, num_parts), and 'parts', "
            "images of shape (batch, num_parts, height, width, channels). "
            f"Received: shapes {shapes}."
        )


def class_targets(y, num_classes: int):
    """Returns the k-hot classes of targets with parts, and any other targets as they are.

    Classes are a float32 tensor `(batch, num_classes)`, NaN for a number that is no class.
    """
    if not isinstance(y, dict):
        return y
    check_parts(y)
    counts = ops.sum(one_hot(y["labels"], num_classes), axis=1)  # (b, j)
    return ops.where(ops.isnan(counts), counts, ops.minimum(counts, 1.0))


def _at(structure, path):
    """Returns the part of a structure at a path, or None where there is none."""
    for key in path:
        try:
            structure = structure[key]
        except (KeyError, IndexError, TypeError):
            return None
    return structure
