"""Dynamic routing by agreement."""

import keras
from keras import ops

from kcaps.activations import safe_norm, squash
from kcaps.routing.routing import Routing
from kcaps.routing.stored_votes import votes_of
from kcaps.routing.votes import batch_first, softmax_over_outputs
from kcaps.validation import boolean, non_negative, positive_int


def routing_objective(sums):
    """Returns `Ψ = -Σ_j ψ(‖s_j‖)` with `ψ(z) = z - arctan z`, which dynamic routing descends.

    The derivative of ψ is the length that squash gives, so that the agreements are the negative
    gradient of Ψ in the couplings. Ψ is concave, and never rises from one iteration to the next.

    Args:
        sums: Weighted sums of votes, before squash, `(batch, num_outputs, output_dim)`.

    Returns:
        Float32 tensor of shape `(batch,)`.

    Example:

    >>> np.asarray(routing_objective([[[3.0, 4.0], [0.0, 0.0]]])).round(4)  # arctan(5) - 5
    array([-3.6266], dtype=float32)

    Reference:

    - [Ye, Li and Shen, 2025](https://arxiv.org/abs/2501.06240).
    """
    lengths = safe_norm(sums)  # (b, j)
    # The difference loses its digits at short lengths; the series is exact to float32 there. It
    # is kept from long ones, where it would overflow and spoil the gradient.
    short = ops.minimum(lengths, 0.2)
    squared = ops.square(short)
    series = 1 / 3 - squared * (1 / 5 - squared * (1 / 7 - squared / 9))
    terms = ops.where(lengths < 0.2, short * squared * series, lengths - ops.arctan(lengths))
    return -ops.sum(terms, axis=-1)


@keras.saving.register_keras_serializable(package="kcaps")
class DynamicRouting(Routing):
    """Dynamic routing by agreement between votes and poses.

    Starting from logits `b_ij = 0`, for each example on its own:

        c_i· = softmax_j(b_i·),  s_j = Σ_i c_ij û_j|i,  v_j = squash(s_j),  b_ij += ⟨û_j|i, v_j⟩

    `num_iterations` counts the weighted sums: 3 means three sums and two updates of the logits,
    as in the paper. The couplings of an input capsule sum to one over the output capsules, or,
    with `leaky`, to less: an input capsule may belong to none of them.

    Args:
        num_iterations: Positive integer. Defaults to 3.
        stop_gradient: Whether the gradient takes the couplings as constants and flows through
            the last weighted sum only. The paper's authors differentiate through all iterations.
            Defaults to False.
        leaky: Whether the softmax has one more logit, fixed at 0, for "none of the above".
            Defaults to False.
        tolerance: Number >= 0, or None. An example keeps its poses from the iteration in which its
            objective (`kcaps.routing.routing_objective`) changes by less than this;
            `num_iterations` is then the most that it may take. The cost stays that of
            `num_iterations`. Defaults to None: all iterations count.
        **kwargs: Base layer keyword arguments (e.g. `name`); the dtype is the layer's.

    Inputs and outputs have the shapes that `kcaps.routing.Routing` documents.

    Raises:
        ValueError: if `num_iterations` is not a positive integer or `tolerance` is negative.

    Example:

    >>> layer = kcaps.layers.DigitCaps(10, 16, routing=DynamicRouting(num_iterations=2))
    >>> tuple(layer(np.ones((2, 32, 8))).shape)
    (2, 10, 16)
    >>> adaptive = DynamicRouting(num_iterations=20, tolerance=1e-3)

    Reference:

    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), Procedure 1; the "none of the above"
      logit as in the authors' code.
    """

    def __init__(
        self,
        num_iterations: int = 3,
        stop_gradient: bool = False,
        leaky: bool = False,
        tolerance: float | None = None,
        **kwargs,
    ):
        num_iterations = positive_int("num_iterations", num_iterations)
        tolerance = None if tolerance is None else non_negative("tolerance", tolerance)
        stop_gradient = boolean("stop_gradient", stop_gradient)
        leaky = boolean("leaky", leaky)
        super().__init__(**kwargs)
        self.num_iterations = num_iterations
        self.stop_gradient = stop_gradient
        self.leaky = leaky
        self.tolerance = tolerance

    def iterate(self, inputs, kernel, components_first: bool = False, training: bool | None = None):
        votes = votes_of(inputs, kernel, components_first, training)
        constant = votes.detached() if self.stop_gradient else votes
        couplings, sums = votes.uniform(1.0 / (votes.num_outputs + self.leaky))
        poses = squash(sums)  # (j, b, d)
        yield couplings, batch_first(poses)

        logits = 0.0
        objective, running = routing_objective(batch_first(sums)), ops.ones((1, 1, 1), "bool")
        for _ in range(self.num_iterations - 1):
            targets = ops.stop_gradient(poses) if self.stop_gradient else poses
            logits = logits + constant.agreement(targets, keepdims=True)
            by_output = softmax_over_outputs(logits, self.leaky)
            sums = votes.weighted_sum(by_output)
            new_couplings, new_poses = votes.as_couplings(by_output), squash(sums)
            if self.tolerance is None:
                couplings, poses = new_couplings, new_poses
            else:
                # An example that is done keeps what it has. All examples take all iterations: XLA
                # cannot differentiate a loop that ends by itself, nor ONNX express it cheaply.
                couplings = ops.where(running, new_couplings, couplings)  # (b, i, j)
                poses = ops.where(batch_first(running), new_poses, poses)
                before, objective = objective, routing_objective(batch_first(sums))
                changed = ops.abs(objective - before) >= self.tolerance  # (b,)
                running = ops.logical_and(running, changed[:, None, None])
            yield couplings, batch_first(poses)

    def get_config(self):
        return {
            **super().get_config(),
            "num_iterations": self.num_iterations,
            "stop_gradient": self.stop_gradient,
            "leaky": self.leaky,
            "tolerance": self.tolerance,
        }
