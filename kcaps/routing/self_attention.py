"""Self-attention routing of Efficient-CapsNet."""

import keras
from keras import ops

from kcaps.activations import exponential_squash
from kcaps.routing.routing import Routing
from kcaps.routing.stored_votes import votes_of
from kcaps.routing.votes import batch_first, softmax_over_outputs


@keras.saving.register_keras_serializable(package="kcaps")
class SelfAttentionRouting(Routing):
    """Couplings by the agreement of each vote with all votes for the same capsule.

    No iteration; with `D` components of an output capsule and a learned bias `β_ij`:

        a_ij = ⟨û_j|i, Σ_k û_j|k⟩ / √D,  c_i· = softmax_j(a_i·) + β_i·
        s_j = Σ_i c_ij û_j|i,  v_j = (1 - e^{-‖s_j‖}) s_j / ‖s_j‖

    The softmaxes sum to one over the output capsules; the couplings do so while the bias is
    zero, as it is at the start.

    Args:
        bias_initializer: Initializer of the bias. Defaults to `"zeros"`.
        **kwargs: Base layer keyword arguments (e.g. `name`); the dtype is the layer's.

    Inputs and outputs have the shapes that `kcaps.routing.Routing` documents.

    Example:

    >>> layer = kcaps.layers.DigitCaps(10, 16, routing=SelfAttentionRouting())
    >>> tuple(layer(np.ones((2, 32, 8))).shape)
    (2, 10, 16)

    Reference:

    - [Mazzia et al., 2021](https://arxiv.org/abs/2101.12491), equations (3) to (6).
    """

    def __init__(self, bias_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape, kernel_shape):
        num_inputs, _, num_outputs, _ = kernel_shape
        self.bias = self.add_weight(
            shape=(num_inputs, num_outputs), initializer=self.bias_initializer, name="bias"
        )
        self.built = True

    def iterate(self, inputs, kernel, components_first: bool = False, training: bool | None = None):
        votes = votes_of(inputs, kernel, components_first, training)
        attention = votes.agreement(votes.sum()) / votes.output_dim**0.5  # (j, b, i)
        bias = ops.expand_dims(ops.transpose(ops.cast(self.bias, "float32")), 1)  # (j, 1, i)
        couplings = softmax_over_outputs(attention) + bias
        poses = exponential_squash(votes.weighted_sum(couplings))
        yield votes.as_couplings(couplings), batch_first(poses)

    def get_config(self):
        return {
            **super().get_config(),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }
