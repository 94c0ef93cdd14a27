"""EM as Keras runs it: E-steps on batches, an M-step when an epoch's batches have been seen."""

import keras
import numpy as np
from keras import ops

from kcaps.labels import k_hot
from kcaps.regression import em
from kcaps.regression.moments import SecondMoments, inverse_factor, principal_directions, stream
from kcaps.regression.state import TrainingState
from kcaps.regression.subspace import SubspaceProjection

# A batch has by default so many examples that this many numbers are computed at once.
_BATCH_NUMBERS = 2**24


class Fitting:
    """Mixin of `CapsuleRegression`: `adapt`, `fit`, and the steps that Keras calls on a batch."""

    def _begin(self):
        self._error_tracker = keras.metrics.Mean(name="error")
        self._moments = None
        self._state = None  # of training: neither saved nor counted with the weights
        self._encoded = self._grouped = False  # what the batches of a running `fit` are
        self._functions = {}

    def adapt(self, x, y=None, sample_weight=None, batch_size=None, steps=None):
        """Prepares the encoder, the second moments of the features, and the first weights.

        `fit` does it where it has not been done. Data are streamed, in one pass for the encoder's
        `SubspaceProjection` (unless it is adapted already) and one for the moments. The weights
        start anew.

        Args:
            x: Array, or an iterable of batches `(x, y)` or `(x, y, sample_weight)`.
            y: Labels of an array, integers or one-hot; None for an iterable.
            sample_weight: Weights of an array.
            batch_size: Examples of an array that are taken at once. Defaults to 4,096.
            steps: At most so many batches; an endless stream needs it.

        Raises:
            ValueError: for no data, values that are not finite, missing or wrong labels, a class
                without examples, or inputs that are all zero.
        """
        self._measure(x, y, sample_weight, batch_size, steps)
        self._start()

    def _measure(self, x, y, sample_weight=None, batch_size=None, steps=None):
        unadapted = any(not layer.adapted for layer in self._projections())
        if unadapted and hasattr(x, "__next__") and steps is None:
            raise ValueError(
                "`x` must be data that can be read twice: the encoder's SubspaceProjection is to "
                "be adapted first. Received: an iterator. Adapt that layer on another one, give "
                "a dataset, or `steps` if the iterator is endless."
            )
        self._adapt_encoder(x, batch_size, steps)
        moments = SecondMoments(self.competition.num_classes)
        for inputs, labels, weights in stream(x, y, sample_weight, batch_size, steps):
            if not self.built:
                self.build((None, *inputs.shape[1:]))
                self.built = True
            moments.add(self._features(inputs), self._classes(labels), weights)
        missing = np.flatnonzero(moments.weights == 0)
        if len(missing):
            raise ValueError(
                "Every class needs an example of a weight above 0. Received: none of class "
                f"{', '.join(map(str, missing[:10]))}. Lower `num_classes`, or add examples."
            )
        if not np.any(moments.sums):
            raise ValueError("`x` must not be zero in all examples. Received: features that are.")
        self._moments, self._state = moments, None

    def _projections(self):
        layers = getattr(self.encoder, "layers", [self.encoder])
        return [layer for layer in layers if isinstance(layer, SubspaceProjection)]

    def _adapt_encoder(self, x, batch_size, steps):
        layers = getattr(self.encoder, "layers", [self.encoder])
        for layer in self._projections():
            if layer.adapted:
                continue
            index = layers.index(layer)

            def inputs(before=layers[:index]):
                for batch, _, _ in stream(x, None, None, batch_size, steps):
                    for earlier in before:
                        batch = earlier(batch)
                    yield ops.convert_to_numpy(batch)

            layer.adapt(inputs())

    def _start(self):
        """Gives the capsules their first weights."""
        layer, targets = self.competition, self.competition.problems.targets
        if self.initializer != "subspace":
            layer.kernel.assign(layer._initial(layer.kernel.shape, layer.kernel.dtype))
            return
        kernel, total = np.zeros(layer.kernel.shape), self._moments.sums.sum(0)
        for n, c in np.ndindex(layer.dims.shape):
            moment = np.tensordot(targets[:, n, c], self._moments.sums, 1)
            directions = principal_directions(moment, layer.dims[n, c], total)
            kernel[n, :, c, : directions.shape[1]] = directions
        layer.kernel.assign(kernel)

    def _prepare(self):
        """Training state for the moments that were measured and the compiled options."""
        moments, layer = self._moments, self.competition
        concerned = layer.problems.targets.max(-1).T  # (n, m)
        if concerned.all():
            concerned = concerned[:1]  # all problems see the same examples
        factors, ridges = [], []
        for classes in concerned:
            weight = classes @ moments.weights
            moment = np.tensordot(classes, moments.sums, 1) / weight
            factor, ridge = inverse_factor(moment, self.ridge / weight, layer.compute_dtype)
            factors.append(factor)
            ridges.append(ridge)
        self._state = TrainingState(layer, np.stack(factors), np.array(ridges), self.threshold)
        # What was compiled has the variables of another state.
        self.train_function, self.test_function, self._functions = None, None, {}

    @property
    def _training_state(self):
        if self._moments is None:
            raise ValueError("There is no state of training yet. Call `adapt` or `fit` first.")
        if self._state is None:
            self._prepare()
        return self._state

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
        is made): by default 64 MiB for the means of the capsules. Where `adapt` was not called,
        it is done first, on the same data.

        Raises:
            ValueError: as `adapt`, and if the statistics of an epoch are not finite; the weights
                are then those before it.
        """
        if not self.compiled:
            self.compile()
        options = {"epochs": epochs, "verbose": verbose, "callbacks": callbacks, **kwargs}
        if not hasattr(x, "shape") and not isinstance(x, list):
            self._ready(x, steps=kwargs.get("steps_per_epoch"))
            options |= {"validation_data": validation_data, "class_weight": class_weight}
            return self._run(x=x, shuffle=bool(shuffle), **options)
        if y is None:
            raise ValueError("`y` must be the labels of the examples. Received: y=None.")
        weights = None if sample_weight is None else np.asarray(sample_weight)
        arrays, validation_data = _split(
            (np.asarray(x), np.asarray(y), weights), validation_split, validation_data
        )
        x, y, weights = arrays
        if class_weight is not None:
            by_class = np.array([class_weight.get(k, 1.0) for k in self._classes(y)])
            weights = by_class if weights is None else weights * by_class
        self._ready(x, y, weights)
        encoded = validation_data is None or hasattr(validation_data[0], "shape")
        if encoded:
            x = self._features_of(x)
        if encoded and validation_data is not None:
            validation_data = (self._features_of(validation_data[0]), *validation_data[1:])
        n, _, c, d = self.competition.kernel.shape
        most = batch_size or max(_BATCH_NUMBERS // (n * c * d), 64)
        size = min(most, len(x))
        grouped = self._can_group and self.update == "epoch"
        if grouped:
            self._set_form(encoded, grouped)
            # Keras reads the metrics of training, which batches of one class do not reach.
            self._step((x[:1], y[:1]), training=False)
            x, y, weights, size = _by_class(x, y, self._classes(y), weights, size)
        if shuffle is None:
            shuffle = self.update == "batch"
        if encoded and validation_data is not None:
            held_out = [None if part is None else np.asarray(part) for part in validation_data[1:]]
            batches, more = _in_memory(validation_data[0], *(*held_out, None, None)[:2], most)
            if "y" not in more:
                validation_data = batches
        options |= {"validation_data": validation_data, "validation_batch_size": most}
        if shuffle and not grouped:
            options |= {"y": y, "sample_weight": weights, "batch_size": size, "shuffle": True}
        else:
            x, more = _in_memory(x, y, weights, size)
            options |= more
        return self._run(encoded, grouped, x=x, **options)

    def _ready(self, x, y=None, sample_weight=None, steps=None):
        """Measures the data, unless that was done, and gives a new model its first weights."""
        if self._moments is None:
            if hasattr(x, "__next__") and steps is None:
                raise ValueError(
                    "`x` must be data that can be read more than once. Received: an iterator. "
                    "Give a dataset, or call `adapt` on another iterator first."
                )
            self._measure(x, y, sample_weight, steps=steps)
            if not np.any(ops.convert_to_numpy(self.competition.kernel)):
                self._start()
        if self._state is None:
            self._prepare()

    def _run(self, encoded=False, grouped=False, callbacks=None, **options):
        self._set_form(encoded, grouped)
        try:
            return super().fit(callbacks=[_Maximisation(), *(callbacks or ())], **options)
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

    def _encode(self, inputs):
        """Features of a batch; the batch itself, where `fit` has computed them."""
        if not self._encoded:
            if self.encoder is not None:
                inputs = self.encoder(inputs, training=False)
            inputs = ops.reshape(inputs, (-1, self.competition.kernel.shape[1]))
        return ops.cast(inputs, self.competition.compute_dtype)

    def _features(self, inputs):
        return ops.convert_to_numpy(self._encode(ops.convert_to_tensor(inputs)))

    def _features_of(self, x):
        return np.concatenate([self._features(part) for part, _, _ in stream(x)])

    def _classes(self, labels):
        """Labels as integers `(b,)`; refuses others than those of the model."""
        num_classes = self.competition.num_classes
        if labels is None:
            raise ValueError("`y` must be the labels of the examples. Received: y=None.")
        if labels.ndim == 2 and labels.shape[1] == num_classes:
            if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
                raise ValueError("`y` must be integers, or one-hot. Received: other rows.")
            return labels.argmax(1)
        classes = labels.reshape(-1)
        wrong = ~np.isin(classes, np.arange(num_classes))
        if len(classes) != len(labels) or wrong.any():
            raise ValueError(
                f"`y` must be integers from 0 to {num_classes - 1}, or one-hot rows of "
                f"{num_classes}. Received: shape {labels.shape}, values such as "
                f"{list(classes[wrong][:3])}."
            )
        return classes.astype("int64")

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
        statistics, losses, errors, outputs = expect(self._encode(x), classes, weights)
        if training and self.update == "batch":
            self._maximise(statistics, em.maximisation)
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
        rate = self.rate(state.updates) if callable(self.rate) else self.rate
        new, velocity = maximisation(
            ops.convert_to_tensor(kernel),
            ops.convert_to_tensor(state.velocity),
            em.Statistics(*map(ops.convert_to_tensor, statistics)),
            ops.convert_to_tensor(state.factor),
            ops.convert_to_tensor(state.ridge),
            ops.convert_to_tensor(self.momentum, kernel.dtype),
            ops.cast(rate, kernel.dtype),
        )
        kernel.assign(new)
        state.velocity.assign(velocity)
        state.updates.assign_add(1)

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

    def _take(self):
        if not self.pending:
            return
        self.pending = False
        statistics = self.model._state.statistics
        if not np.isfinite(ops.convert_to_numpy(statistics.gradient)).all():
            raise ValueError(
                "The statistics of this epoch are not finite: `x` or `sample_weight` has NaN or "
                "infinity, or values too large for the model's dtype. The weights are unchanged."
            )
        self.model._maximise(statistics, _MAXIMISATION)


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


def _in_memory(x, y, weights, batch_size):
    """Arguments of Keras' `fit` for batches in order; on TensorFlow, batches that are not copied.

    Keras' own reading of arrays takes longer than the E-step.
    """
    if keras.backend.backend() != "tensorflow":
        options = {"y": y, "sample_weight": weights, "batch_size": batch_size, "shuffle": False}
        return x, options
    import tensorflow as tf

    arrays = tuple(part for part in (x, y, weights) if part is not None)
    batch_size = min(batch_size, len(x))
    whole = len(x) // batch_size * batch_size
    batches = tf.data.Dataset.from_tensor_slices(
        tuple(part[:whole].reshape(-1, batch_size, *part.shape[1:]) for part in arrays)
    )
    if whole < len(x):
        rest = tf.data.Dataset.from_tensors(tuple(part[whole:] for part in arrays))
        batches = batches.concatenate(rest)
    return batches, {"shuffle": False}


def _split(arrays, share, validation_data):
    """Training arrays, and the last examples as validation data if a share is asked for."""
    if not share or validation_data is not None:
        return arrays, validation_data
    cut = len(arrays[0]) - int(len(arrays[0]) * share)
    held_out = tuple(part[cut:] for part in arrays if part is not None)
    return tuple(None if part is None else part[:cut] for part in arrays), held_out


def _by_class(x, y, classes, weights, batch_size):
    """Examples in batches of one class each, filled up with examples of weight zero."""
    most = np.bincount(classes).max()
    size = int(np.ceil(most / np.ceil(most / batch_size)))
    # Rounded up, so that similar data do not compile anew.
    step = 2 ** max(size.bit_length() - 5, 0)
    size = -(-size // step) * step
    weights = np.ones(len(x)) if weights is None else weights
    order, real = [], []
    for k in np.unique(classes):
        members = np.flatnonzero(classes == k)
        padding = -len(members) % size
        order += [members, np.full(padding, members[0])]
        real += [np.ones(len(members)), np.zeros(padding)]
    order, real = np.concatenate(order), np.concatenate(real)
    return x[order], y[order], weights[order] * real, size
