"""The M-step of an epoch, as a callback."""

import keras
from keras import ops

from kcaps.regression import em


def compiled(function):
    """The function as one program of the backend."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


_MAXIMISATION = compiled(em.maximisation)


class Maximisation(keras.callbacks.Callback):
    """Takes the M-step of an epoch before its validation."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model._state.clear()
        self.pending = self.model.update == "epoch"

    def on_test_begin(self, logs=None):
        self._take()

    def on_epoch_end(self, epoch, logs=None):
        self._take()
        self._check()

    def _take(self):
        if not self.pending:
            return
        self.pending = False
        self.model._maximise(self.model._state.statistics, _MAXIMISATION)
        self._check()

    def _check(self):
        refused = self.model._state.refused
        if int(ops.convert_to_numpy(refused)):
            refused.assign(0)
            raise ValueError(
                "A step was not finite: `x` or `sample_weight` has NaN or infinity, `y` a number "
                "that is no class, or `x`, `sample_weight`, `ridge` or `rate` are too large for "
                "the model's dtype. The weights are those before it."
            )
