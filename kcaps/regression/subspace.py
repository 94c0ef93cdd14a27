"""A layer that projects inputs on the directions in which they vary most, and streams of inputs."""

import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from kcaps.regression.data import are_weights, is_array, labels_of, numbers_of, triple
from kcaps.regression.moments import SecondMoments, principal_directions
from kcaps.validation import positive_int

BATCH_SIZE = 4096


def stream(
    x, y=None, sample_weight=None, batch_size: int | None = None, steps: int | None = None
) -> Iterator[tuple]:
    """Yields batches of data in any form that Keras users hold it, as NumPy arrays.

    Args:
        x: Array, or an iterable of batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            torch `DataLoader`, a generator. A batch is `x`, `(x, y)` or `(x, y, sample_weight)`.
        y: Labels of an array.
        sample_weight: Weights of an array.
        batch_size: Examples in a batch of an array. Defaults to 4,096.
        steps: At most so many batches: an endless stream needs it.

    Yields:
        `(x, y, sample_weight)`, where `y` and `sample_weight` may be None.

    Raises:
        ValueError: for values that EM cannot use, data that are not in batches, or no data.
    """
    count = 0
    for index, batch in enumerate(_batches_of(x, y, sample_weight, batch_size or BATCH_SIZE)):
        if steps is not None and index == steps:
            break
        parts = batch if isinstance(batch, tuple | list) else (batch,)
        parts = _checked_batch(*(*parts, None, None)[:3])
        count += len(parts[0])
        yield parts
    if not count:
        raise ValueError("`x` must hold at least one example. Received: none.")


def _batches_of(x, y, sample_weight, batch_size):
    """Returns an iterator of batches as they are held, of which nothing is checked."""
    if is_array(x):
        arrays = triple(x, y, sample_weight)
        sizes = [len(part) for part in arrays if part is not None]
        if len(set(sizes)) > 1:
            raise ValueError(f"`x`, `y` and `sample_weight` differ in length. Received: {sizes}.")
        return (
            tuple(None if part is None else part[start : start + batch_size] for part in arrays)
            for start in range(0, sizes[0], batch_size)
        )
    if not isinstance(x, str | dict):
        if hasattr(x, "__getitem__") and hasattr(x, "__len__"):  # This is a PyDataset.
            return (x[index] for index in range(len(x)))
        if hasattr(x, "__iter__"):
            return iter(x)
    raise ValueError(
        "`x` must be an array, or batches (a dataset or generator of `(x, y)`). Received: "
        f"{type(x).__name__}."
    )


def _checked_batch(x, y, sample_weight):
    """Returns the arrays of a batch, or raises an error for values that EM cannot use."""
    features, weights = numbers_of("x", x), numbers_of("sample_weight", sample_weight)
    labels = labels_of("y", y)
    if features.ndim < 2 or (labels is not None and labels.shape[:1] != features.shape[:1]):
        raise ValueError(
            "`x` must be batches of examples, with as many labels. Received: x of shape "
            f"{features.shape}, y of shape {None if labels is None else labels.shape}. Call "
            "`batch` on a dataset of single examples, `reshape` on an array."
        )
    if not np.isfinite(features).all():
        raise ValueError("`x` must be finite. Received: a batch with NaN or infinity.")
    if weights is not None:
        if not are_weights(weights):
            raise ValueError(
                "`sample_weight` must be finite and >= 0. Received: a batch with other values."
            )
        weights = weights.reshape(-1)
    return features, labels, weights


@keras.saving.register_keras_serializable(package="kcaps")
class SubspaceProjection(keras.layers.Layer):
    """Projects inputs on the leading singular directions of the data.

    `x V`, where the columns of `V` are the right singular vectors of the data matrix with the
    largest singular values. Nothing is centred. `adapt` finds them in one streamed pass, in
    float64; its memory does not depend on the number of examples.

    Args:
        num_components: Positive integer, number of directions.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Call arguments:
        inputs: Tensor `(batch, ...)`; all axes but the first are flattened.

    Output shape:
        `(batch, num_components)`

    Before `adapt`, or the loading of weights, all outputs are zero.

    Raises:
        ValueError: if `num_components` is not a positive integer or exceeds the number of inputs.

    Example:

    >>> projection = SubspaceProjection(16)
    >>> projection.adapt(images)
    >>> tuple(projection(images).shape)
    (4, 16)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), section 3.1.
    """

    def __init__(self, num_components: int, **kwargs):
        num_components = positive_int("num_components", num_components)
        super().__init__(**kwargs)
        self.num_components = num_components
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.observe = None  # It is a function while a model that has the layer adapts it.

    def build(self, input_shape):
        if None in input_shape[1:]:
            raise ValueError(
                "`SubspaceProjection` needs inputs of known sizes. "
                f"Received: inputs of shape {tuple(input_shape)}."
            )
        num_inputs = int(np.prod(input_shape[1:]))
        if self.num_components > num_inputs:
            raise ValueError(
                f"`num_components` must be at most the number of inputs, {num_inputs}. "
                f"Received: num_components={self.num_components}."
            )
        self.kernel = self.add_weight(
            shape=(num_inputs, self.num_components),
            initializer="zeros",
            trainable=False,
            name="kernel",
        )

    def adapt(self, data, batch_size: int | None = None, steps: int | None = None) -> None:
        """Finds the directions of the data.

        Args:
            data: Array `(n, ...)`, or an iterable of batches (`tf.data.Dataset`, `PyDataset`,
                generator) of inputs or of tuples that start with inputs.
            batch_size: Examples of an array that are taken at once. Defaults to 4,096.
            steps: At most so many batches; an endless stream needs it.

        Raises:
            ValueError: for no data, or values that are not finite.
        """
        moments, shape = SecondMoments(), None
        for x, _, _ in stream(data, batch_size=batch_size, steps=steps):
            shape = x.shape
            moments.add(x.reshape(len(x), -1))
        if not self.built:
            self.build((None, *shape[1:]))
            self.built = True
        self.kernel.assign(principal_directions(moments.sums[0], self.num_components))

    @property
    def adapted(self) -> bool:
        """Whether the layer knows its directions."""
        return self.built and bool(np.any(ops.convert_to_numpy(self.kernel)))

    def call(self, inputs):
        if self.observe is not None:
            self.observe(inputs)
        rows = flattened(inputs, self.kernel.shape[0])
        dtype = keras.backend.result_type(rows.dtype, self.kernel.dtype)
        # On PyTorch, `ops.matmul` would make float32 of float64.
        return ops.cast(rows, dtype) @ ops.cast(self.kernel, dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_components)

    def get_config(self):
        return {**super().get_config(), "num_components": self.num_components}


def flattened(inputs, num_features: int):
    """Returns inputs `(batch, ...)` as `(batch, num_features)`, or raises a `ValueError`.

    Of sizes that do not give that number, `ops.reshape` would make a batch of another size.
    """
    sizes = tuple(inputs.shape[1:])
    if None not in sizes and math.prod(sizes) != num_features:
        raise ValueError(
            f"`inputs` must have {num_features} numbers an example. "
            f"Received: inputs of shape {tuple(inputs.shape)}."
        )
    return ops.reshape(inputs, (-1, num_features))


def projections_in(layer: keras.layers.Layer | None) -> list[SubspaceProjection]:
    """Returns each projection of a layer or model once, in the order in which inputs reach them."""
    if isinstance(layer, SubspaceProjection):
        return [layer]
    found = [projections_in(part) for part in getattr(layer, "layers", [])]
    return list(dict.fromkeys(sum(found, [])))


def adapt_projections(encoder: keras.layers.Layer | None, x, **sizes) -> None:
    """Adapts the projections in an encoder that know no directions, on data as of `stream`."""
    layers = [layer for layer in projections_in(encoder) if not layer.adapted]
    if layers and hasattr(x, "__next__") and sizes["steps"] is None:
        raise ValueError(
            "`x` must be data that can be read twice: the encoder's SubspaceProjection is to "
            "be adapted first. Received: an iterator. Adapt that layer on another one, give "
            "a dataset, or `steps` if the iterator is endless."
        )
    for layer in layers:
        layer.adapt(_inputs_of(layer, encoder, stream(x, **sizes)))


def _inputs_of(layer, encoder, batches):
    """Yields the arrays that reach a layer, wherever in an encoder it is, when that is called."""
    for batch, _, _ in batches:
        batch = ops.convert_to_tensor(batch)
        if not encoder.built:
            encoder(batch, training=False)  # This may also call it with symbols, which are no data.
        reached = []
        layer.observe = reached.append
        try:
            encoder(batch, training=False)
        finally:
            layer.observe = None
        yield from map(ops.convert_to_numpy, reached)


def checked_encoder(encoder):
    """Returns an encoder that is a layer of one input and one output, or raises a `ValueError`."""
    if encoder is None:
        return None
    if not isinstance(encoder, keras.layers.Layer):
        raise ValueError(
            "`encoder` must be a Keras layer or model; a function can be the `call` of a layer. "
            f"Received: encoder={encoder!r}."
        )
    counts = [len(getattr(encoder, name, None) or [0]) for name in ("inputs", "outputs")]
    if counts != [1, 1]:
        raise ValueError(
            "`encoder` must have one input and one output. Concatenate others inside it. "
            f"Received: {counts[0]} and {counts[1]}."
        )
    return encoder
