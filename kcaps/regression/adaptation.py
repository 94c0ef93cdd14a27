"""What capsule regression learns of its data before EM: subspace, moments, first weights."""

import numpy as np
from keras import ops

from kcaps.regression.features import flattened
from kcaps.regression.moments import SecondMoments, inverse_factor, principal_directions, stream
from kcaps.regression.state import TrainingState
from kcaps.regression.subspace import SubspaceProjection
from kcaps.replicas import in_scope

# Mean squared lengths of features for which first weights of unit length are neither without effect
# nor certain of everything.
_LENGTHS = 1e-2, 1e3
# Those whose reciprocals and products with weights of the inverse size are normal numbers.
_LARGEST = {"float32": 1e60, "float64": 1e200}


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
        if not np.isfinite(moments.sums).all():
            raise ValueError("`x` is too large for its squares. Scale it, e.g. to unit variance.")
        largest, length = _LARGEST[self.competition.compute_dtype], moments.mean_squared_length
        if not 1 / largest <= length <= largest:
            raise ValueError(
                f"The size of features must be from {largest**-0.5:g} to {largest**0.5:g}. "
                f"Received: about {length**0.5:.1g}. Scale `x`, e.g. to unit variance."
            )
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
        layer, targets = self.competition, self.competition.problems.targets
        if self.initializer != "subspace":
            layer.kernel.assign(layer._initial(layer.kernel.shape, layer.kernel.dtype))
            return
        kernel, total = np.zeros(layer.kernel.shape), self._moments.sums.sum(0)
        found = {}  # directions of capsules that stand for the same classes
        for n, c in np.ndindex(layer.dims.shape):
            classes, count = np.flatnonzero(targets[:, n, c]), layer.dims[n, c]
            key = classes.tobytes(), count
            if key not in found:
                moment = self._moments.sums[classes].sum(0)
                found[key] = principal_directions(moment, count, total)
            directions = found[key]
            kernel[n, :, c, : directions.shape[1]] = directions
        length = self._moments.mean_squared_length
        layer.kernel.assign(kernel * np.sqrt(np.clip(length, *_LENGTHS) / length))

    def _prepare(self):
        """Training state for the moments that were measured and the compiled options.

        Of a state that is there, the velocity stays, and so do the functions that Keras compiled.
        """
        moments, layer = self._moments, self.competition
        concerned = layer.problems.targets.max(-1).T  # (n, m)
        if concerned.all():
            concerned = concerned[:1]  # all problems see the same examples
        factors, ridges = [], []
        for classes in concerned:
            weight = classes @ moments.weights
            moment = moments.sums[classes > 0].sum(0) / weight
            factor, ridge = inverse_factor(moment, self.ridge / weight, layer.compute_dtype)
            factors.append(factor)
            ridges.append(ridge)
        if self._state is not None:
            self._state.factor.assign(np.stack(factors))
            self._state.ridge.assign(np.array(ridges))
            return
        options = {name: getattr(self, name) for name in ("momentum", "threshold", "rate")}
        if callable(self.rate):
            options["rate"] = 0.0  # not used
        self._state = TrainingState(layer, np.stack(factors), np.array(ridges), options)
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
        if self.encoder is not None:
            inputs = self.encoder(inputs, training=False)
        inputs = flattened(inputs, self.competition.kernel.shape[1])
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


def _projections_in(layer):
    """All `SubspaceProjection` of a layer or model, in the order in which inputs reach them."""
    if isinstance(layer, SubspaceProjection):
        return [layer]
    inner = getattr(layer, "layers", [])
    return [found for part in inner for found in _projections_in(part)]
