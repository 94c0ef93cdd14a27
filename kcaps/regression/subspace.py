"""A layer that projects inputs on the directions in which they vary most."""

import keras
import numpy as np
from keras import ops

from kcaps.regression.features import flattened
from kcaps.regression.moments import SecondMoments, principal_directions, stream
from kcaps.validation import positive_int


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
    >>> projection.adapt(images)  # (n, 8, 8, 1)
    >>> features = projection(images)  # (n, 16)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336), section 3.1.
    """

    def __init__(self, num_components, **kwargs):
        num_components = positive_int("num_components", num_components)
        super().__init__(**kwargs)
        self.num_components = num_components
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.observe = None  # a function of its inputs, while a model around the layer adapts it

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

    def adapt(self, data, batch_size=None, steps=None):
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
    def adapted(self):
        """Whether the layer knows its directions."""
        return self.built and bool(np.any(ops.convert_to_numpy(self.kernel)))

    def call(self, inputs):
        if self.observe is not None:
            self.observe(inputs)
        rows = flattened(inputs, self.kernel.shape[0])
        dtype = keras.backend.result_type(rows.dtype, self.kernel.dtype)
        # By `@`, as `ops.matmul` makes float32 of float64 on PyTorch.
        return ops.cast(rows, dtype) @ ops.cast(self.kernel, dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_components)

    def get_config(self):
        return {**super().get_config(), "num_components": self.num_components}
