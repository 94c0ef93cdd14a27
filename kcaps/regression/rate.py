"""The rate of EM as Keras' callbacks know it: the learning rate of an optimizer."""

import keras


class RateOptimizer(keras.optimizers.Optimizer):
    """Shows `CapsuleRegression.rate` to callbacks as a learning rate; it applies no gradients.

    `ReduceLROnPlateau`, `LearningRateScheduler` and others that read and set
    `model.optimizer.learning_rate` read and set the rate. What is written while `fit` runs, such as
    the files of `BackupAndRestore`, has the state of EM with it; a saved model has not.

    Args:
        get_rate: Function that returns the rate of the next step.
        set_rate: Function that sets the rate to a number.
        get_updates: Function that returns the number of steps taken.
        get_state: Function that returns the state of a running `fit`, a dict of arrays.
        set_state: Function that takes such a dict up.
    """

    def __init__(self, get_rate, set_rate, get_updates, get_state, set_state):
        super().__init__(learning_rate=1.0, name="rate")
        self._get_rate, self._set_rate, self._get_updates = get_rate, set_rate, get_updates
        self._get_state, self._set_state = get_state, set_state

    @property
    def learning_rate(self):
        return self._get_rate()

    @learning_rate.setter
    def learning_rate(self, value):
        self._set_rate(float(keras.ops.convert_to_numpy(value)))

    @property
    def iterations(self):
        return self._get_updates()

    @property
    def variables(self):
        return []

    def build(self, variables):
        self.built = True

    def save_own_variables(self, store):
        for name, value in self._get_state().items():
            store[name] = value

    def load_own_variables(self, store):
        self._set_state({name: store[name] for name in store.keys()})

    def apply(self, grads, trainable_variables=None):
        raise ValueError(
            "CapsuleRegression is fitted by EM: its optimizer applies no gradients. To train by "
            "gradients, use the layer `kcaps.regression.Competition`."
        )
