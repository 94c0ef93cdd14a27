"""A layer of capsules that compete to explain an input, and how classes share its capsules."""

import itertools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kcaps.backend.arrays import maxima
from kcaps.regression.em import means
from kcaps.regression.interpolation import (
    Expectations,
    at_least_float32,
    namespace,
    squared_lengths,
)
from kcaps.validation import is_sequence, one_of, positive_int


class Architecture:
    """Problems that are solved side by side, and how their answers are combined.

    A problem is a competition of capsules. `targets[k, n, c]` is 1 where capsule `c` of problem
    `n` stands for class `k`; a problem with no target for a class is not concerned with it.

    Args:
        targets: Array `(num_classes, num_problems, num_capsules)` of zeros and ones.
    """

    def __init__(self, targets):
        self.targets = np.asarray(targets, "float32")
        self.num_classes, self.num_problems, self.num_capsules = self.targets.shape

    def capsule_dims(self, class_dims: list[int]) -> np.ndarray:
        """Returns the components of each capsule `(n, c)`, given those of each class."""
        raise NotImplementedError

    def combine(self, probabilities):
        """Returns class probabilities `(b, num_classes)` from those of the problems `(b, n, c)`.

        They are an array if those of the problems are one, and a tensor otherwise.
        """
        raise NotImplementedError


class Multiclass(Architecture):
    """One capsule a class, all in one competition."""

    def __init__(self, num_classes):
        super().__init__(np.eye(num_classes)[:, None, :])

    def capsule_dims(self, class_dims):
        return np.asarray(class_dims)[None, :]

    def combine(self, probabilities):
        return namespace(probabilities).squeeze(probabilities, axis=1)


class OneVersusAll(Architecture):
    """One binary problem a class, against the rest; the class that is most certain wins."""

    def __init__(self, num_classes):
        own = np.eye(num_classes)
        super().__init__(np.stack([own, 1 - own], axis=-1))

    def capsule_dims(self, class_dims):
        return np.repeat(np.asarray(class_dims)[:, None], 2, axis=1)

    def combine(self, probabilities):
        own = probabilities[:, :, 0]
        return own / namespace(own).sum(own, axis=-1, keepdims=True)


class AllVersusAll(Architecture):
    """One binary problem a pair of classes; the majority of the votes wins.

    The probabilities are those whose pairwise shares the problems give (Price et al., 1994),
    `P_k ∝ 1 / (Σ_l 1/P_kl - (m - 2))`. Where the majority elects another class than the most
    probable one, the two change places, so that the largest probability is the elected class's;
    probabilities also decide between classes with as many votes.
    """

    def __init__(self, num_classes):
        self.pairs = np.array(list(itertools.combinations(range(num_classes), 2)))
        targets = np.zeros((num_classes, len(self.pairs), 2))
        for side in range(2):
            targets[self.pairs[:, side], np.arange(len(self.pairs)), side] = 1
        super().__init__(targets)
        # (m, m - 1): the problems of each class
        self.problems_of = np.array([np.flatnonzero(t.any(-1)) for t in targets], "int32")

    def capsule_dims(self, class_dims):
        return np.asarray(class_dims)[self.pairs]

    def combine(self, probabilities):
        ops, dtype = namespace(probabilities), probabilities.dtype
        own = np.transpose(self.targets.reshape(self.num_classes, -1))  # (n·c, m)
        own = ops.cast(own, dtype)
        flat = ops.reshape(probabilities, (-1, own.shape[0]))
        coupled = 1.0 / ((1.0 / flat) @ own - (self.num_classes - 2.0))
        coupled = coupled / ops.sum(coupled, axis=-1, keepdims=True)
        votes = ((ops.sign(flat - 0.5) + 1.0) / 2.0) @ own
        most = _maximum(votes)
        candidates = ops.cast(votes >= most, dtype) * coupled
        elected = _largest(candidates)
        likeliest = _largest(coupled)
        rise = _maximum(coupled) - _maximum(candidates)
        return coupled + rise * (elected - likeliest)


def _maximum(values):
    """Returns the maxima of the last axis, for values from 0 on."""
    return maxima(values, -1, 0.0)


def _largest(values):
    """Returns 1 at the largest value of each row, shared where several are the largest."""
    ops = namespace(values)
    mask = ops.cast(values >= _maximum(values), values.dtype)
    return mask / ops.sum(mask, axis=-1, keepdims=True)


ARCHITECTURES = {
    "multiclass": Multiclass,
    "one_vs_all": OneVersusAll,
    "all_vs_all": AllVersusAll,
}


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
    >>> Competition(10, capsule_dim=4)(features).shape
    (None, 10)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336).
    """

    def __init__(
        self,
        num_classes: int,
        capsule_dim: int | Sequence[int],
        architecture: str = "multiclass",
        kernel_initializer: keras.initializers.Initializer | str | None = None,
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
        problems = ARCHITECTURES[one_of("architecture", architecture, ARCHITECTURES)]
        self.problems = problems(num_classes)
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
            initializer=self.initial,
            aggregation="only_first_replica",  # Steps of EM are the same on all.
            name="kernel",
        )

    def initial(self, shape, dtype=None):
        """Returns first weights by the initializer, zero beyond each capsule's dimension."""
        values = self.kernel_initializer(shape, dtype)
        if isinstance(self.kernel_initializer, keras.initializers.Zeros):
            return values  # JAX would take a tenth of a second to compile the product.
        return values * ops.cast(self.mask, dtype)

    @property
    def mask(self):
        """1 where a capsule has a component, 0 beyond its dimension: `(n, 1, c, d)`."""
        return (np.arange(self.dims.max()) < self.dims[:, None, :, None]).astype("float32")

    def means(self, inputs):
        """Returns the means of all capsules, `(batch, problems, capsules, capsule_dim)`.

        Where classes differ in dimension, the last components of smaller ones are zero.
        """
        return means(ops.convert_to_tensor(inputs, self.compute_dtype), self.kernel)

    def call(self, inputs):
        mu = means(ops.cast(inputs, self.compute_dtype), ops.convert_to_tensor(self.kernel))
        squared = squared_lengths(at_least_float32(mu))
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
