"""EM as Keras runs it: E-steps on batches, an M-step when an epoch's batches have been seen."""

import keras
import numpy as np
from keras import ops

from kcaps.labels import k_hot
from kcaps.regression import em
from kcaps.regression.adaptation import Adaptation
from kcaps.regression.batches import by_class, in_memory, of_validation, split, weights_of
from kcaps.regression.moments import rows
from kcaps.replicas import Replicated, in_scope, num_replicas, total

# A batch has by default so many examples that this many numbers are computed at once.
_BATCH_NUMBERS = 2**24


class Fitting(Adaptation, Replicated):
    """Mixin of `CapsuleRegression`: `fit`, and the steps that Keras calls on a batch."""

    def _begin(self):
        self._error_tracker = keras.metrics.Mean(name="error")
        self._moments, self._adapted = None, False  # of the data of `adapt`, or of a `fit`
        self._state = None  # of training: neither saved nor counted with the weights
        self._encoded = self._grouped = False  # what the batches of a running `fit` are
        self._functions = {}

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
            return super().fit(callbacks=[_Maximisation(), *callbacks], **options)
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

    def _expect(self, features, classes, weights):
        """E-step of a batch: statistics, losses `(b,)`, errors `(b,)` and class probabilities."""
        layer, state = self.competition, self._state
        problems, dtype = layer.problems, layer.compute_dtype
        n, c = layer.dims.shape
        targets = classes[:, None, :]  # (b, n, c)
        if n > 1:
            flat = ops.convert_to_tensor(problems.targets.reshape(-1, n * c), dtype)
            targets = ops.reshape(ops.matmul(classes, flat), (-1, n, c))
        statistics, answers = em.expectation(
            features,
            targets,
            weights,
            ops.convert_to_tensor(layer.kernel),
            layer.dims,
            0.0 if state is None else state.threshold,
        )
        outputs = problems.combine(answers.probabilities)
        right, wrong = answers.right[:, 0], answers.wrong[:, 0]
        if n > 1:
            right = ops.sum(classes * outputs, axis=-1)
            wrong = ops.max((1.0 - classes) * outputs, axis=-1)
        # Ties are errors: nothing was told apart.
        return statistics, answers.losses, ops.cast(wrong >= right, dtype), outputs

    def _expect_one_class(self, features, classes, weights):
        """E-step of a batch of one class, which computes only the problems of that class."""
        layer, state = self.competition, self._state
        problems, dtype = layer.problems, layer.compute_dtype
        k = ops.argmax(classes[0])
        chosen = ops.take(ops.convert_to_tensor(problems.problems_of), k, axis=0)  # (m - 1,)

        def of_problems(array, axis=0):
            return ops.take(ops.convert_to_tensor(array, dtype), chosen, axis=axis)

        targets = ops.take(of_problems(problems.targets, axis=1), k, axis=0)[None]
        part, answers = em.expectation(
            features,
            targets,
            weights,
            of_problems(layer.kernel),
            of_problems(layer.dims),
            state.threshold,
        )
        place = ops.one_hot(chosen, layer.kernel.shape[0], axis=0, dtype=dtype)  # (n, m - 1)
        statistics = em.Statistics(
            ops.tensordot(place, part.gradient, 1), ops.matmul(place, part.weights)
        )
        lost = ops.any(answers.wrong >= answers.right, axis=-1)
        return statistics, answers.losses, ops.cast(lost, dtype), None

    def _step(self, data, training):
        """E-step of a batch, with the M-step after it in online EM; logs of all metrics."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        layer = self.competition
        classes = ops.cast(k_hot(y, layer.num_classes), layer.compute_dtype)  # (b, m)
        weights = ops.ones_like(classes[:, 0])
        if sample_weight is not None:
            weights = ops.reshape(ops.cast(sample_weight, weights.dtype), (-1,))
        expect = self._expect_one_class if self._grouped and training else self._expect
        features = ops.cast(x, weights.dtype) if self._encoded else self._encode(x)
        statistics, losses, errors, outputs = expect(features, classes, weights)
        if training and self.update == "batch":
            self._maximise(total(statistics), em.maximisation)
        elif training:
            self._state.add(statistics)
        loss = next(metric for metric in self.metrics if metric.name == "loss")
        loss.update_state(losses, sample_weight=weights)
        self._error_tracker.update_state(errors, sample_weight=weights)
        if outputs is None:
            return {tracker.name: tracker.result() for tracker in (loss, self._error_tracker)}
        return self.compute_metrics(x, y, outputs, sample_weight=sample_weight)

    def _maximise(self, statistics, maximisation):
        state, kernel = self._state, self.competition.kernel
        rate = self.rate(state.updates) if callable(self.rate) else state.rate
        rate = ops.cast(ops.convert_to_tensor(rate), kernel.dtype)
        before = ops.convert_to_tensor(kernel), ops.convert_to_tensor(state.velocity)
        new, velocity = maximisation(
            *before,
            em.Statistics(*map(ops.convert_to_tensor, statistics)),
            ops.convert_to_tensor(state.factor),
            ops.convert_to_tensor(state.ridge),
            ops.convert_to_tensor(state.momentum),
            rate,
        )
        finite = ops.all(ops.isfinite(new))
        kernel.assign(ops.where(finite, new, before[0]))
        state.velocity.assign(ops.where(finite, velocity, before[1]))
        state.updates.assign_add(1)
        state.refused.assign_add(ops.cast(ops.logical_not(finite), "int32"))

    if keras.backend.backend() == "jax":

        @property
        def metrics_variables(self):
            # What changes in training and is no weight has its place here in Keras' state.
            return super().metrics_variables + (self._state.variables if self._state else [])

        def train_step(self, state, data):
            variables = (
                self.trainable_variables,
                self.non_trainable_variables,
                self.optimizer.variables,
                self.metrics_variables,
            )
            return self._stateless(variables, state, data, True)

        def test_step(self, state, data):
            variables = (
                self.trainable_variables,
                self.non_trainable_variables,
                self.metrics_variables,
            )
            return self._stateless(variables, state, data, False)

        def _stateless(self, groups, state, data, training):
            pairs = [
                pair
                for variables, values in zip(groups, state, strict=True)
                for pair in zip(variables, values, strict=True)
            ]
            with keras.StatelessScope(pairs) as scope:
                logs = self._step(data, training)
            new = [[scope.get_current_value(v) for v in variables] for variables in groups]
            return logs, tuple(new)

    else:

        def train_step(self, data):
            return self._step(data, training=True)

        def test_step(self, data):
            return self._step(data, training=False)


class _Maximisation(keras.callbacks.Callback):
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
