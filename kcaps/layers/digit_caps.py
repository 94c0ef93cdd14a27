"""A layer of capsules fed by routing."""

import keras
from keras import ops

from kcaps import routing as routings
from kcaps.initializers import VoteScaling
from kcaps.validation import positive_int


@keras.saving.register_keras_serializable(package="kcaps")
class DigitCaps(keras.layers.Layer):
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
        Capsules `(batch, num_inputs, input_dim)`, the last two known.

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
        num_capsules = positive_int("num_capsules", num_capsules)
        capsule_dim = positive_int("capsule_dim", capsule_dim)
        routing = routings.get(routing)
        super().__init__(**kwargs)
        self.num_capsules = num_capsules
        self.capsule_dim = capsule_dim
        self.routing = routing
        self.kernel_initializer = (
            VoteScaling()
            if kernel_initializer is None
            else keras.initializers.get(kernel_initializer)
        )
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        _, num_inputs, input_dim = input_shape
        if not num_inputs or not input_dim:
            raise ValueError(
                "`DigitCaps` needs a known number and dimension of input capsules, of 1 or more. "
                f"Received: inputs of shape {tuple(input_shape)}."
            )
        other_dtype = self.routing.dtype_policy != self.dtype_policy
        if self.routing.built and (self.routing.weights or other_dtype):
            raise ValueError(
                "`routing` owns weights, or has the dtype, of another layer. Give each layer an "
                f"instance of its own. Received: routing={self.routing.name!r} for layer "
                f"{self.name!r}."
            )
        self.kernel = self.add_weight(
            shape=(num_inputs, input_dim, self.num_capsules, self.capsule_dim),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            name="kernel",
        )
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={1: num_inputs, 2: input_dim})
        self.routing.dtype_policy = self.dtype_policy
        self.routing.build(tuple(input_shape), tuple(self.kernel.shape))
        self.built = True

    def call(self, inputs, training: bool | None = None):
        return self.routing(inputs, ops.convert_to_tensor(self.kernel), training=training)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_capsules, self.capsule_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }
