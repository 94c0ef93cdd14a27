"""A layer of capsules fed by routing."""

import math

import keras
from keras import ops

from kcaps import routing as routings
from kcaps.layers.routed_caps import RoutedCaps


@keras.saving.register_keras_serializable(package="kcaps")
class DigitCaps(RoutedCaps):
    """Capsules that receive the votes of all capsules of the layer below.

    Each pair of an input capsule `i` and an output capsule `j` has a matrix `W_ij` of its own,
    which turns the input into a vote; a routing weighs and adds the votes, with a non-linearity of
    its own, mostly squash:

        û_j|i = u_i W_ij,  v_j = squash(Σ_i c_ij û_j|i)

    Args:
        num_capsules: Positive integer, number of output capsules: the classes, in a last layer.
        capsule_dim: Positive integer, components of an output capsule.
        routing: Name (see `kcaps.routing.ROUTINGS`), config or instance of a
            `kcaps.routing.Routing`. A routing that owns weights serves one layer; all take the
            layer's dtype. Defaults to `"dynamic"`.
        kernel_initializer: Initializer of the kernel, or None for
            `kcaps.initializers.VoteScaling()`. Defaults to None.
        kernel_regularizer: Regularizer of the kernel. Defaults to None.
        kernel_constraint: Constraint of the kernel. Defaults to None.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Input shape:
        Capsules `(batch, num_inputs, input_dim)`, or maps of them `(batch, height, width, types,
        input_dim)`, all but the batch known. Maps are read as `height · width · types` capsules,
        each with matrices of its own: row by row, and at each position type by type.

    Output shape:
        Poses `(batch, num_capsules, capsule_dim)`.

    Raises:
        ValueError: if a size is not a positive integer, the routing is unknown, the input's size
            is not known, or a routing with weights is given to a second layer.

    Example:

    >>> capsules = keras.random.normal((2, 1152, 8))
    >>> tuple(DigitCaps(10, 16, routing="l2")(capsules).shape)
    (2, 10, 16)

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 4.
    """

    def __init__(
        self,
        num_capsules: int,
        capsule_dim: int,
        routing: routings.Routing | dict | str = "dynamic",
        kernel_initializer=None,
        kernel_regularizer=None,
        kernel_constraint=None,
        **kwargs,
    ):
        super().__init__(num_capsules, capsule_dim, routing, kernel_initializer, **kwargs)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.input_spec = keras.layers.InputSpec(min_ndim=3, max_ndim=5)

    def build(self, input_shape):
        if len(input_shape) == 4:
            raise ValueError(
                "`DigitCaps` takes capsules (batch, num_inputs, input_dim), or maps of them "
                "(batch, height, width, types, input_dim). "
                f"Received: inputs of shape {tuple(input_shape)}."
            )
        if not all(input_shape[1:]):
            raise ValueError(
                "`DigitCaps` needs a known number and dimension of input capsules, of 1 or more. "
                f"Received: inputs of shape {tuple(input_shape)}."
            )
        *numbers, input_dim = input_shape[1:]
        axes = dict(enumerate(input_shape[1:], start=1))
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes=axes)
        self.build_votes(
            math.prod(numbers),
            input_dim,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.built = True

    def routed(self, inputs):
        if len(inputs.shape) == 3:
            return inputs
        return ops.reshape(inputs, (-1, *self.kernel.shape[:2]))

    def call(self, inputs, training: bool | None = None):
        kernel = ops.convert_to_tensor(self.kernel)
        return self.routing(self.routed(inputs), kernel, training=training)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_capsules, self.capsule_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }
