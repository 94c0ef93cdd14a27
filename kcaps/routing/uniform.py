"""Equal couplings: the control that a comparison of routings needs."""

import keras
from keras import ops

from kcaps.activations import squash
from kcaps.routing.routing import Routing
from kcaps.routing.votes import Votes, batch_first


@keras.saving.register_keras_serializable(package="kcaps")
class UniformRouting(Routing):
    """Fixed equal couplings: no routing at all.

        s_j = 1/J Σ_i û_j|i,  v_j = squash(s_j)

    for `J` output capsules: dynamic routing with one iteration, and a linear layer on flattened
    capsules, squashed. What another routing gains, it gains over this one.

    Args:
        **kwargs: Base layer keyword arguments (e.g. `name`); the dtype is the layer's.

    Inputs and outputs have the shapes that `kcaps.routing.Routing` documents.

    Example:

    >>> layer = kcaps.layers.DigitCaps(10, 16, routing=UniformRouting())
    >>> tuple(layer(np.ones((2, 32, 8))).shape)
    (2, 10, 16)

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), Procedure 1 with r = 1.
    """

    def fixed_couplings(self, kernel_shape: tuple):
        num_inputs, _, num_outputs, _ = kernel_shape
        return ops.ones((num_inputs, num_outputs), "float32") / num_outputs

    def iterate(self, inputs, kernel, components_first: bool = False):
        couplings, sums = Votes(inputs, kernel, components_first).uniform()
        yield couplings, squash(batch_first(sums))
