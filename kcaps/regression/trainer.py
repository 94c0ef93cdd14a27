"""EM for a model: its options, what it measures before the first step, and the two steps."""

import contextlib

import keras
import numpy as np
from keras import ops

from kcaps.backend.compiling import compiled
from kcaps.backend.replicas import num_replicas, total
from kcaps.labels import k_hot
from kcaps.regression import data, em, state
from kcaps.regression.moments import SecondMoments, first_kernel, inverse_factors
from kcaps.regression.schedule import Progress, number_of_batches
from kcaps.regression.subspace import BATCH_SIZE, adapt_projections, stream

# By default, a batch has so many examples that this many numbers are computed at once.
_BATCH_NUMBERS = 2**24
# Names of the examples in batches of arrays, which are a dict of one array: a step that Keras has
# compiled for one structure is compiled anew for another.
_INPUTS, _FEATURES, _OF_ONE_CLASS = "inputs", "features", " of one class"
_NAMES = {_FEATURES, _FEATURES + _OF_ONE_CLASS, _INPUTS + _OF_ONE_CLASS}
_MAXIMISATION = compiled(em.maximisation)


class Trainer:
    """Trains the capsules of a `CapsuleRegression` by EM.

    Args:
        model: The model, of which it uses the encoder and changes the weights of the competition.

    Attributes:
        options: Dict of the options of EM as of `compile`; empty before it.
        moments: The `SecondMoments` of the data, or None.
        is_adapted: Whether these are the moments of `adapt`, which stand until the next one.
        is_fitting: Whether `fit` runs.
        state: The `TrainingState`, or None.
    """

    def __init__(self, model):
        self.model, self.layer, self.options = model, model.competition, {}
        self.moments, self.is_adapted, self.is_fitting, self.state = None, False, False, None

    def configure(self, keras_options: dict, options: dict) -> None:
        """Takes all options anew, or raises a `ValueError` for a wrong one."""
        state.refuse_gradients(keras_options)
        self.options = {name: state.checked_option(name, options[name]) for name in state.OPTIONS}

    def set(self, name: str, value) -> None:
        """Changes an option between epochs, or raises a `ValueError` if that cannot be."""
        if name == "rate" and (state.is_schedule(value) or state.is_schedule(self.options[name])):
            raise ValueError(
                "`rate` can be set from number to number only. Give schedules to `compile`. "
                f"Received: rate={value!r}, where it is {self.options[name]!r}."
            )
        self.options[name] = state.checked_option(name, value)
        if self.state is not None:
            getattr(self.state, name).assign(value)

    def _features(self, inputs):
        """Returns the features of a batch as an array."""
        return ops.convert_to_numpy(self.model.encode(ops.convert_to_tensor(inputs)))

    def _measure(self, x, y=None, sample_weight=None, batch_size=None, steps=None, observe=None):
        """Adapts the encoder and takes the moments; calls `observe` with each batch, or None."""
        model, sizes = self.model, {"batch_size": batch_size, "steps": steps}
        adapt_projections(model.encoder, x, **sizes)
        moments = SecondMoments(self.layer.num_classes)
        for inputs, labels, weights in stream(x, y, sample_weight, **sizes):
            if not model.built:
                model.build((None, *inputs.shape[1:]))
                model.built = True
            moments.add(self._features(inputs), self.model.form().classes(labels), weights)
            if observe is not None:
                observe(inputs)
        moments.check(self.layer.compute_dtype)
        self.moments = moments

    def _start(self) -> None:
        """Gives the capsules their first weights."""
        kernel, problems = self.layer.kernel, self.layer.problems
        if self.model.initializer == "subspace":
            kernel.assign(first_kernel(self.moments, problems.targets, self.layer.dims))
        else:
            kernel.assign(self.layer.initial(kernel.shape, kernel.dtype))

    def require_state(self) -> state.TrainingState:
        """Returns the state, or raises a `ValueError` before the moments were measured."""
        if self.moments is None:
            raise ValueError("There is no state of training yet. Call `adapt` or `fit` first.")
        if self.state is None:
            self._prepare()
        return self.state

    def require_online(self) -> None:
        """Raises a `ValueError` for EM by epochs, or before the moments were measured."""
        if self.options["update"] != "batch":
            raise ValueError(
                '`update` must be "batch" for `train_on_batch`: a step of EM by epochs needs all '
                f"examples, by `fit`. Received: update={self.options['update']!r}."
            )
        self.require_state()

    def _prepare(self):
        """Takes up the moments that were measured; in a state that is there, velocity stays."""
        layer, options = self.layer, self.options
        targets, dtype = layer.problems.targets, layer.compute_dtype
        factors, ridges = inverse_factors(self.moments, targets, options["ridge"], dtype)
        if self.state is not None:
            self.state.factor.assign(factors)
            self.state.ridge.assign(ridges)
            return
        self.state = state.TrainingState(layer.kernel, factors, ridges, options)
        # The functions that were compiled have the variables of another state.
        self.model.train_function = self.model.test_function = None

    def adapt(self, x, y, sample_weight, batch_size, steps) -> None:
        """Takes the moments of data, which then stand, and gives the capsules first weights."""
        self._measure(x, y, sample_weight, batch_size, steps)
        self.is_adapted, self.state = True, None
        self._start()

    def arguments(self, progress: Progress, x, given: dict, validation, shuffle, steps) -> dict:
        """Returns the arguments of Keras' `fit` for data that it has checked and measured.

        Args:
            progress: The `Progress` that shows what is done.
            x: As of `fit`, as are the validation data, `shuffle`, and the steps of an epoch.
            given: Dict of `y`, `sample_weight`, `class_weight`, `batch_size`, `validation_split`.
        """
        if x is None:
            raise ValueError("`x` must be the examples, or batches of them. Received: x=None.")
        validation = data.validation_arrays(validation)
        if data.is_array(x):
            arrays, validation = data.split(x, given, validation)
            arrays = self.model.form().arrays(*arrays, given["class_weight"])
            self._ready(progress, *arrays)
            options = self._batches(progress, arrays, validation, given["batch_size"], shuffle)
        else:
            data.refuse_beside_batches(given)
            self._ready(progress, x, steps=steps)
            options = {"x": x, "shuffle": bool(shuffle), "validation_data": validation}
        if not self.model.train_function:
            progress.line("Compiling the steps of EM, in the time of the first epoch")
        return options

    def _ready(self, progress, x, y=None, sample_weight=None, steps=None):
        """Measures data, unless `adapt` was called, and gives a new model its first weights."""
        if not self.is_adapted:
            if hasattr(x, "__next__"):
                raise ValueError(
                    "`x` must be data that can be read more than once: its second moments are "
                    "measured first. Received: an iterator. Give a dataset, or call `adapt` on "
                    "another iterator first."
                )
            batches = number_of_batches(x, BATCH_SIZE, steps)
            with progress.bar("Measuring second moments", batches) as observe:
                self._measure(x, y, sample_weight, steps=steps, observe=observe)
            if not np.any(ops.convert_to_numpy(self.layer.kernel)):
                self._start()
            self._prepare()
        variables = self.require_state()
        self.model._take_over([self.layer.kernel, variables.factor, variables.ridge])

    def _batches(self, progress, arrays, validation, batch_size, shuffle):
        """Returns the arguments of Keras' `fit` for checked arrays, which it encodes."""
        x, y, weights = arrays
        name, form = _INPUTS, self.model.form()
        if isinstance(validation, tuple):
            validation = form.arrays(*validation, prefix="validation ")
        if validation is None or isinstance(validation, tuple):
            name = _FEATURES
            progress.line(self.model.encoder and f"Encoding {len(x):,} examples")
            x = self._all_features(x)
            if validation is not None:
                validation = ({name: self._all_features(validation[0])}, *validation[1:])
        n, _, c, d = self.layer.kernel.shape
        most = batch_size or max(_BATCH_NUMBERS // (n * c * d), 64)
        size, is_online = min(most, len(x)), self.options["update"] == "batch"
        if name == _FEATURES:
            # Keras builds metrics from the model's inputs, which these are not, and reads all of
            # them, also those that batches of one class do not reach.
            self.model._on_replicas(self.step, ({name: x[:1]}, y[:1]), False)
            validation = validation and data.in_order(*validation, most)
        if hasattr(self.layer.problems, "problems_of") and not is_online:
            classes, name, shuffle = form.classes(y), name + _OF_ONE_CLASS, False
            x, y, weights, size = data.by_class(x, y, classes, weights, size, num_replicas())
        x = x if name == _INPUTS else {name: x}
        shuffle = is_online if shuffle is None else bool(shuffle)
        options = {"shuffle": shuffle, "validation_data": validation, "validation_batch_size": most}
        batches = (x, y, weights) if shuffle else data.in_order(x, y, weights, size)
        if isinstance(batches, tuple):
            x, y, weights = batches
            return {**options, "x": x, "y": y, "sample_weight": weights, "batch_size": size}
        if num_replicas() > 1:  # The start of each pass would take long.
            options["steps_per_epoch"], batches = len(batches), batches.repeat()
        return {**options, "x": batches}

    @contextlib.contextmanager
    def fitting(self):
        """Lets files that callbacks write or read have the state of EM in them."""
        self.is_fitting = True
        try:
            yield
        finally:
            self.is_fitting = False

    def _all_features(self, x):
        """Returns the features of an array, which are computed in parts."""
        return np.concatenate([self._features(part) for part, _, _ in stream(x)])

    def step(self, batch, training: bool) -> dict:
        """Runs the E-step on a batch, with the M-step after it in online EM; returns all logs."""
        model, layer = self.model, self.layer
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        classes = ops.cast(k_hot(y, layer.num_classes), layer.compute_dtype)  # (b, m)
        weights = ops.ones_like(classes[:, 0])
        if sample_weight is not None:
            weights = ops.reshape(ops.cast(sample_weight, weights.dtype), (-1,))
        name, x = (
            next(iter(x.items())) if isinstance(x, dict) and set(x) <= _NAMES else (_INPUTS, x)
        )
        features = ops.cast(x, weights.dtype) if _FEATURES in name else model.encode(x)
        expect = self._expect_one_class if name.endswith(_OF_ONE_CLASS) else self._expect
        statistics, losses, errors, outputs = expect(features, classes, weights)
        if training and self.options["update"] == "batch":
            self._maximise(total(statistics), em.maximisation)
        elif training:
            self.state.add(*statistics)
        # Of metrics of one name, the first one is the model's own.
        trackers = {metric.name: metric for metric in reversed(model.metrics)}
        for name, values in (("loss", losses), ("error", errors)):
            trackers[name].update_state(values, sample_weight=weights)
        if outputs is None:
            return {name: trackers[name].result() for name in ("loss", "error")}
        return model.compute_metrics(x, y, outputs, sample_weight=sample_weight)

    def _expect(self, features, classes, weights):
        """Returns statistics, losses `(b,)`, errors `(b,)` and probabilities `(b, m)`."""
        kernel = ops.convert_to_tensor(self.layer.kernel)
        threshold = 0.0 if self.state is None else self.state.threshold
        return em.class_expectation(features, classes, weights, self.layer, kernel, threshold)

    def _expect_one_class(self, features, classes, weights):
        """Returns the same for a batch of one class, of which it computes only the problems."""
        layer = self.layer
        problems, dtype = layer.problems, layer.compute_dtype
        k = ops.argmax(classes[0])
        chosen = ops.take(ops.convert_to_tensor(problems.problems_of), k, axis=0)  # (m - 1,)

        def of_problems(array, axis=0):
            return ops.take(ops.convert_to_tensor(array, dtype), chosen, axis=axis)

        targets = ops.take(of_problems(problems.targets, axis=1), k, axis=0)[None]
        kernel, dims = of_problems(layer.kernel), of_problems(layer.dims)
        part, answers = em.expectation(
            features, targets, weights, kernel, dims, self.state.threshold
        )
        place = ops.one_hot(chosen, layer.kernel.shape[0], axis=0, dtype=dtype)  # (n, m - 1)
        gradient = place @ ops.reshape(part.gradient, (place.shape[1], -1))
        statistics = em.Statistics(
            ops.reshape(gradient, layer.kernel.shape), ops.sum(place * part.weights, axis=-1)
        )
        lost = ops.any(answers.wrong >= answers.right, axis=-1)
        return statistics, answers.losses, ops.cast(lost, dtype), None

    def finish_epoch(self) -> None:
        """Runs the M-step on the statistics of all batches, or raises a `ValueError`."""
        self._maximise((self.state.gradient, self.state.weights), _MAXIMISATION)
        self.check()

    def _maximise(self, statistics, maximisation):
        """Runs an M-step, whose result is refused if it is not finite."""
        variables, kernel, rate = self.state, self.layer.kernel, self.options["rate"]
        rate = rate(variables.updates) if state.is_schedule(rate) else variables.rate
        rate = ops.cast(ops.convert_to_tensor(rate), kernel.dtype)
        values = ops.convert_to_tensor(kernel), ops.convert_to_tensor(variables.velocity)
        new, velocity = maximisation(
            *values,
            em.Statistics(*map(ops.convert_to_tensor, statistics)),
            ops.convert_to_tensor(variables.factor),
            ops.convert_to_tensor(variables.ridge),
            ops.convert_to_tensor(variables.momentum),
            rate,
        )
        finite = ops.all(ops.isfinite(new))
        kernel.assign(ops.where(finite, new, values[0]))
        variables.velocity.assign(ops.where(finite, velocity, values[1]))
        variables.updates.assign_add(1)
        variables.refused.assign_add(ops.cast(ops.logical_not(finite), "int32"))

    def check(self) -> None:
        """Raises a `ValueError` if a step was refused."""
        if int(ops.convert_to_numpy(self.state.refused)):
            self.state.refused.assign(0)
            raise ValueError(
                "A step was not finite: `x` or `sample_weight` has NaN or infinity, `y` a number "
                "that is no class, or `x`, `sample_weight`, `ridge` or `rate` are too large for "
                "the model's dtype. The weights are those before it."
            )
