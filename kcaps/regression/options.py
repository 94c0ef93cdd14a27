"""The options of training by EM: `compile`, and what may be changed afterwards."""

import keras
import numpy as np
from keras import ops

from kcaps.regression.rate import RateOptimizer
from kcaps.validation import non_negative, one_of

UPDATES = ("epoch", "batch")


class Options:
    """Mixin of `CapsuleRegression`: what `compile` sets."""

    def compile(
        self,
        metrics=None,
        momentum=0.0,
        threshold=0.0,
        ridge=0.0,
        update="epoch",
        rate=1.0,
        **kwargs,
    ):
        """Configures the model for training.

        Args:
            metrics: Keras metrics of the class probabilities, e.g. `["accuracy"]`. The negative
                conditional log-likelihood `loss` and the share of wrong classes `error` are
                always there. In training of `"all_vs_all"` on arrays, where an example meets
                only the problems of its class, `error` counts the examples that lose one of
                them, and these metrics are of validation only.
            momentum: γ: the share of the last step that is added to each. Defaults to 0.
            threshold: ν: examples whose second class is at most this times as probable as their
                own count as learned, and no longer pull. Defaults to 0: all pull.
            ridge: Precision of a Gaussian prior on the weights, as `1/C` in scikit-learn's
                logistic regression. Defaults to 0.
            update: `"epoch"`: EM, or `"batch"`: online EM with a step after each batch, for
                streams. Defaults to `"epoch"`.
            rate: Number or `LearningRateSchedule` that multiplies steps; online EM needs one that
                falls. Callbacks find it as `optimizer.learning_rate`, so that a number may also be
                lowered by `ReduceLROnPlateau` or `LearningRateScheduler`. Defaults to 1.
            **kwargs: Further arguments of `keras.Model.compile` (e.g. `jit_compile`).

        Raises:
            ValueError: for an argument out of its range, or an optimizer or loss.
        """
        for name in ("optimizer", "loss"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"CapsuleRegression is fitted by EM: it takes no `{name}`. Remove it. To train "
                    "by gradients, use the layer `kcaps.regression.Competition`."
                )
        self._momentum = _below_one(momentum)
        self._rate = rate if _is_schedule(rate) else non_negative("rate", rate)
        self._threshold = non_negative("threshold", threshold)
        self._ridge, self._update = non_negative("ridge", ridge), one_of("update", update, UPDATES)
        if self._ridge > 1e30:
            raise ValueError(f"`ridge` must be at most 1e30. Received: ridge={ridge!r}.")
        optimizer = RateOptimizer(
            self._current_rate,
            self._set_rate,
            self._count_updates,
            self._running_state,
            self._resume,
        )
        # Nothing is scaled where there are no gradients.
        kwargs = {"auto_scale_loss": False, **kwargs}
        super().compile(optimizer=optimizer, loss=None, metrics=metrics, **kwargs)
        self._state, self._functions = None, {}

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config = {
                key: value for key, value in config.items() if key not in ("optimizer", "loss")
            }
            config |= {
                "momentum": self.momentum,
                "threshold": self._threshold,
                "ridge": self.ridge,
                "update": self.update,
                "rate": keras.saving.serialize_keras_object(self.rate),
            }
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def momentum(self):
        """The share γ of the last step; may be set, from the next epoch on."""
        return self._momentum

    @momentum.setter
    def momentum(self, value):
        self._momentum = _below_one(value)
        self._assign("momentum", value)

    @property
    def threshold(self):
        """The threshold ν; may be set, from the next epoch on."""
        return self._threshold

    @threshold.setter
    def threshold(self, value):
        self._threshold = non_negative("threshold", value)
        self._assign("threshold", value)

    @property
    def rate(self):
        """The factor of steps. A number may be set, from the next epoch on, a schedule not."""
        return self._rate

    @rate.setter
    def rate(self, value):
        if _is_schedule(value) or _is_schedule(self._rate):
            raise ValueError(
                "`rate` can be set from number to number only. Give schedules to `compile`. "
                f"Received: rate={value!r}, where it is {self._rate!r}."
            )
        self._rate = non_negative("rate", value)
        self._assign("rate", value)

    def _set_rate(self, value):
        self.rate = value

    def _current_rate(self):
        """The factor of the next step, a number."""
        if not _is_schedule(self._rate):
            return self._rate
        return float(ops.convert_to_numpy(self._rate(self._count_updates())))

    def _count_updates(self):
        """Number of steps that were taken since the model was compiled."""
        return 0 if self._state is None else int(ops.convert_to_numpy(self._state.updates))

    @property
    def ridge(self):
        """The precision of the prior, as compiled."""
        return self._ridge

    @property
    def update(self):
        """When steps are taken, as compiled."""
        return self._update

    def _running_state(self):
        """Returns the state of a `fit` that is running, a dict of arrays; empty outside of it."""
        if not self._is_fitting:
            return {}
        names = ("velocity", "updates")
        return {name: ops.convert_to_numpy(getattr(self._state, name)) for name in names}

    def _resume(self, arrays):
        """Takes up the state of a `fit` that was interrupted; only while another one runs."""
        if self._is_fitting:
            for name in {"velocity", "updates"} & set(arrays):
                getattr(self._state, name).assign(np.asarray(arrays[name]))

    def _assign(self, name, value):
        if self._state is not None:
            getattr(self._state, name).assign(value)


def _below_one(momentum):
    if non_negative("momentum", momentum) >= 1:
        raise ValueError(f"`momentum` must be below 1. Received: momentum={momentum!r}.")
    return float(momentum)


def _is_schedule(rate):
    return isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
