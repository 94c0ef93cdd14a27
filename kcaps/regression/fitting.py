"""EM as Keras runs it: an epoch is one iteration over arrays or batches."""

import keras
import numpy as np
from keras import ops

from kcaps.regression.batches import by_class, in_memory, of_validation, split, weights_of
from kcaps.regression.conversion import is_array, label_rows, rows
from kcaps.regression.maximisation import Maximisation
from kcaps.regression.moments import BATCH_SIZE
from kcaps.regression.progress import Progress, number_of_batches
from kcaps.regression.sizes import failing_well
from kcaps.regression.steps import Steps
from kcaps.backend.replicas import in_scope, num_replicas

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
        progress = Progress(verbose)
        if x is None:
            raise ValueError("`x` must be the examples, or batches of them. Received: x=None.")
        validation_data = of_validation(validation_data)
        if not is_array(x):
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
            self._ready(progress, x, steps=kwargs.get("steps_per_epoch"))
            options |= {"validation_data": validation_data}
            self._announce(progress)
            return self._run(x=x, shuffle=bool(shuffle), **options)
        if y is None:
            raise ValueError("`y` must be the labels of the examples. Received: y=None.")
        arrays = rows("x", x), label_rows("y", y), rows("sample_weight", sample_weight)
        arrays, validation_data = split(arrays, validation_split, validation_data)
        x, y, weights = arrays
        x = self._check(x, y, weights)
        if class_weight is not None:
            factors = weights_of(self._classes(y), class_weight)
            weights = factors if weights is None else weights * factors
        self._ready(progress, x, y, weights)
        if isinstance(validation_data, tuple):
            validation_x = self._check(*(*validation_data, None)[:3], "validation ")
            validation_data = (validation_x, *validation_data[1:])
        encoded = validation_data is None or isinstance(validation_data, tuple)
        if encoded:
            progress.line(self.encoder and f"Encoding {len(x):,} examples")
            x = self._features_of(x)
        if encoded and validation_data is not None:
            validation_data = (self._features_of(validation_data[0]), *validation_data[1:])
        self._announce(progress)
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

    def _ready(self, progress, x, y=None, sample_weight=None, steps=None):
        """Measures the data, unless `adapt` was called, and gives a new model its first weights."""
        if not self._adapted:
            if hasattr(x, "__next__"):
                raise ValueError(
                    "`x` must be data that can be read more than once: its second moments are "
                    "measured first. Received: an iterator. Give a dataset, or call `adapt` on "
                    "another iterator first."
                )
            batches = number_of_batches(x, BATCH_SIZE, steps)
            with progress.bar("Measuring second moments", batches) as observe:
                self._measure(x, y, sample_weight, steps=steps, observe=observe)
            if not np.any(ops.convert_to_numpy(self.competition.kernel)):
                self._start()
            self._prepare()
        elif self._state is None:
            self._prepare()
        self._take_over([self.competition.kernel, self._state.factor, self._state.ridge])

    def _announce(self, progress):
        """Says that the first epoch will take longer, where it will."""
        if not self.train_function and not self._functions:
            progress.line("Compiling the steps of EM, in the time of the first epoch")

    def _check(self, x, y, weights, prefix=""):
        """Refuses arrays that cannot be those of this model; returns `x` in its shape."""
        if y is None:
            raise ValueError(f"`{prefix}y` must be the labels of the examples. Received: None.")
        x = self._in_shape(x, f"{prefix}x")
        sizes = [len(part) for part in (x, y, weights) if part is not None]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"`{prefix}x`, `y` and `sample_weight` differ in length. Received: {sizes}."
            )
        self._classes(y, f"{prefix}y")
        if weights is not None and not (np.isfinite(weights).all() and np.min(weights) >= 0):
            raise ValueError(
                f"`{prefix}sample_weight` must be finite and >= 0. Received: other values."
            )
        return x

    @in_scope
    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`, on inputs, also while `fit` runs.

        Raises:
            ValueError: for a model without weights, and for data as in `fit`.
        """
        if not self.built:
            raise ValueError("The model has no weights yet. Call `adapt` or `fit` first.")
        if not self.compiled:
            self.compile()
        form = self._encoded, self._grouped
        if not kwargs.get("_use_cached_eval_dataset"):  # that one is `fit`'s own
            self._set_form(False, False)
            if is_array(x):
                x, y = rows("x", x), label_rows("y", y)
                x = self._check(x, y, rows("sample_weight", kwargs.get("sample_weight")))
        try:
            with failing_well(self):
                return super().evaluate(x, y, *args, **kwargs)
        finally:
            self._set_form(*form)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`; refuses inputs of another shape than the model's.

        Raises:
            ValueError: for inputs of another shape than those of `fit`.
        """
        if is_array(x):
            x = self._in_shape(rows("x", x), "x")
        with failing_well(self):
            return super().predict(x, *args, **kwargs)

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`; raises as `predict` does."""
        return super().predict_on_batch(self._in_shape(rows("x", x), "x"))

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As `keras.Model.test_on_batch`; raises as `evaluate` does."""
        if not self.compiled:
            self.compile()
        x, y, weights = rows("x", x), label_rows("y", y), rows("sample_weight", sample_weight)
        x = self._check(x, y, weights)
        return super().test_on_batch(x, y, sample_weight=weights, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, **kwargs):
        """As `keras.Model.train_on_batch`, for online EM after `adapt`.

        Raises:
            ValueError: for EM by epochs, whose step needs all examples, before `adapt`, and for
                data as in `fit`.
        """
        if not self.compiled:
            self.compile()
        if self.update != "batch":
            raise ValueError(
                '`update` must be "batch" for `train_on_batch`: a step of EM by epochs needs all '
                f"examples, by `fit`. Received: update={self.update!r}."
            )
        _ = self._training_state  # raises an error before `adapt`
        x, y, weights = rows("x", x), label_rows("y", y), rows("sample_weight", sample_weight)
        x = self._check(x, y, weights)
        if class_weight is not None:
            factors = weights_of(self._classes(y), class_weight)
            weights = factors if weights is None else weights * factors
        return super().train_on_batch(x, y, sample_weight=weights, **kwargs)

    def _run(self, encoded=False, grouped=False, first=None, callbacks=None, **options):
        """Keras' `fit`; `first` is an example of encoded data."""
        self._set_form(encoded, grouped)
        try:
            if first is not None:
                # Keras builds metrics from the model's inputs, which these are not, and reads
                # all of them, also those that batches of one class do not reach.
                self._on_replicas(self._step, first, False)
            callbacks = keras.tree.flatten(callbacks or [])
            self._is_fitting = True
            with failing_well(self):
                return super().fit(callbacks=[Maximisation(), *callbacks], **options)
        finally:
            self._is_fitting = False
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
