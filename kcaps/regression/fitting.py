"""EM as Keras runs it: an epoch is one iteration over arrays or batches."""

import keras
import numpy as np
from keras import ops

from kcaps.regression.batches import by_class, in_memory, of_validation, split, weights_of
from kcaps.regression.maximisation import Maximisation
from kcaps.regression.moments import rows
from kcaps.regression.steps import Steps
from kcaps.replicas import in_scope, num_replicas

# A batch has by default so many examples that this many numbers are computed at once.
_BATCH_NUMBERS = 2**24


class Fitting(Steps):
    """Mixin of `CapsuleRegression`: `fit` and `evaluate`."""

    @in_scope
    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=None,
        class_weight=None,
        sample_weight=None,
        **kwargs,
    ):
        """Runs EM; arguments and result as those of `keras.Model.fit`.

        An epoch is one iteration: `loss` and `error` are of the weights before its step,
        `val_loss` and `val_error` of those after it. Features of arrays are computed once.
        `batch_size` only decides how much memory a pass takes (and in online EM, how often a step
        is made): by default 64 MiB for the means of the capsules.

        A new model is given its first weights; another one goes on from those that it has, with
        its velocity. The second moments of the data are measured first, in a pass of its own,
        unless `adapt` was called: then those of its data are used.

        Raises:
            ValueError: as `adapt`, and if the statistics of an epoch are not finite; the weights
                are then those before it.
        """
        if not self.compiled:
            self.compile()
        options = {"epochs": epochs, "verbose": verbose, "callbacks": callbacks, **kwargs}
        if x is None:
            raise ValueError("`x` must be the examples, or batches of them. Received: x=None.")
        validation_data = of_validation(validation_data)
        if not hasattr(x, "shape") and not isinstance(x, list):
            unused = {
                "y": y,
                "sample_weight": sample_weight,
                "class_weight": class_weight,
                "batch_size": batch_size,
                "validation_split": validation_split or None,
            }
            given = [name for name, value in unused.items() if value is not None]
            if given:
                raise ValueError(
                    "Data that come in batches have their labels and weights in them, as "
                    f"(x, y, sample_weight). Received besides: {', '.join(given)}."
                )
            self._ready(x, steps=kwargs.get("steps_per_epoch"))
            options |= {"validation_data": validation_data}
            return self._run(x=x, shuffle=bool(shuffle), **options)
        if y is None:
            raise ValueError("`y` must be the labels of the examples. Received: y=None.")
        arrays = rows("x", x), np.asarray(y), rows("sample_weight", sample_weight)
        arrays, validation_data = split(arrays, validation_split, validation_data)
        x, y, weights = arrays
        self._check(x, y, weights)
        if class_weight is not None:
            factors = weights_of(self._classes(y), class_weight)
            weights = factors if weights is None else weights * factors
        self._ready(x, y, weights)
        if isinstance(validation_data, tuple):
            self._check(*(*validation_data, None)[:3])
        encoded = validation_data is None or isinstance(validation_data, tuple)
        if encoded:
            x = self._features_of(x)
        if encoded and validation_data is not None:
            validation_data = (self._features_of(validation_data[0]), *validation_data[1:])
        n, _, c, d = self.competition.kernel.shape
        most = batch_size or max(_BATCH_NUMBERS // (n * c * d), 64)
        size = min(most, len(x))
        grouped = self._can_group and self.update == "epoch"
        first = (x[:1], y[:1]) if encoded else None
        if grouped:
            x, y, weights, size = by_class(x, y, self._classes(y), weights, size, num_replicas())
        if shuffle is None:
            shuffle = self.update == "batch"
        if encoded and validation_data is not None:
            batches, more = in_memory(*(*validation_data, None)[:3], most)
            if "y" not in more:
                validation_data = batches
        options |= {"validation_data": validation_data, "validation_batch_size": most}
        if shuffle and not grouped:
            options |= {"y": y, "sample_weight": weights, "batch_size": size, "shuffle": True}
        else:
            x, more = in_memory(x, y, weights, size)
            options |= more
            if num_replicas() > 1:  # for which the start of each pass takes long
                options = {"steps_per_epoch": len(x), **options}
                x = x.repeat()
        return self._run(encoded, grouped, first, x=x, **options)

    def _ready(self, x, y=None, sample_weight=None, steps=None):
        """Measures the data, unless `adapt` was called, and gives a new model its first weights."""
        if not self._adapted:
            if hasattr(x, "__next__"):
                raise ValueError(
                    "`x` must be data that can be read more than once: its second moments are "
                    "measured first. Received: an iterator. Give a dataset, or call `adapt` on "
                    "another iterator first."
                )
            self._measure(x, y, sample_weight, steps=steps)
            if not np.any(ops.convert_to_numpy(self.competition.kernel)):
                self._start()
            self._prepare()
        elif self._state is None:
            self._prepare()
        self._take_over([self.competition.kernel, self._state.factor, self._state.ridge])

    def _check(self, x, y, weights):
        """Refuses arrays that cannot be those of this model."""
        self._classes(y)
        if weights is not None and not (np.isfinite(weights).all() and np.min(weights) >= 0):
            raise ValueError("`sample_weight` must be finite and >= 0. Received: other values.")
        if self.built and x.shape[1:] != self._input_shape[1:]:
            raise ValueError(
                f"`x` must have the shape (n, {', '.join(map(str, self._input_shape[1:]))}) of the "
                f"model's inputs. Received: {x.shape}."
            )

    @in_scope
    def evaluate(self, *args, **kwargs):
        """As `keras.Model.evaluate`, on inputs, also while `fit` runs."""
        if not self.built:
            raise ValueError("The model has no weights yet. Call `adapt` or `fit` first.")
        form = self._encoded, self._grouped
        if not kwargs.get("_use_cached_eval_dataset"):  # that one is `fit`'s own
            self._set_form(False, False)
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._set_form(*form)

    def _run(self, encoded=False, grouped=False, first=None, callbacks=None, **options):
        """Keras' `fit`; `first` is an example of encoded data."""
        self._set_form(encoded, grouped)
        try:
            if first is not None:
                # Keras builds metrics from the model's inputs, which these are not, and reads
                # all of them, also those that batches of one class do not reach.
                self._on_replicas(self._step, first, False)
            callbacks = keras.tree.flatten(callbacks or [])
            return super().fit(callbacks=[Maximisation(), *callbacks], **options)
        finally:
            self._set_form(False, False)

    def _set_form(self, encoded, grouped):
        """Says what batches are; each form has functions of its own, which Keras compiled."""
        before, form = (self._encoded, self._grouped), (encoded, grouped)
        if form != before:
            self._functions[before] = self.train_function, self.test_function
            self.train_function, self.test_function = self._functions.get(form, (None, None))
            self._encoded, self._grouped = form

    @property
    def _can_group(self):
        return hasattr(self.competition.problems, "problems_of")
