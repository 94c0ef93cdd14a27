"""A layer of capsules that compete to explain an input."""

import keras
import numpy as np
from keras import ops

from kcaps.regression import architectures, em
from kcaps.regression.interpolation import at_least_float32
from kcaps.regression.posterior import Expectations, squared_lengths
from kcaps.validation import is_sequence, positive_int


@keras.saving.register_keras_serializable(package="kcaps")
class Competition(keras.layers.Layer):
    """Class probabilities from Gaussian capsules that compete by their lengths.

    Each capsule is a Gaussian vector `h_i ~ N(W_i x, I)`, and class `j` has the probability
    `E[‖h_j‖² / Σ_i ‖h_i‖²]`, in closed form (see `class_probabilities`). It is the layer that
    `CapsuleRegression` trains by EM; being differentiable, it may also be the last layer of a
    network that is trained by gradients.

    Args:
        num_classes: Integer >= 2.
        capsule_dim: Positive integer, components of each capsule, or one for each class.
        architecture: `"multiclass"` (one capsule a class), `"one_vs_all"` (for each class two
            capsules, its own and that of the rest) or `"all_vs_all"` (two capsules for each pair
            of classes, majority vote). Defaults to `"multiclass"`.
        kernel_initializer: Keras initializer. Defaults to normal values of deviation 0.1.
        **kwargs: Base layer keyword arguments (e.g. `name` and `dtype`).

    Call arguments:
        inputs: Tensor `(batch, num_features)`.

    Output shape:
        `(batch, num_classes)`, which sums to 1.

    Raises:
        ValueError: for an argument out of its range.

    Example:

    >>> features = keras.Input((64,))
    >>> probabilities = Competition(10, capsule_dim=4)(features)  # (None, 10)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336).
    """

    def __init__(
        self,
        num_classes,
        capsule_dim,
        architecture="multiclass",
        kernel_initializer=None,
        **kwargs,
    ):
        num_classes = positive_int("num_classes", num_classes)
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received: {num_classes}.")
        sequence = is_sequence(capsule_dim)
        dims = [positive_int("capsule_dim", d) for d in capsule_dim] if sequence else None
        if sequence and len(dims) != num_classes:
            raise ValueError(
                f"`capsule_dim` must be one integer, or one for each of the {num_classes} classes. "
                f"Received: {len(dims)} integers."
            )
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.capsule_dim = dims if sequence else positive_int("capsule_dim", capsule_dim)
        self.architecture = architecture
        self.problems = architectures.get(architecture, num_classes)
        class_dims = dims if sequence else [self.capsule_dim] * num_classes
        self.dims = self.problems.capsule_dims(class_dims)  # (n, c)
        self.kernel_initializer = (
            keras.initializers.RandomNormal(stddev=0.1)
            if kernel_initializer is None
            else keras.initializers.get(kernel_initializer)
        )
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def build(self, input_shape):
        if not input_shape[-1]:
            raise ValueError(
                "`Competition` needs a known number of features, of 1 or more. "
                f"Received: inputs of shape {tuple(input_shape)}."
            )
        n, c = self.dims.shape
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={1: int(input_shape[-1])})
        self.kernel = self.add_weight(
            shape=(n, int(input_shape[-1]), c, int(self.dims.max())),
            initializer=self._initial,
            aggregation="only_first_replica",  # steps of EM are the same on all
            name="kernel",
        )

    def _initial(self, shape, dtype=None):
        values = self.kernel_initializer(shape, dtype)
        if isinstance(self.kernel_initializer, keras.initializers.Zeros):
            return values  # before JAX compiles a product of zeros, which takes a tenth of a second
        return values * ops.cast(self.mask, dtype)

    @property
    def mask(self):
        """1 where a capsule has a component, 0 beyond its dimension: `(n, 1, c, d)`."""
        return (np.arange(self.dims.max()) < self.dims[:, None, :, None]).astype("float32")

    def means(self, inputs):
        """Means of all capsules, `(batch, problems, capsules, capsule_dim)`.

        Where classes differ in dimension, the last components of smaller ones are zero.
        """
        return em.means(ops.convert_to_tensor(inputs, self.compute_dtype), self.kernel)

    def call(self, inputs):
        means = em.means(ops.cast(inputs, self.compute_dtype), ops.convert_to_tensor(self.kernel))
        squared = squared_lengths(at_least_float32(means))
        probabilities = self.problems.combine(Expectations(squared, self.dims).probabilities)
        return ops.cast(probabilities, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_classes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "capsule_dim": self.capsule_dim,
            "architecture": self.architecture,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
