"""Softmax regression with vectors in place of scalars, fitted by EM."""

import keras
import numpy as np
from keras import ops

from kcaps.regression.competition import Competition
from kcaps.regression.fitting import Fitting
from kcaps.regression.options import Options
from kcaps.saving import refuse_legacy_config, refuse_legacy_format
from kcaps.validation import from_config


@keras.saving.register_keras_serializable(package="kcaps")
class CapsuleRegression(Options, Fitting, keras.Model):
    """Capsule regression: class probabilities from capsules that compete by their lengths.

    Each class has a capsule, a Gaussian vector with mean `W_i x`, and is as probable as the
    capsule is long (see `kcaps.regression.Competition`). The weights are fitted by EM: an epoch is
    one iteration, whose least-squares step is taken when all batches have been seen. There is no
    learning rate, data need not fit in memory, and the result does not depend on the batch size.

    Plain EM never lowers the likelihood of the classes. `momentum` makes it faster, `threshold`
    aims it at the examples that are not yet told apart with certainty, and `ThresholdSchedule`
    lowers that threshold in rounds, as the paper does.

    Args:
        num_classes: Integer >= 2.
        capsule_dim: Positive integer, components of each capsule, or one for each class.
        architecture: `"multiclass"`, `"one_vs_all"` or `"all_vs_all"`. Defaults to
            `"multiclass"`.
        encoder: Layer or model from inputs to features `(batch, num_features)`, which is not
            trained, e.g. a `keras.Sequential` of `Rescaling` and `SubspaceProjection`; of one
            input and one output. Defaults to None: inputs are flattened.
        initializer: `"subspace"`, the leading singular vectors of each class's inputs, or a Keras
            initializer. Defaults to `"subspace"`.
        **kwargs: `name` and `dtype` (`"float64"` computes in double precision).

    Raises:
        ValueError: for an argument out of its range.

    Example:

    >>> images, labels = np.random.default_rng(0).random((60, 4, 4, 1)), np.arange(60) % 3
    >>> encoder = keras.Sequential([SubspaceProjection(8)])
    >>> regression = CapsuleRegression(3, capsule_dim=2, encoder=encoder)
    >>> regression.compile(momentum=0.9)
    >>> history = regression.fit(images, labels, epochs=5)
    >>> probabilities = regression.predict(images)

    Reference:

    - [Saul, 2021](https://doi.org/10.1162/neco_a_01336).
    """

    def __init__(
        self,
        num_classes,
        capsule_dim,
        architecture="multiclass",
        encoder=None,
        initializer="subspace",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.encoder = _checked(from_config("encoder", encoder))
        is_subspace = isinstance(initializer, str) and initializer == "subspace"
        self.initializer = initializer if is_subspace else keras.initializers.get(initializer)
        self.competition = Competition(
            num_classes,
            capsule_dim,
            architecture,
            "zeros" if is_subspace else self.initializer,
            dtype="float64" if self.compute_dtype == "float64" else "float32",
            name="probabilities",
        )
        self._begin()
        self._tensors = None

    def build(self, input_shape):
        shape = tuple(input_shape)
        if self.encoder is not None:
            shape = self.encoder(keras.Input(batch_shape=shape), training=False).shape
        if None in shape[1:]:
            raise ValueError(
                "`CapsuleRegression` needs inputs of known sizes. "
                f"Received: inputs of shape {tuple(input_shape)}."
            )
        self.competition.build((None, int(np.prod(shape[1:]))))
        self._input_shape = tuple(input_shape)

    def call(self, inputs):
        return self.competition(self._encode(inputs))

    def means(self, inputs):
        """Means of the capsules, `(batch, problems, capsules, capsule_dim)`.

        `"multiclass"` has one problem, whose capsules are the classes.
        """
        return self.competition.means(self._encode(ops.convert_to_tensor(inputs)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.competition.num_classes)

    @property
    def kernel(self):
        """The weights of the capsules, an array `(problems, features, capsules, capsule_dim)`.

        They may be set. Raises `AttributeError` where the model is not built.
        """
        return ops.convert_to_numpy(self.competition.kernel)

    @kernel.setter
    def kernel(self, value):
        self.competition.kernel.assign(value)

    @property
    def velocity(self):
        """The last step of the weights, an array, of which momentum keeps a share.

        Raises:
            ValueError: if neither `adapt` nor `fit` was called.
        """
        return ops.convert_to_numpy(self._training_state.velocity)

    def restart(self, velocity=0.0):
        """Sets the velocity, by default to rest, as at the start of a round."""
        variable = self._training_state.velocity
        variable.assign(np.broadcast_to(velocity, variable.shape))

    def save(self, filepath, *args, **kwargs):
        """Saves the model as `keras.Model.save` does, in the `.keras` format only.

        Raises:
            ValueError: for a path of Keras' old HDF5 format, which loses parts of the model.
        """
        refuse_legacy_format(filepath)
        super().save(filepath, *args, **kwargs)

    def load_weights(self, filepath, *args, **kwargs):
        """Loads weights as `keras.Model.load_weights` does, from `.weights.h5` or `.keras`.

        Raises:
            ValueError: for a path of Keras' old HDF5 format, which lacks parts of the model.
        """
        refuse_legacy_format(filepath)
        super().load_weights(filepath, *args, **kwargs)

    def get_config(self):
        refuse_legacy_config()
        initializer, encoder = self.initializer, self.encoder
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "num_classes": self.competition.num_classes,
            "capsule_dim": self.competition.capsule_dim,
            "architecture": self.competition.architecture,
            "encoder": encoder and keras.saving.serialize_keras_object(encoder),
            "initializer": initializer
            if isinstance(initializer, str)
            else keras.initializers.serialize(initializer),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        refuse_legacy_config()
        return super().from_config(config, custom_objects)

    @property
    def inputs(self):
        """The graph's input, a list of one, as in a functional model; for exporters."""
        return [self._graph()[0]]

    @property
    def outputs(self):
        """The graph's output, a list of one."""
        return [self._graph()[1]]

    @property
    def output(self):
        return self._graph()[1]

    def _graph(self):
        if not self.built:
            raise ValueError(
                "The model has no graph yet: its input's shape is not known. Call `adapt`, `fit` "
                "or `build` first."
            )
        if self._tensors is None:
            name = "image" if len(self._input_shape) > 2 else "features"
            inputs = keras.Input(self._input_shape[1:], name=name)
            self._tensors = (inputs, self.call(inputs))
        return self._tensors


def _checked(encoder):
    if encoder is None:
        return None
    if not isinstance(encoder, keras.layers.Layer):
        raise ValueError(
            "`encoder` must be a Keras layer or model; a function can be the `call` of a layer. "
            f"Received: encoder={encoder!r}."
        )
    counts = [len(getattr(encoder, name, None) or [0]) for name in ("inputs", "outputs")]
    if counts != [1, 1]:
        raise ValueError(
            "`encoder` must have one input and one output. Concatenate others inside it. "
            f"Received: {counts[0]} and {counts[1]}."
        )
    return encoder
