"""How classes share capsules: one problem of all classes, or several binary ones side by side."""

import itertools

import numpy as np

from kcaps.regression.arrays import namespace
from kcaps.validation import one_of


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

    def capsule_dims(self, class_dims):
        """Components of each capsule `(num_problems, num_capsules)`, given those of each class."""
        raise NotImplementedError

    def combine(self, probabilities):
        """Class probabilities `(b, num_classes)` from those of the problems `(b, n, c)`.

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
    """For each class a binary problem, that class against the rest; the most certain one wins."""

    def __init__(self, num_classes):
        own = np.eye(num_classes)
        super().__init__(np.stack([own, 1 - own], axis=-1))

    def capsule_dims(self, class_dims):
        return np.repeat(np.asarray(class_dims)[:, None], 2, axis=1)

    def combine(self, probabilities):
        own = probabilities[:, :, 0]
        return own / namespace(own).sum(own, axis=-1, keepdims=True)


class AllVersusAll(Architecture):
    """For each pair of classes a binary problem; the majority of the votes wins.

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
    """Of the last axis, for values from 0 on. TensorFlow refuses an empty batch otherwise."""
    return namespace(values).max(values, axis=-1, keepdims=True, initial=0.0)


def _largest(values):
    """1 at the largest value of each row, shared where several are the largest."""
    ops = namespace(values)
    mask = ops.cast(values >= _maximum(values), values.dtype)
    return mask / ops.sum(mask, axis=-1, keepdims=True)


ARCHITECTURES = {
    "multiclass": Multiclass,
    "one_vs_all": OneVersusAll,
    "all_vs_all": AllVersusAll,
}


def get(name, num_classes):
    """The architecture of a name, for a number of classes."""
    return ARCHITECTURES[one_of("architecture", name, ARCHITECTURES)](num_classes)
