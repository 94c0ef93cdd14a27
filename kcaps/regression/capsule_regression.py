"""Softmax regression with vectors in place of scalars, fitted by EM."""

import keras
import numpy as np
from keras import ops

from kcaps.backend.loops import failing_well
from kcaps.backend.replicas import Replicated, in_scope
from kcaps.backend.steps import run_step, state_beside_metrics
from kcaps.regression.competition import Competition
from kcaps.regression.data import Form
from kcaps.regression.schedule import Progress
from kcaps.regression.state import CheckedLoops, EpochSteps, Graph, RateOptimizer, option
from kcaps.regression.subspace import checked_encoder, flattened
from kcaps.regression.trainer import Trainer
from kcaps.saving import KerasFormatOnly, refuse_legacy_config
from kcaps.validation import from_config


@keras.saving.register_keras_serializable(package="kcaps")
class CapsuleRegression(CheckedLoops, Graph, Replicated, KerasFormatOnly, keras.Model):
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
    >>> history = regression.fit(images, labels, epochs=5, verbose=0)
    >>> bool(np.all(np.diff(history.history["loss"]) < 0))
    True
    >>> probabilities = regression.predict(images, verbose=0)

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
        self.encoder = checked_encoder(from_config("encoder", encoder))
        is_subspace = isinstance(initializer, str) and initializer == "subspace"
        self.initializer = initializer if is_subspace else keras.initializers.get(initializer)
        weights = "zeros" if is_subspace else self.initializer
        options = {"dtype": "float64" if self.compute_dtype == "float64" else "float32"}
        self.competition = Competition(
            num_classes, capsule_dim, architecture, weights, name="probabilities", **options
        )
        self._error_tracker = keras.metrics.Mean(name="error")
        self._trainer = Trainer(self)
        self._input_shape = None

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

    def form(self) -> Form:
        """Returns the form of the data that the model takes."""
        shape = self._input_shape if self.built else None
        return Form(self.competition.num_classes, shape, self.encoder is None)

    def encode(self, inputs):
        """Returns the features of a batch of inputs, a tensor `(batch, num_features)`."""
        if self.built:
            inputs = self.form().tensor(inputs)
        if self.encoder is not None:
            inputs = self.encoder(inputs, training=False)
        inputs = flattened(inputs, self.competition.kernel.shape[1])
        return ops.cast(inputs, self.competition.compute_dtype)

    def call(self, inputs):
        return self.competition(self.encode(inputs))

    def means(self, inputs):
        """Returns the means of the capsules, `(batch, problems, capsules, capsule_dim)`."""
        return self.competition.means(self.encode(ops.convert_to_tensor(inputs)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.competition.num_classes)

    @property
    def kernel(self) -> np.ndarray:
        """The weights `(problems, features, capsules, capsule_dim)`, an array; may be set."""
        return ops.convert_to_numpy(self.competition.kernel)

    @kernel.setter
    def kernel(self, value):
        self.competition.kernel.assign(value)

    @property
    def velocity(self) -> np.ndarray:
        """The last step of the weights, an array; raises `ValueError` before `adapt` or `fit`."""
        return ops.convert_to_numpy(self._trainer.require_state().velocity)

    def restart(self, velocity: float | np.ndarray = 0.0) -> None:
        """Sets the velocity, by default to rest, as at the start of a round."""
        variable = self._trainer.require_state().velocity
        variable.assign(np.broadcast_to(velocity, variable.shape))

    momentum = option("momentum", "The share γ of the last step; may be set between epochs.")
    threshold = option("threshold", "The threshold ν; may be set between epochs.")
    rate = option("rate", "The factor of steps; a number may be set between epochs.")
    ridge = option("ridge", "The precision of the prior, as compiled.", is_settable=False)
    update = option("update", "When steps are taken, as compiled.", is_settable=False)

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
        options = {"momentum": momentum, "threshold": threshold, "ridge": ridge}
        self._trainer.configure(kwargs, {**options, "update": update, "rate": rate})
        kwargs = {"auto_scale_loss": False, **kwargs}  # There are no gradients to scale.
        super().compile(RateOptimizer(self._trainer), loss=None, metrics=metrics, **kwargs)
        self._trainer.state = None

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config = {key: config[key] for key in config if key not in ("optimizer", "loss")}
            rate = keras.saving.serialize_keras_object(self.rate)
            config |= {**self._trainer.options, "rate": rate}
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

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
        self._trainer.adapt(x, y, sample_weight, batch_size, steps)

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
        given = {"y": y, "sample_weight": sample_weight, "class_weight": class_weight}
        given |= {"batch_size": batch_size, "validation_split": validation_split}
        options = self._trainer.arguments(
            Progress(verbose), x, given, validation_data, shuffle, kwargs.get("steps_per_epoch")
        )
        options |= {"epochs": epochs, "verbose": verbose, **kwargs}
        callbacks = [EpochSteps(self._trainer), *keras.tree.flatten(callbacks or [])]
        with self._trainer.fitting(), failing_well(self):
            return super().fit(callbacks=callbacks, **options)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, **kwargs):
        """Trains as `keras.Model.train_on_batch`, in online EM only and after `adapt`.

        Raises:
            ValueError: for EM by epochs, before `adapt`, and for data as in `fit`.
        """
        if not self.compiled:
            self.compile()
        self._trainer.require_online()
        x, y, weights = self.form().arrays(x, y, sample_weight, class_weight)
        return super().train_on_batch(x, y, sample_weight=weights, **kwargs)

    def train_step(self, *arguments):
        return run_step(self, lambda batch: self._trainer.step(batch, True), arguments, True)

    def test_step(self, *arguments):
        return run_step(self, lambda batch: self._trainer.step(batch, False), arguments, False)

    @property
    def metrics_variables(self):
        state = self._trainer.state
        return super().metrics_variables + state_beside_metrics(state.variables if state else [])

    def get_config(self):
        refuse_legacy_config()
        initializer, encoder, layer = self.initializer, self.encoder, self.competition
        if not isinstance(initializer, str):
            initializer = keras.initializers.serialize(initializer)
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "num_classes": layer.num_classes,
            "capsule_dim": layer.capsule_dim,
            "architecture": layer.architecture,
            "encoder": encoder and keras.saving.serialize_keras_object(encoder),
            "initializer": initializer,
        }
