"""EM routing: output capsules as Gaussians fitted to the votes."""

import math

import keras
from keras import ops

from kcaps.activations import safe_norm
from kcaps.backend.compiling import is_xla_on_cpu
from kcaps.routing.em_blocks import SMALLEST_MASS, em_in_blocks
from kcaps.routing.routing import Routing
from kcaps.validation import non_negative, positive_int

_SMALLEST_SQUARED_LENGTH = 1e-12  # Directions of shorter means fade to zero.


def _maximization(votes, mass, activation_bias, cost_bias, inverse_temperature, variance_floor):
    """Returns means and variances `(b, j, d)` and activation logits `(b, j)` of output capsules.

    The mass `(b, i, j)` is the share of each input capsule that belongs to each output capsule.
    """
    total = ops.sum(mass, axis=1)  # (b, j)
    weights = ops.expand_dims(mass / ops.expand_dims(total + SMALLEST_MASS, 1), -1)
    means = ops.sum(weights * votes, axis=1)  # (b, j, d)
    deviations = votes - ops.expand_dims(means, 1)
    variances = ops.sum(weights * ops.square(deviations), axis=1) + variance_floor
    costs = (ops.expand_dims(cost_bias, -1) + 0.5 * ops.log(variances)) * ops.expand_dims(total, -1)
    logits = inverse_temperature * (activation_bias - ops.sum(costs, axis=-1))
    return means, variances, logits


def _expectation(votes, means, variances, logits):
    """Returns the probabilities of assignments `(b, i, j)`, which sum to one over `j`."""
    squares = ops.square(votes - ops.expand_dims(means, 1)) / ops.expand_dims(variances, 1)
    log_normalizer = ops.sum(ops.log(2 * math.pi * variances), axis=-1)  # (b, j)
    log_density = -0.5 * (ops.sum(squares, axis=-1) + ops.expand_dims(log_normalizer, 1))
    log_activations = ops.log_sigmoid(logits)
    # Not `ops.softmax`, which warns of a single output capsule.
    return ops.exp(ops.log_softmax(ops.expand_dims(log_activations, 1) + log_density, axis=-1))


def _poses(means, logits):
    """Returns poses along the means, of the lengths that the activations say."""
    squared = ops.sum(ops.square(means), axis=-1, keepdims=True)
    directions = means * ops.rsqrt(squared + _SMALLEST_SQUARED_LENGTH)
    return ops.expand_dims(ops.sigmoid(logits), -1) * directions


@keras.saving.register_keras_serializable(package="kcaps")
class EMRouting(Routing):
    """EM routing of matrix capsules, on vector capsules.

    Each output capsule is a Gaussian with mean `μ_j` and a variance `σ²_jd` in each component,
    fitted to the votes of the input capsules. An input capsule is active as far as its length
    says, `a_i = min(‖u_i‖, 1)`. Starting from assignments `R_ij = 1/J` to the `J` output capsules,
    each iteration takes an M-step:

        r_ij = R_ij a_i,  μ_j = Σ_i r_ij û_j|i / Σ_i r_ij
        σ²_jd = Σ_i r_ij (û_j|i - μ_j)²_d / Σ_i r_ij + variance_floor
        a_j = sigmoid(λ_t (β_j - Σ_d (γ_j + ln σ_jd) Σ_i r_ij))

    and, but for the last, an E-step, computed in logarithms:

        R_i· = softmax_j(ln a_j - ½ Σ_d [(û_j|i - μ_j)²_d / σ²_jd + ln 2πσ²_jd])

    The inverse temperature rises as `λ_t = inverse_temperature · (1 - 0.95^t)`, t = 1, 2, …; the
    biases `β` (of the activations) and `γ` (of the cost of describing a vote) are learned. The
    pose of a capsule points along its mean and has its activation for its length:
    `v_j = a_j μ_j / ‖μ_j‖`, so that the next layer, `CapsuleLength` and the margin loss read it
    like any other capsule.

    Variances need each vote on its own: this routing builds the tensor of votes. Where XLA compiles
    the training for a CPU, it computes the votes of a few input capsules at a time instead, again
    in each iteration and for the gradient, in less time and a small part of the memory.

    Args:
        num_iterations: Positive integer, number of M-steps. Defaults to 3.
        inverse_temperature: Number >= 0, the limit of the inverse temperature; three iterations
            reach a seventh of it. Defaults to 0.01.
        variance_floor: Positive number, added to the variances. Defaults to 0.0005.
        **kwargs: Base layer keyword arguments (e.g. `name`); the dtype is the layer's.

    Inputs and outputs have the shapes that `kcaps.routing.Routing` documents.

    Raises:
        ValueError: if a number is out of its range.

    Example:

    >>> layer = kcaps.layers.DigitCaps(10, 16, routing=EMRouting(num_iterations=2))
    >>> tuple(layer(np.ones((2, 32, 8))).shape)
    (2, 10, 16)

    Reference:

    - [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), Procedure 1; annealing and
      variance floor as in the authors' code.
    """

    def __init__(
        self,
        num_iterations: int = 3,
        inverse_temperature: float = 0.01,
        variance_floor: float = 5e-4,
        **kwargs,
    ):
        num_iterations = positive_int("num_iterations", num_iterations)
        inverse_temperature = non_negative("inverse_temperature", inverse_temperature)
        variance_floor = non_negative("variance_floor", variance_floor)
        if variance_floor == 0:
            raise ValueError(
                "`variance_floor` must be positive: one vote alone has no variance. "
                "Received: variance_floor=0."
            )
        super().__init__(**kwargs)
        self.num_iterations = num_iterations
        self.inverse_temperature = inverse_temperature
        self.variance_floor = variance_floor

    def build(self, input_shape, kernel_shape):
        shape = (kernel_shape[2],)
        self.activation_bias = self.add_weight(
            shape=shape, initializer="zeros", name="activation_bias"
        )
        self.cost_bias = self.add_weight(shape=shape, initializer="zeros", name="cost_bias")
        self.built = True

    def call(self, inputs, kernel, training: bool | None = None):
        if not (training and is_xla_on_cpu()) or type(self).iterate is not EMRouting.iterate:
            return super().call(inputs, kernel)
        means, logits = em_in_blocks(
            *self._in_float32(inputs, kernel), self._temperatures(), self.variance_floor
        )
        return ops.cast(_poses(means, logits), inputs.dtype)

    def iterate(self, inputs, kernel):
        dtype = inputs.dtype
        inputs, kernel, active, biases = self._in_float32(inputs, kernel)
        votes, active = self.votes(inputs, kernel), ops.expand_dims(active, -1)  # (b, i, 1)
        num_inputs, _, num_outputs, _ = kernel.shape
        assigned = ops.ones((1, num_inputs, num_outputs), "float32") / num_outputs
        for t, temperature in enumerate(self._temperatures(), start=1):
            means, variances, logits = _maximization(
                votes, assigned * active, *biases, temperature, self.variance_floor
            )
            yield assigned, ops.cast(_poses(means, logits), dtype)
            if t < self.num_iterations:
                assigned = _expectation(votes, means, variances, logits)

    def _in_float32(self, inputs, kernel):
        """Returns inputs, kernel, activations of the inputs `(b, i)`, and both biases.

        A rounding of the votes would be magnified where their variances are small.
        """
        active = ops.minimum(safe_norm(inputs), 1.0)
        biases = [ops.cast(b, "float32") for b in (self.activation_bias, self.cost_bias)]
        return ops.cast(inputs, "float32"), ops.cast(kernel, "float32"), active, biases

    def _temperatures(self):
        """Returns the inverse temperature of each iteration."""
        return [self.inverse_temperature * (1 - 0.95**t) for t in range(1, self.num_iterations + 1)]

    def get_config(self):
        return {
            **super().get_config(),
            "num_iterations": self.num_iterations,
            "inverse_temperature": self.inverse_temperature,
            "variance_floor": self.variance_floor,
        }
