"""Several capsule layers that route at the same time."""

import keras
from keras import ops

from kcaps.backend.compiling import prefers_components_first
from kcaps.layers.digit_caps import DigitCaps
from kcaps.routing import InvertedAttentionRouting, votes_of
from kcaps.validation import from_config, positive_int


@keras.saving.register_keras_serializable(package="kcaps")
class ConcurrentCaps(keras.layers.Layer):
    """A stack of capsule layers whose inverted attention iterates concurrently.

    In the first iteration the layers route one after the other, each on the poses of the layer
    below. In each further one, all layers take a step at the same time, from the poses that they
    and the layers below them had after the iteration before; so that information from above
    reaches the lower layers while these still change. `kcaps.diagnostics` and the decoder of
    `CapsNet` look at `DigitCaps` in the model itself, not at those in here.

    Args:
        layers: List of `DigitCaps` with `InvertedAttentionRouting`, lowest first. The number of
            iterations of their own routings is not used.
        num_iterations: Positive integer. Defaults to 2.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Input shape:
        Capsules `(batch, num_inputs, input_dim)`, the last two known.

    Output shape:
        Poses of the last layer, `(batch, num_capsules, capsule_dim)`.

    Raises:
        ValueError: for an empty list, a layer of another kind or with another routing, or a number
            of iterations that is not a positive integer.

    Example:

    >>> layers = [DigitCaps(n, 16, routing="inverted_attention") for n in (32, 10)]
    >>> tuple(ConcurrentCaps(layers)(keras.random.normal((2, 64, 8))).shape)
    (2, 10, 16)

    Reference:

    - [Tsai et al., 2020](https://arxiv.org/abs/2002.04764), Procedure 2.
    """

    def __init__(self, layers: list[DigitCaps], num_iterations: int = 2, **kwargs):
        num_iterations = positive_int("num_iterations", num_iterations)
        if not isinstance(layers, list | tuple):
            raise ValueError(f"`layers` must be a list of layers. Received: layers={layers!r}.")
        layers = [from_config("layers", layer) for layer in layers]
        for layer in layers:
            routing = getattr(layer, "routing", None)
            if not isinstance(layer, DigitCaps) or not isinstance(
                routing, InvertedAttentionRouting
            ):
                raise ValueError(
                    "`layers` must be DigitCaps with routing='inverted_attention', which alone can "
                    f"take single steps. Received: {layer!r} with routing {routing!r}."
                )
        if not layers:
            raise ValueError("`layers` must hold at least one layer. Received: layers=[].")
        super().__init__(**kwargs)
        self.layers = layers
        self.num_iterations = num_iterations
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        self.input_spec = keras.layers.InputSpec(
            ndim=3, axes={1: input_shape[1], 2: input_shape[2]}
        )
        for layer in self.layers:
            if not layer.built:  # Loading may have built it.
                layer.build(input_shape)
            if tuple(layer.kernel.shape[:2]) != tuple(input_shape[1:]):
                raise ValueError(
                    "`layers` must follow one another: each takes the capsules of the one below. "
                    f"Received: {layer.name!r} of {tuple(layer.kernel.shape[:2])} capsules and "
                    f"components on {tuple(input_shape[1:])}."
                )
            input_shape = layer.compute_output_shape(input_shape)
        self.built = True

    def call(self, inputs, training: bool | None = None):
        components_first = not training and prefers_components_first()

        def update(layer, below, poses=None):
            # Plain sums, as in the first iteration, are faster in the other layout.
            is_fast = components_first and poses is not None
            votes = votes_of(below, ops.convert_to_tensor(layer.kernel), is_fast, training)
            return layer.routing.update(votes, poses)[1]

        poses = [inputs]
        for layer in self.layers:
            poses.append(update(layer, poses[-1]))
        for _ in range(self.num_iterations - 1):
            steps = zip(self.layers, poses, poses[1:], strict=False)
            poses = [inputs, *(update(*step) for step in steps)]
        return poses[-1]

    def compute_output_shape(self, input_shape):
        return self.layers[-1].compute_output_shape(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "layers": [keras.saving.serialize_keras_object(layer) for layer in self.layers],
            "num_iterations": self.num_iterations,
        }
