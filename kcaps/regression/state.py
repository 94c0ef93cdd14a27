"""The options of EM, its variables, and the forms in which Keras' loops meet both."""

import functools

import keras
import numpy as np
from keras import ops

from kcaps.backend.keras_private import is_validation_of_fit
from kcaps.backend.loops import failing_well
from kcaps.backend.replicas import in_scope
from kcaps.regression.data import is_array
from kcaps.validation import non_negative, one_of

OPTIONS = "momentum", "threshold", "ridge", "update", "rate"


def checked_option(name: str, value):
    """Returns an option of EM, or raises a `ValueError` for a value out of its range."""
    if name == "update":
        return one_of(name, value, ("epoch", "batch"))
    if name == "rate" and is_schedule(value):
        return value
    number = non_negative(name, value)
    if name == "momentum" and number >= 1:
        raise ValueError(f"`momentum` must be below 1. Received: momentum={value!r}.")
    if name == "ridge" and number > 1e30:
        raise ValueError(f"`ridge` must be at most 1e30. Received: ridge={value!r}.")
    return number


def is_schedule(rate) -> bool:
    """Returns whether a rate is a schedule, and not a number."""
    return isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)


def option(name: str, text: str, is_settable: bool = True) -> property:
    """Returns a property of a model that reads, and perhaps sets, an option of its trainer."""

    def read(self):
        return self._trainer.options[name]

    def write(self, value):
        self._trainer.set(name, value)

    return property(read, write if is_settable else None, doc=text)


def refuse_gradients(options: dict) -> None:
    """Takes the optimizer and the loss out of options, or raises a `ValueError` if one is given."""
    for name in ("optimizer", "loss"):
        if options.pop(name, None) is not None:
            raise ValueError(
                f"CapsuleRegression is fitted by EM: it takes no `{name}`. Remove it. To train "
                "by gradients, use the layer `kcaps.regression.Competition`."
            )


class TrainingState:
    """Variables of a running EM: they are neither weights of the model nor saved with it.

    Args:
        kernel: Variable of the built `Competition` that is trained.
        factor: Array of inverse factors and `ridge`, that of priors, as of `inverse_factors`.
        options: Dict of the first values of `momentum`, `threshold` and `rate`.
    """

    def __init__(self, kernel, factor, ridge, options: dict):
        same = {"trainable": False, "aggregation": "only_first_replica"}
        # Each replica adds up its own examples; the replicas' sums are added when one reads.
        sums = {"trainable": False, "aggregation": "sum", "synchronization": "on_read"}

        def variable(value, dtype=kernel.dtype, kind=same):
            return keras.Variable(value, dtype=dtype, **kind)

        self.velocity = variable(np.zeros(kernel.shape))
        self.gradient = variable(np.zeros(kernel.shape), kind=sums)
        self.weights = variable(np.zeros(kernel.shape[:1]), kind=sums)
        self.factor = variable(factor)
        self.ridge = variable(ridge)
        self.momentum = variable(options["momentum"])
        self.threshold = variable(options["threshold"])
        self.rate = variable(0.0 if is_schedule(options["rate"]) else options["rate"])
        self.updates = variable(0, "int32")
        self.refused = variable(0, "int32")  # These steps overflowed.
        self.variables = list(vars(self).values())

    def add(self, gradient, weights):
        """Adds the statistics of a batch."""
        self.gradient.assign_add(gradient)
        self.weights.assign_add(weights)

    def clear(self):
        """Forgets the statistics: a new pass over the examples begins."""
        self.gradient.assign(np.zeros(self.gradient.shape))
        self.weights.assign(np.zeros(self.weights.shape))


class EpochSteps(keras.callbacks.Callback):
    """Takes the M-step of an epoch before its validation, in EM by epochs of a `Trainer`."""

    def __init__(self, trainer):
        super().__init__()
        self.trainer = trainer

    def on_epoch_begin(self, epoch, logs=None):
        self.trainer.state.clear()
        self.is_pending = self.trainer.options["update"] == "epoch"

    def on_test_begin(self, logs=None):
        if self.is_pending:
            self.is_pending = False
            self.trainer.finish_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self.on_test_begin()
        self.trainer.check()


class RateOptimizer(keras.optimizers.Optimizer):
    """Shows the rate of a `Trainer` to callbacks as a learning rate; it applies no gradients.

    `ReduceLROnPlateau`, `LearningRateScheduler` and others that read and set
    `model.optimizer.learning_rate` read and set the rate. Files that are written while `fit` runs,
    such as those of `BackupAndRestore`, have the state of EM in them; a saved model has not.
    """

    def __init__(self, trainer):
        super().__init__(learning_rate=1.0, name="rate")
        self._trainer = trainer

    @property
    def learning_rate(self):
        rate = self._trainer.options["rate"]
        return float(ops.convert_to_numpy(rate(self.iterations))) if callable(rate) else rate

    @learning_rate.setter
    def learning_rate(self, value):
        self._trainer.set("rate", float(ops.convert_to_numpy(value)))

    @property
    def iterations(self):
        state = self._trainer.state
        return 0 if state is None else int(ops.convert_to_numpy(state.updates))

    @property
    def variables(self):
        return []

    def build(self, variables):
        self.built = True

    def save_own_variables(self, store):
        if self._trainer.is_fitting:
            for name in ("velocity", "updates"):
                store[name] = ops.convert_to_numpy(getattr(self._trainer.state, name))

    def load_own_variables(self, store):
        if self._trainer.is_fitting:
            for name in {"velocity", "updates"} & set(store.keys()):
                getattr(self._trainer.state, name).assign(np.asarray(store[name]))

    def apply(self, grads, trainable_variables=None):
        raise ValueError(
            "CapsuleRegression is fitted by EM: its optimizer applies no gradients. To train by "
            "gradients, use the layer `kcaps.regression.Competition`."
        )


class CheckedLoops:
    """Mixin of Keras models whose data are checked before Keras' loops read them.

    A model has a method `form` that returns the `Form` of its data.
    """

    @in_scope
    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Evaluates as `keras.Model.evaluate`, on inputs, also while `fit` runs.

        Raises:
            ValueError: for a model without weights, and for data as in `fit`.
        """
        if not self.built:
            raise ValueError("The model has no weights yet. Call `adapt` or `fit` first.")
        if not self.compiled:
            self.compile()
        if is_array(x) and not is_validation_of_fit(kwargs):
            x, y, _ = self.form().arrays(x, y, kwargs.get("sample_weight"))
        with failing_well(self):
            return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """Predicts as `keras.Model.predict`.

        Raises:
            ValueError: for inputs of another shape than those of `fit`.
        """
        x = self.form().inputs(x) if is_array(x) else x
        with failing_well(self):
            return super().predict(x, *args, **kwargs)

    def predict_on_batch(self, x):
        """Predicts as `keras.Model.predict_on_batch`; raises as `predict` does."""
        return super().predict_on_batch(self.form().inputs(x))

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Evaluates as `keras.Model.test_on_batch`; raises as `evaluate` does."""
        if not self.compiled:
            self.compile()
        x, y, weights = self.form().arrays(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight=weights, **kwargs)


class Graph:
    """Mixin of models of one input that exporters take for functional ones.

    A model that is built has an attribute `_input_shape`, with the axis of examples.
    """

    @property
    def inputs(self) -> list:
        """The graph's input, a list of one, as in a functional model; for exporters."""
        return [self._graph[0]]

    @property
    def outputs(self) -> list:
        """The graph's output, a list of one."""
        return [self._graph[1]]

    @property
    def output(self):
        """The graph's output."""
        return self._graph[1]

    @functools.cached_property
    def _graph(self):
        if not self.built:
            raise ValueError(
                "The model has no graph yet: its input's shape is not known. Call `adapt`, `fit` "
                "or `build` first."
            )
        name = "image" if len(self._input_shape) > 2 else "features"
        inputs = keras.Input(self._input_shape[1:], name=name)
        return inputs, self.call(inputs)
