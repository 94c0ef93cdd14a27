"""Learns from data before EM: the subspace, the moments and the first weights."""

import numpy as np
from keras import ops

from kcaps.regression.features import flattened
from kcaps.regression.moments import SecondMoments, inverse_factor, principal_directions, stream
from kcaps.regression.sizes import check_shape, with_shape
from kcaps.regression.state import TrainingState
from kcaps.regression.subspace import SubspaceProjection
from kcaps.backend.replicas import in_scope

# Mean squared lengths of features for which first weights of unit length are neither without effect
# nor certain of everything.
_LENGTHS = 1e-2, 1e3


class Adaptation:
    """Mixin of `CapsuleRegression`: `adapt`, and what it takes from data outside of training."""

    @in_scope
    def adapt(self, x, y=None, sample_weight=None, batch_size=None, steps=None):
        """Prepares the encoder, the second moments of the features, and the first weights.

        Data are streamed, in one pass for the encoder's `SubspaceProjection` (unless it is
        adapted already) and one for the moments. The weights start anew. The moments stand until
        the next `adapt`; where it was never called, each `fit` measures the data that it is given.

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
        self._adapted, self._state = True, None
        self._start()

    def _measure(self, x, y, sample_weight=None, batch_size=None, steps=None, observe=None):
        """Takes the moments of data; `observe` is called with each batch of the last pass."""
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
            if observe is not None:
                observe(inputs)
        moments.check(self.competition.compute_dtype)
        self._moments = moments

    def _projections(self):
        return list(dict.fromkeys(_projections_in(self.encoder)))

    def _adapt_encoder(self, x, batch_size, steps):
        for layer in self._projections():
            if layer.adapted:
                continue

            def inputs(layer=layer):
                # Wherever the layer is in the encoder: what reaches it when that is called.
                for batch, _, _ in stream(x, None, None, batch_size, steps):
                    batch = ops.convert_to_tensor(batch)
                    if not self.encoder.built:
                        self.encoder(batch, training=False)  # with symbols also, which are no data
                    reached = []
                    layer.observe = reached.append
                    try:
                        self.encoder(batch, training=False)
                    finally:
                        layer.observe = None
                    yield from map(ops.convert_to_numpy, reached)

            layer.adapt(inputs())

    def _start(self):
        """Gives the capsules their first weights."""
        layer = self.competition
        if self.initializer != "subspace":
            layer.kernel.assign(layer._initial(layer.kernel.shape, layer.kernel.dtype))
            return
        layer.kernel.assign(first_kernel(self._moments, layer.problems.targets, layer.dims))

    def _prepare(self):
        """Training state for the moments that were measured and the compiled options.

        Of a state that is there, the velocity stays, and so do the functions that Keras compiled.
        """
        layer = self.competition
        targets, dtype = layer.problems.targets, layer.compute_dtype
        factors, ridges = inverse_factors(self._moments, targets, self.ridge, dtype)
        if self._state is not None:
            self._state.factor.assign(factors)
            self._state.ridge.assign(ridges)
            return
        options = {name: getattr(self, name) for name in ("momentum", "threshold", "rate")}
        if callable(self.rate):
            options["rate"] = 0.0  # not used
        self._state = TrainingState(layer, factors, ridges, options)
        # What was compiled has the variables of another state.
        self.train_function, self.test_function, self._functions = None, None, {}

    @property
    def _training_state(self):
        if self._moments is None:
            raise ValueError("There is no state of training yet. Call `adapt` or `fit` first.")
        if self._state is None:
            self._prepare()
        return self._state

    def _encode(self, inputs):
        """Features of a batch."""
        if self.built:
            inputs = with_shape(inputs, self._input_shape, self.encoder is None)
        if self.encoder is not None:
            inputs = self.encoder(inputs, training=False)
        inputs = flattened(inputs, self.competition.kernel.shape[1])
        return ops.cast(inputs, self.competition.compute_dtype)

    def _features(self, inputs):
        return ops.convert_to_numpy(self._encode(ops.convert_to_tensor(inputs)))

    def _in_shape(self, x, name):
        """An array of inputs in the shape of the model's, or an error that names the argument."""
        if not self.built:
            return x
        check_shape(x.shape, self._input_shape, self.encoder is None, name)
        known = None not in self._input_shape[1:]
        return x.reshape(len(x), *self._input_shape[1:]) if known else x

    def _features_of(self, x):
        return np.concatenate([self._features(part) for part, _, _ in stream(x)])

    def _classes(self, labels, name="y"):
        """Labels, an array, as integers `(b,)`; refuses others than those of the model."""
        num_classes = self.competition.num_classes
        if labels is None:
            raise ValueError(f"`{name}` must be the labels of the examples. Received: {name}=None.")
        if labels.ndim == 2 and labels.shape[1] == num_classes:
            if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
                raise ValueError(f"`{name}` must be integers, or one-hot. Received: other rows.")
            return labels.argmax(1)
        classes = labels.reshape(-1)
        wrong = ~np.isin(classes, np.arange(num_classes))
        if len(classes) != len(labels) or wrong.any():
            raise ValueError(
                f"`{name}` must be integers from 0 to {num_classes - 1}, or one-hot rows of "
                f"{num_classes}. Received: shape {labels.shape}, values such as "
                f"{list(classes[wrong][:3])}."
            )
        return classes.astype("int64")


def first_kernel(moments: SecondMoments, targets: np.ndarray, dims: np.ndarray) -> np.ndarray:
    """Returns the first weights of capsules: the directions in which their classes' data lie.

    Args:
        moments: The `SecondMoments` of the features.
        targets: Which classes each capsule stands for, `(m, n, c)` of zeros and ones.
        dims: Number of components of each capsule, `(n, c)`.

    Returns:
        Array `(n, p, c, d)`.
    """
    total = moments.sums.sum(0)
    kernel = np.zeros((dims.shape[0], len(total), dims.shape[1], dims.max()))
    found = {}  # directions of capsules that stand for the same classes
    for n, c in np.ndindex(dims.shape):
        classes, count = np.flatnonzero(targets[:, n, c]), dims[n, c]
        key = classes.tobytes(), count
        if key not in found:
            moment = moments.sums[classes].sum(0)
            found[key] = principal_directions(moment, count, total)
        directions = found[key]
        kernel[n, :, c, : directions.shape[1]] = directions
    length = moments.mean_squared_length
    return kernel * np.sqrt(np.clip(length, *_LENGTHS) / length)


def inverse_factors(moments, targets, ridge, dtype):
    """Returns what the M-step multiplies by, for each problem.

    Args:
        moments: The `SecondMoments` of the features.
        targets: Which classes each capsule stands for, `(m, n, c)` of zeros and ones.
        ridge: Precision of the prior of the weights.
        dtype: What the products will be computed in.

    Returns:
        Factors as of `inverse_factor`, `(n, p, p)`, and ridges by example, `(n,)`; of a length of
        1 where all problems see the same examples.
    """
    concerned = targets.max(-1).T  # (n, m)
    if concerned.all():
        concerned = concerned[:1]
    factors, ridges = [], []
    for classes in concerned:
        weight = classes @ moments.weights
        moment = moments.sums[classes > 0].sum(0) / weight
        factor, used = inverse_factor(moment, ridge / weight, dtype)
        factors.append(factor)
        ridges.append(used)
    return np.stack(factors), np.array(ridges)


def _projections_in(layer):
    """All `SubspaceProjection` of a layer or model, in the order in which inputs reach them."""
    if isinstance(layer, SubspaceProjection):
        return [layer]
    inner = getattr(layer, "layers", [])
    return [found for part in inner for found in _projections_in(part)]
