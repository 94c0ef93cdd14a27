"""What EM keeps between its steps."""

import keras
import numpy as np

from kcaps.regression.em import Statistics


class TrainingState:
    """Variables of a running EM: they are neither weights of the model nor saved with it.

    Args:
        competition: The built `Competition` layer that is trained.
        factor: Array `(n, p, p)` or `(1, p, p)` of inverse factors of the second moments.
        ridge: Array `(n,)` or `(1,)`, precision of the prior by example.
        options: First values of `momentum`, `threshold` and `rate`, a dict.
    """

    def __init__(self, competition, factor, ridge, options):
        kernel = competition.kernel

        def variable(value, dtype=kernel.dtype):
            # The same on all replicas.
            aggregation = {"aggregation": "only_first_replica"}
            return keras.Variable(value, dtype=dtype, trainable=False, **aggregation)

        def total(shape):
            # Each replica adds up its own examples; the replicas' sums are added when one reads.
            aggregation = {"synchronization": "on_read", "aggregation": "sum"}
            return keras.Variable(
                np.zeros(shape), dtype=kernel.dtype, trainable=False, **aggregation
            )

        self.velocity = variable(np.zeros(kernel.shape))
        self.gradient = total(kernel.shape)
        self.weights = total(kernel.shape[:1])
        self.factor = variable(factor)
        self.ridge = variable(ridge)
        self.momentum = variable(options["momentum"])
        self.threshold = variable(options["threshold"])
        self.rate = variable(options["rate"])
        self.updates = variable(0, "int32")
        self.refused = variable(0, "int32")  # steps that overflowed

    @property
    def variables(self):
        return [
            *(self.velocity, self.gradient, self.weights, self.factor, self.ridge),
            *(self.momentum, self.threshold, self.rate, self.updates, self.refused),
        ]

    @property
    def statistics(self):
        return Statistics(self.gradient, self.weights)

    def add(self, statistics):
        self.gradient.assign_add(statistics.gradient)
        self.weights.assign_add(statistics.weights)

    def clear(self):
        """Forgets the statistics: a new pass over the examples begins."""
        self.gradient.assign(np.zeros(self.gradient.shape))
        self.weights.assign(np.zeros(self.weights.shape))
