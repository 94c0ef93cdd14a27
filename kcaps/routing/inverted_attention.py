"""Inverted dot-product attention routing."""

import keras
from keras import ops

from kcaps.routing.routing import Routing
from kcaps.routing.stored_votes import votes_of
from kcaps.routing.votes import Votes, batch_first, softmax_over_outputs
from kcaps.validation import positive_int

# This is PyTorch's, as in the authors' code; Keras' own 0.001 would shrink short sums.
_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="kcaps")
class InvertedAttentionRouting(Routing):
    """Attention of each input capsule to its parents, which compete for it.

    Starting from poses `v_j = 0`, and so from equal couplings, with `D` components of an output
    capsule:

        a_ij = ⟨û_j|i, v_j⟩ / √D,  c_i· = softmax_j(a_i·),  v_j = LayerNorm(Σ_i c_ij û_j|i)

    Unlike dynamic routing, agreements are not added up, and layer normalisation replaces squash;
    its scale and offset are learned and shared by the output capsules. Every pose therefore starts
    with the length `√D`. For class capsules behind `CapsuleLength` the offset makes the length
    tell: it is a linear read-out that all classes share, as in the paper.

    Here `num_iterations` counts the weighted sums of one layer. `kcaps.layers.ConcurrentCaps`
    iterates several layers at the same time, as the paper does.

    Args:
        num_iterations: Positive integer. Defaults to 2.
        **kwargs: Base layer keyword arguments (e.g. `name`); the dtype is the layer's.

    Inputs and outputs have the shapes that `kcaps.routing.Routing` documents.

    Raises:
        ValueError: if `num_iterations` is not a positive integer, or the output capsules have one
            component.

    Example:

    >>> layer = kcaps.layers.DigitCaps(10, 16, routing=InvertedAttentionRouting(3))
    >>> tuple(layer(np.ones((2, 32, 8))).shape)
    (2, 10, 16)

    Reference:

    - [Tsai et al., 2020](https://arxiv.org/abs/2002.04764), Procedures 1 and 2.
    """

    def __init__(self, num_iterations: int = 2, **kwargs):
        num_iterations = positive_int("num_iterations", num_iterations)
        super().__init__(**kwargs)
        self.num_iterations = num_iterations

    def build(self, input_shape, kernel_shape):
        dim = kernel_shape[-1]
        if dim == 1:
            raise ValueError(
                "`InvertedAttentionRouting` needs output capsules of at least 2 components: layer "
                "normalisation makes a single one zero. Received: a kernel of shape "
                f"{tuple(kernel_shape)}."
            )
        self.scale = self.add_weight(shape=(dim,), initializer="ones", name="scale")
        self.offset = self.add_weight(shape=(dim,), initializer="zeros", name="offset")
        self.built = True

    def update(self, votes: Votes, poses=None):
        """Takes one iteration.

        Args:
            votes: `kcaps.routing.Votes`.
            poses: Poses of the iteration before, `(batch, num_outputs, output_dim)`, or None in
                the first.

        Returns:
            Couplings `(batch, num_inputs, num_outputs)`, or `(1, …)` in the first iteration, and
            poses `(batch, num_outputs, output_dim)`.
        """
        if poses is None:
            couplings, sums = votes.uniform()
        else:
            agreement = votes.agreement(batch_first(poses)) / votes.output_dim**0.5  # (j, b, i)
            by_output = softmax_over_outputs(agreement)
            couplings, sums = votes.as_couplings(by_output), votes.weighted_sum(by_output)
        return couplings, self._normalize(batch_first(sums))

    def iterate(self, inputs, kernel, components_first: bool = False, training: bool | None = None):
        votes, poses = votes_of(inputs, kernel, components_first, training), None
        for _ in range(self.num_iterations):
            couplings, poses = self.update(votes, poses)
            yield couplings, poses

    def _normalize(self, sums):
        x = ops.cast(sums, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        # `ops.moments` takes a difference of two means on torch, a variance that can be negative.
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + _EPSILON)
        x = x * ops.cast(self.scale, "float32") + ops.cast(self.offset, "float32")
        return ops.cast(x, sums.dtype)

    def get_config(self):
        return {**super().get_config(), "num_iterations": self.num_iterations}
