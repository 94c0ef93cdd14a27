"""Dynamic routing by agreement."""

import keras
from keras import ops

from kcaps.activations import squash
from kcaps.routing.routing import Routing
from kcaps.validation import positive_int


def dynamic_routing(inputs, kernel, num_iterations=3, stop_gradient=False):
    """Poses by agreement, without building the votes.

    The first couplings are equal, so the first weighted sum is one matrix product. Afterwards
    `agreement_bij = Σ_k u_bik (W_ij v_bj)_k` and `s_bj = Σ_i (c_bij u_bi) W_ij` are products
    batched over the output capsules.

    Args:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
        num_iterations: Number of weighted sums.
        stop_gradient: Whether the couplings count as constants for the gradient.

    Returns:
        Poses of shape `(batch, num_outputs, output_dim)`.
    """
    num_inputs, input_dim, num_outputs, output_dim = kernel.shape
    fan_in = num_inputs * input_dim
    flat_inputs = ops.reshape(inputs, (-1, fan_in))  # (b, i·k)
    flat_kernel = ops.reshape(kernel, (fan_in, num_outputs * output_dim))  # (i·k, j·d)
    sums = ops.matmul(flat_inputs, flat_kernel) / num_outputs  # (b, j·d)
    poses = squash(ops.reshape(sums, (-1, num_outputs, output_dim)))  # (b, j, d)

    by_output = ops.transpose(ops.reshape(kernel, (fan_in, num_outputs, output_dim)), (1, 0, 2))
    transposed = ops.transpose(by_output, (0, 2, 1))  # (j, d, i·k)
    fixed = ops.stop_gradient if stop_gradient else lambda x: x
    logits = 0.0
    for _ in range(num_iterations - 1):
        targets = ops.transpose(fixed(poses), (1, 0, 2))  # (j, b, d)
        agreed = ops.reshape(  # (j, b, i, k)
            ops.matmul(targets, fixed(transposed)), (num_outputs, -1, num_inputs, input_dim)
        )
        agreement = ops.sum(ops.cast(agreed * fixed(inputs), "float32"), axis=-1)  # (j, b, i)
        logits = logits + agreement
        couplings = ops.cast(ops.softmax(logits, axis=0), inputs.dtype)
        weighted = ops.reshape(  # (j, b, i·k)
            ops.expand_dims(couplings, -1) * inputs, (num_outputs, -1, fan_in)
        )
        poses = squash(ops.transpose(ops.matmul(weighted, by_output), (1, 0, 2)))
    return poses


@keras.saving.register_keras_serializable(package="kcaps")
class DynamicRouting(Routing):
    """Dynamic routing by agreement between votes and poses.

    Starting from logits `b_ij = 0`, for each example on its own:

        c_i· = softmax_j(b_i·),  s_j = Σ_i c_ij û_j|i,  v_j = squash(s_j),  b_ij += ⟨û_j|i, v_j⟩

    `num_iterations` counts the weighted sums: 3 means three sums and two updates of the logits,
    as in the paper. The couplings of an input capsule sum to one over the output capsules.

    Args:
        num_iterations: Positive integer. Defaults to 3.
        stop_gradient: Whether the gradient takes the couplings as constants and flows through
            the last weighted sum only. The paper's authors differentiate through all iterations.
            Defaults to False.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Input shape:
        Capsules `(batch, num_inputs, input_dim)` and kernel
        `(num_inputs, input_dim, num_outputs, output_dim)`.

    Output shape:
        Poses `(batch, num_outputs, output_dim)`.

    Raises:
        ValueError: if `num_iterations` is not a positive integer.

    Example:

    >>> layer = kcaps.layers.DigitCaps(10, 16, routing=DynamicRouting(num_iterations=2))

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), Procedure 1.
    """

    def __init__(self, num_iterations=3, stop_gradient=False, **kwargs):
        num_iterations = positive_int("num_iterations", num_iterations)
        super().__init__(**kwargs)
        self.num_iterations = num_iterations
        self.stop_gradient = bool(stop_gradient)

    def call(self, inputs, kernel):
        return dynamic_routing(inputs, kernel, self.num_iterations, self.stop_gradient)

    def get_config(self):
        return {
            **super().get_config(),
            "num_iterations": self.num_iterations,
            "stop_gradient": self.stop_gradient,
        }
