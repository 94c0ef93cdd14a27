"""What layers of capsules that are fed by a routing have in common."""

import keras

from kcaps import routing as routings
from kcaps.initializers import VoteScaling
from kcaps.validation import positive_int


class RoutedCaps(keras.layers.Layer):
    """Base class of layers that own a kernel, which makes votes, and a routing, which weighs them.

    A subclass builds both by `build_votes`, and tells with `routed` how its inputs enter them.

    Args:
        num_capsules: Positive integer, number of output capsules.
        capsule_dim: Positive integer, components of an output capsule.
        routing: Name, config or instance of a `kcaps.routing.Routing`.
        kernel_initializer: Initializer of the kernel, or None for
            `kcaps.initializers.VoteScaling()`.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Example:

    >>> layer = kcaps.layers.ConvCaps2D(10, 16, kernel_size=3)
    >>> layer.build((None, 6, 6, 4, 8))
    >>> tuple(layer.routed(np.ones((2, 6, 6, 4, 8))).shape)  # windows, 16 of each example
    (32, 36, 8)
    """

    def __init__(self, num_capsules: int, capsule_dim: int, routing, kernel_initializer, **kwargs):
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

    def build_votes(self, num_inputs: int, input_dim: int, **options) -> None:
        """Makes the kernel, and builds the routing for it.

        Args:
            num_inputs: Input capsules that an output capsule receives votes of.
            input_dim: Components of an input capsule.
            **options: Further arguments of `add_weight` for the kernel.

        Raises:
            ValueError: for a routing with the weights or the dtype of another layer.
        """
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
            name="kernel",
            **options,
        )
        self.routing.dtype_policy = self.dtype_policy
        self.routing.build((None, num_inputs, input_dim), tuple(self.kernel.shape))

    def routed(self, inputs):
        """Returns the inputs as the routing takes them, `(batch, num_inputs, input_dim)`."""
        raise NotImplementedError

    def get_config(self):
        return {
            **super().get_config(),
            "num_capsules": self.num_capsules,
            "capsule_dim": self.capsule_dim,
            "routing": routings.serialize(self.routing),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
