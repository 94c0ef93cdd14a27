"""Routing towards the discriminative power of class capsules."""

import keras
from keras import ops

from kcaps.activations import squash
from kcaps.backend.compiling import product_dtype
from kcaps.labels import k_hot
from kcaps.routing.routing import Routing
from kcaps.validation import boolean, non_negative, one_of

PENALTIES = ("l1", "l2")
REDUCTIONS = ("sum", "mean")


def soft_threshold(values, threshold):
    """Returns `sign(x) max(|x| - t, 0)`, the proximal map of `t |x|`.

    Args:
        values: Tensor x.
        threshold: Number or scalar tensor t >= 0.

    Returns:
        Tensor of the shape of `values`, zero where these lie within the threshold.

    Example:

    >>> [float(x) for x in soft_threshold(np.array([-3.0, 0.5, 2.0]), 1.0)]
    [-2.0, 0.0, 1.0]
    """
    values = ops.convert_to_tensor(values)
    return ops.sign(values) * ops.maximum(ops.abs(values) - threshold, 0.0)


def folded_sum(inputs, kernel, coefficients):
    """Returns weighted sums `s_bj = Σ_i b_ij u_bi W_ij` by one product with a kernel `b_ij W_ij`.

    Args:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
        coefficients: Coupling coefficients of shape `(num_inputs, num_outputs)`.

    Returns:
        Sums of shape `(batch, num_outputs, output_dim)`.
    """
    inputs, kernel = ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel)
    num_inputs, input_dim, num_outputs, output_dim = kernel.shape
    dtype = keras.backend.result_type(inputs.dtype, kernel.dtype)
    inputs = ops.cast(inputs, product_dtype(inputs.dtype))
    kernel = ops.cast(kernel, product_dtype(kernel.dtype))
    coefficients = ops.reshape(
        ops.cast(coefficients, kernel.dtype), (num_inputs, 1, num_outputs, 1)
    )
    folded = coefficients * kernel  # (i, k, j, d)
    sums = ops.matmul(
        ops.reshape(inputs, (-1, num_inputs * input_dim)),
        ops.reshape(folded, (num_inputs * input_dim, num_outputs * output_dim)),
    )
    return ops.cast(ops.reshape(sums, (-1, num_outputs, output_dim)), dtype)


def signed_labels(labels, num_classes: int, balanced: bool):
    """Returns the weights `δ` of the objective: positive for present classes, -1 for absent ones.

    Args:
        labels: Integers `(batch,)` or a k-hot matrix `(batch, num_classes)`.
        num_classes: Number of classes.
        balanced: Whether present classes weigh `num_classes - 1` rather than 1, so that with
            balanced classes both kinds weigh the same in sum. A single class weighs 1.

    Returns:
        Float32 tensor of shape `(batch, num_classes)`. The row of a label that is no class is NaN.
    """
    weight = float(max(num_classes - 1, 1)) if balanced else 1.0
    present = k_hot(labels, num_classes, exact=True)
    return present * (weight + 1.0) - 1.0


@keras.saving.register_keras_serializable(package="kcaps")
class DiscriminativeRouting(Routing):
    """Global coupling coefficients, learned to tell the classes apart; `"l1"` and `"l2"`.

    One coefficient `b_ij` of either sign for each pair of capsules, the same for every example,
    with no softmax and no iteration:

        s_j = Σ_i b_ij û_j|i,  v_j = squash(s_j)

    The coefficients ascend their own objective on the batch, with `δ_jb = +1` where example `b`
    is of class `j` and -1 elsewhere:

        r_j = Σ_b δ_jb ‖s_bj‖² - λ ‖b_j‖²    ("l2")
        r_j = Σ_b δ_jb ‖s_bj‖² - λ ‖b_j‖₁    ("l1", with derivative 0 of |x| at 0)

    so that one step of rate γ is `b_ij += γ (2 Σ_b δ_jb ⟨û_j|i, s_bj⟩ - 2 λ b_ij)`, or
    `- λ sign(b_ij)` for l1. `kcaps.models.CapsNet` takes these steps; in any other Keras model
    the coefficients are ordinary trainable weights.

    A step along `sign(b_ij)` crosses zero and never rests there. The **proximal step** does: it
    ascends the sum over the batch alone, and then takes `b_ij ← sign(b_ij) max(|b_ij| - γ λ, 0)`
    for l1, `b_ij ← b_ij / (1 + 2 γ λ)` for l2. Its stationary points are the same, and those of
    l1 have coefficients that are exactly zero.

    `r_j` is a quadratic form of `b_j`, unbounded wherever it is positive: with a constant rate the
    coefficients grow for ever. A constraint on their norm makes it well-posed, and its maximum the
    leading eigenvector of that form: `coefficients_constraint=keras.constraints.UnitNorm(axis=0)`,
    from `keras.initializers.Constant(num_inputs**-0.5)`. λ of l2 does nothing there.

    At inference the coefficients can be multiplied into the kernel: nothing of the routing is
    left, and its cost is one matrix product.

    Args:
        penalty: `"l1"` or `"l2"`. Defaults to `"l2"`.
        penalty_weight: Number >= 0, the λ above. Defaults to 0.001.
        balanced: Whether present classes weigh `num_outputs - 1` in δ rather than +1. With ten
            balanced classes nine tenths of the plain δ are -1. Defaults to False, as printed.
        reduction: `"sum"` over the batch, as printed, or `"mean"`, which makes the step
            independent of the batch size. Defaults to `"sum"`.
        coefficients_initializer: Initializer of the coefficients, or None for the constant
            `1 / num_outputs`, the equal couplings of the other routings. Zero is a fixed point
            of the update. Defaults to None.
        proximal: Whether `CapsNet` takes the penalty by the proximal step rather than by its
            gradient, as printed. Defaults to None: l1 does, l2 does not.
        coefficients_constraint: Constraint of the coefficients `(num_inputs, num_outputs)`, which
            holds after each step. Defaults to None.
        **kwargs: Base layer keyword arguments (e.g. `name`); the dtype is the layer's.

    Inputs and outputs have the shapes that `kcaps.routing.Routing` documents.

    Raises:
        ValueError: for an unknown penalty, reduction or constraint, or a negative penalty weight.

    Example:

    >>> routing = DiscriminativeRouting("l1", penalty_weight=1e-4)
    >>> layer = kcaps.layers.DigitCaps(10, 16, routing=routing)
    >>> tuple(layer(np.ones((2, 32, 8))).shape)
    (2, 10, 16)

    Reference:

    - [Yang et al., 2021](https://arxiv.org/abs/2103.04278), equations (6) to (15). The printed
      factors of (13) and (15) differ by constants; those above are the gradient of `r_j`.
    """

    def __init__(
        self,
        penalty: str = "l2",
        penalty_weight: float = 0.001,
        balanced: bool = False,
        reduction: str = "sum",
        coefficients_initializer=None,
        proximal: bool | None = None,
        coefficients_constraint=None,
        **kwargs,
    ):
        penalty = one_of("penalty", penalty, PENALTIES)
        penalty_weight = non_negative("penalty_weight", penalty_weight)
        balanced = boolean("balanced", balanced)
        reduction = one_of("reduction", reduction, REDUCTIONS)
        proximal = penalty == "l1" if proximal is None else boolean("proximal", proximal)
        super().__init__(**kwargs)
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.balanced = balanced
        self.reduction = reduction
        self.coefficients_initializer = keras.initializers.get(coefficients_initializer)
        self.proximal = proximal
        self.coefficients_constraint = keras.constraints.get(coefficients_constraint)

    def build(self, input_shape, kernel_shape):
        num_inputs, _, num_outputs, _ = kernel_shape
        self.coefficients = self.add_weight(
            shape=(num_inputs, num_outputs),
            initializer=self.coefficients_initializer
            or keras.initializers.Constant(1.0 / num_outputs),
            constraint=self.coefficients_constraint,
            name="coefficients",
        )
        self.built = True

    @property
    def routing_variables(self):
        return [self.coefficients]

    def fixed_couplings(self, kernel_shape: tuple):
        return ops.convert_to_tensor(self.coefficients)

    def iterate(self, inputs, kernel):
        couplings = ops.expand_dims(ops.convert_to_tensor(self.coefficients), 0)  # (1, i, j)
        yield couplings, squash(folded_sum(inputs, kernel, self.coefficients))

    def objective(self, inputs, kernel, labels, sample_weight=None):
        """Returns the part `Σ_j Σ_b δ_jb ‖s_bj‖²` of the objective, which is to be ascended.

        Args:
            inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
            kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
            labels: Integers `(batch,)` or a k-hot matrix `(batch, num_outputs)`.
            sample_weight: Optional weights of the examples, `(batch,)`.

        Returns:
            Float32 scalar.
        """
        sums = ops.cast(folded_sum(inputs, kernel, self.coefficients), "float32")
        signs = signed_labels(labels, kernel.shape[2], self.balanced)
        terms = ops.sum(signs * ops.sum(ops.square(sums), axis=-1), axis=-1)  # (b,)
        if sample_weight is not None:
            terms = terms * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        return ops.mean(terms) if self.reduction == "mean" else ops.sum(terms)

    def penalty_term(self):
        """Returns the penalty `λ ‖b‖₁` or `λ ‖b‖²` of all output capsules, a float32 scalar."""
        coefficients = ops.cast(self.coefficients, "float32")
        # |b| is b sign(b), with derivative 0 at 0, where JAX gives `ops.abs` the derivative 1.
        slope = ops.stop_gradient(ops.sign(coefficients))
        factor = slope if self.penalty == "l1" else coefficients
        return self.penalty_weight * ops.sum(coefficients * factor)

    def proximal_step(self, rate):
        shrink = rate * self.penalty_weight
        values = ops.cast(self.coefficients, "float32")
        values = (
            soft_threshold(values, shrink) if self.penalty == "l1" else values / (1 + 2 * shrink)
        )
        if self.coefficients_constraint is not None:
            values = self.coefficients_constraint(values)
        self.coefficients.assign(values)

    def get_config(self):
        return {
            **super().get_config(),
            "penalty": self.penalty,
            "penalty_weight": self.penalty_weight,
            "balanced": self.balanced,
            "reduction": self.reduction,
            "coefficients_initializer": (
                self.coefficients_initializer
                and keras.initializers.serialize(self.coefficients_initializer)
            ),
            "proximal": self.proximal,
            "coefficients_constraint": keras.constraints.serialize(self.coefficients_constraint),
        }
