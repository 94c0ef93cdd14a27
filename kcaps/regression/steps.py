"""EM on batches: the E-step of a batch, and the M-step when those of an epoch have been seen."""

import keras
from keras import ops

from kcaps.labels import k_hot
from kcaps.regression import em
from kcaps.regression.adaptation import Adaptation
from kcaps.backend.replicas import Replicated, total


class Steps(Adaptation, Replicated):
    """Mixin of `CapsuleRegression`: the steps that Keras calls on a batch."""

    def _begin(self):
        self._error_tracker = keras.metrics.Mean(name="error")
        self._moments, self._adapted = None, False  # of the data of `adapt`, or of a `fit`
        self._state = None  # of training: neither saved nor counted with the weights
        self._encoded = self._grouped = False  # what the batches of a running `fit` are
        self._functions = {}
        self._is_fitting = False

    def _expect(self, features, classes, weights):
        """E-step of a batch: statistics, losses `(b,)`, errors `(b,)` and class probabilities."""
        kernel = ops.convert_to_tensor(self.competition.kernel)
        threshold = 0.0 if self._state is None else self._state.threshold
        return em.class_expectation(features, classes, weights, self.competition, kernel, threshold)

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
            ops.reshape(
                place @ ops.reshape(part.gradient, (place.shape[1], -1)), layer.kernel.shape
            ),
            ops.sum(place * part.weights, axis=-1),
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
