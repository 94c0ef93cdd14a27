"""A Keras model that alternates weight updates and routing updates."""

import functools
import inspect

import keras

from kcaps.graph import matched
from kcaps.layers import DigitCaps
from kcaps.models import advice, decoders, objectives
from kcaps.models.class_graph import ClassGraph, Networks, check_objective
from kcaps.models.data_checks import check_data
from kcaps.models.losses_by_output import losses_of
from kcaps.models.targets import as_arrays, without_name
from kcaps.backend.replicas import Replicated, num_replicas
from kcaps.saving import refuse_legacy_config, refuse_legacy_format
from kcaps.validation import from_config, non_negative, one_of, positive_int

if keras.backend.backend() == "jax":
    from kcaps.models.jax_steps import TrainingSteps
else:
    from kcaps.models.in_place_steps import TrainingSteps

UPDATES = ("alternating", "joint")


@keras.saving.register_keras_serializable(package="kcaps")
class CapsNet(TrainingSteps, Replicated, keras.Model):
    """Capsule network built and trained like any functional Keras model.

    Two things are added to `keras.Model`:

    - *Routing updates.* Layers with `"l1"` or `"l2"` routing own coupling coefficients that
      ascend an objective of their own (see `kcaps.routing.DiscriminativeRouting`). With
      `update="alternating"`, a training step takes `weight_steps` steps on all other weights with
      the coefficients fixed, then `routing_steps` steps on the coefficients with the new weights
      fixed, on the same minibatch: Algorithm 1 of the paper. With `update="joint"`, both
      gradients come from one pass, at one set of weights, which saves the second forward pass.
      The objective is that of the class capsules; coefficients of earlier layers follow by the
      chain rule, less their own penalty.
    - *A decoder.* It rebuilds the image from the masked class poses (of the true classes in
      training, of the longest capsules otherwise) and adds its error to the loss. It is not part
      of `outputs`; `model.decoder` is a model of its own. Where several objects are in an image,
      `fit(x, {"labels": labels, "parts": images})` has each rebuilt apart, from the capsule of its
      class alone: integers `(batch, n)`, and images `(batch, n, height, width, channels)`.

    Both need to know which capsules are the classes, and the labels of these. The class capsules
    are the `DigitCaps` whose lengths are an output, by `CapsuleLength`; of a model without such an
    output, the last ones. Their labels are the targets of that output. A model with another task
    has both, and its targets and losses come in lists or dicts, as in Keras (the loss of the
    lengths may be None):

    ```python
    model = CapsNet(image, [CapsuleLength(name="digit")(poses), Dense(1, name="slant")(features)])
    model.compile(loss={"digit": "margin", "slant": "mse"})
    model.fit(images, {"digit": labels, "slant": angles})
    ```

    Without either, the model trains by Keras' own step. `keras.models.clone_model` rebuilds models
    from their graph alone: a clone has no decoder.

    Args:
        inputs: Input tensor of a functional model, or a list or dict of several.
        outputs: Output tensor, the capsule lengths `(batch, num_classes)`, or a list or dict of
            several.
        decoder: Optional model from masked poses `(batch, num_capsules, capsule_dim)` to images
            of the shape and unit of the input: of the first one of that shape, where there are
            several.
        reconstruction_weight: Weight of the summed squared error between image and
            reconstruction. Defaults to 0.0005, which is meant for pixels in [0, 1].
        **kwargs: `name` and `trainable`.

    Raises:
        ValueError: for a decoder in a model without class capsules, or in one where several may
            be meant, for one that does not make images of the shape of an input, or for a negative
            weight.

    Example:

    >>> image = keras.Input((8, 8, 1), name="image")
    >>> capsules = PrimaryCaps(8, 4, kernel_size=3)(image)
    >>> poses = DigitCaps(10, 8, routing="l2")(capsules)
    >>> model = CapsNet(image, CapsuleLength()(poses))
    >>> model.compile("adam", loss="margin", metrics=["accuracy"], routing_learning_rate=1e-3)
    >>> history = model.fit(images, labels)

    Reference:

    - [Yang et al., 2021](https://arxiv.org/abs/2103.04278), Algorithm 1.
    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 4.1 (decoder).
    """

    # Keras recognises a functional model in a subclass by this signature.
    def __init__(self, *args, decoder=None, reconstruction_weight=0.0005, **kwargs):
        super().__init__(*args, **kwargs)
        decoder = from_config("decoder", decoder)
        self._image = self.inputs[0] if decoder is None else decoders.prepare(decoder, self)
        self.decoder = decoder
        self.reconstruction_weight = non_negative("reconstruction_weight", reconstruction_weight)

    def __setattr__(self, name, value):
        if name == "decoder" and hasattr(self, "decoder"):
            raise AttributeError(
                "A CapsNet keeps the decoder that it was made with. Make another one: "
                "`CapsNet(model.input, model.output, decoder=decoder)`."
            )
        super().__setattr__(name, value)

    def compile(
        self,
        optimizer="adam",
        loss="margin",
        routing_optimizer=None,
        routing_learning_rate=None,
        update="alternating",
        weight_steps=1,
        routing_steps=1,
        **kwargs,
    ):
        """Configures the model for training.

        Args:
            optimizer: Optimizer of all weights but the routing variables, as in Keras.
            loss: Name of a loss of kcaps (see `kcaps.losses.get`), or anything that Keras
                accepts; of a model with several outputs, a list or dict of these.
            routing_optimizer: Optimizer of the routing variables, which minimises the negative
                objective. Defaults to plain gradient steps of `routing_learning_rate`.
            routing_learning_rate: Rate γ of those plain steps, a number or a schedule. Defaults to
                1e-5: the objective is unbounded, and a rate that outruns the weight steps lets the
                coefficients diverge.
            update: `"alternating"` or `"joint"`. Defaults to `"alternating"`.
            weight_steps: Weight steps in a training step. Must be 1 for `"joint"`.
            routing_steps: Routing steps in a training step. Must be 1 for `"joint"`.
            **kwargs: Further arguments of `keras.Model.compile` (e.g. `metrics`).

        Raises:
            ValueError: for both a routing optimizer and a routing rate, an unknown update, a
                number of steps that is not a positive integer, or routing variables whose class
                layer has no routing objective, or that meet an optimizer with `use_ema`.
        """
        if routing_optimizer is not None and routing_learning_rate is not None:
            raise ValueError(
                "Give `routing_optimizer` or `routing_learning_rate`, not both. Received: "
                f"routing_optimizer={routing_optimizer!r}, "
                f"routing_learning_rate={routing_learning_rate!r}."
            )
        is_object = isinstance(routing_optimizer, keras.optimizers.Optimizer)
        if is_object and routing_optimizer is optimizer:  # one name makes two optimizers
            raise ValueError(
                "`routing_optimizer` must be another optimizer than `optimizer`: each keeps the "
                f"state of its own variables. Received: {routing_optimizer!r} for both."
            )
        one_of("update", update, UPDATES)
        steps = (
            positive_int("weight_steps", weight_steps),
            positive_int("routing_steps", routing_steps),
        )
        if update == "joint" and steps != (1, 1):
            raise ValueError(
                "`update='joint'` takes both gradients from one pass: `weight_steps` and "
                "`routing_steps` must be 1. Use update='alternating' for more. "
                f"Received: weight_steps={weight_steps}, routing_steps={routing_steps}."
            )
        if self.routing_variables:
            check_objective(self._class_graph)
        if routing_optimizer is None:
            rate = 1e-5 if routing_learning_rate is None else routing_learning_rate
            if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
                rate = non_negative("routing_learning_rate", rate)
            routing_optimizer = keras.optimizers.SGD(rate)
        loss = losses_of(loss, self.output_names, self.output)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self.update, (self.weight_steps, self.routing_steps) = update, steps
        self.routing_optimizer = keras.optimizers.get(routing_optimizer)
        half = keras.optimizers.LossScaleOptimizer
        if isinstance(self.optimizer, half) and not isinstance(self.routing_optimizer, half):
            # Sums of squares over the batch: Keras' first scale of 2^15 overflows float16 at once.
            self.routing_optimizer = half(self.routing_optimizer, initial_scale=2.0**10)
        if self.routing_variables and getattr(self.optimizer, "use_ema", False):
            raise ValueError(
                "`optimizer` must not average weights (use_ema=True) in a model with routing "
                "variables: Keras would average those too. "
                f"Received: optimizer={type(self.optimizer).__name__} with use_ema=True."
            )
        if self.routing_variables and self.optimizer is not None:
            self.optimizer.build(self._other_variables())
            self.routing_optimizer.build(self.routing_variables)

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains the model; arguments and result as those of `keras.Model.fit`.

        Raises:
            ValueError: for labels of which one is no class, and for a decoder, `"l1"` or `"l2"`
                without labels of the class capsules. In batches of a dataset a number that is no
                class makes the loss NaN.
        """
        y = self._as_targets(y)
        check_data(self, x, y, training=True)
        bound = inspect.signature(super().fit).bind(x, y, *args, **kwargs)
        held_out = bound.arguments.get("validation_data")
        if isinstance(held_out, tuple | list) and len(held_out) in (2, 3):
            images, labels, *weights = held_out
            labels = self._as_targets(labels)
            check_data(self, images, labels)
            bound.arguments["validation_data"] = (images, labels, *weights)
        return super().fit(*bound.args, **bound.kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Loss and metrics on data; arguments and result as those of `keras.Model.evaluate`.

        Raises:
            ValueError: for labels of which one is no class.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # of which `fit` has checked the data
            y = self._as_targets(y)
            check_data(self, x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """Outputs for data; arguments and result as those of `keras.Model.predict`."""
        advice.on_pixels(self, x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        """One training step; arguments and result as those of `keras.Model.train_on_batch`.

        Raises:
            ValueError: as `fit`.
        """
        y = self._as_targets(y)
        check_data(self, x, y, training=True)
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        """Loss and metrics of a batch; arguments and result as those of Keras.

        Raises:
            ValueError: as `evaluate`.
        """
        y = self._as_targets(y)
        check_data(self, x, y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x):
        """Outputs for a batch; argument and result as those of `keras.Model.predict_on_batch`."""
        advice.on_pixels(self, x)
        return super().predict_on_batch(x)

    def _as_targets(self, y):
        return as_arrays(without_name(y, self.output_names), self.output_shape)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config |= {
                "routing_optimizer": keras.optimizers.serialize(self.routing_optimizer),
                "update": self.update,
                "weight_steps": self.weight_steps,
                "routing_steps": self.routing_steps,
            }
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def get_config(self):
        refuse_legacy_config()
        return {
            **super().get_config(),
            "decoder": self.decoder and keras.saving.serialize_keras_object(self.decoder),
            "reconstruction_weight": self.reconstruction_weight,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        refuse_legacy_config()
        return super().from_config(config, custom_objects)

    def save(self, filepath, *args, **kwargs):
        """Saves the model as a `.keras` file; arguments as those of `keras.Model.save`.

        Raises:
            ValueError: for a path of Keras' old HDF5 format, which would lose the decoder.
        """
        refuse_legacy_format(filepath)
        return super().save(filepath, *args, **kwargs)

    def load_weights(self, filepath, *args, **kwargs):
        """Loads weights; arguments as those of `keras.Model.load_weights`.

        Raises:
            ValueError: for a path of Keras' old HDF5 format, which has no weights of the decoder.
        """
        refuse_legacy_format(filepath)
        return super().load_weights(filepath, *args, **kwargs)

    def summary(self, *args, **kwargs):
        """Prints the network and, below it, the decoder; arguments as in Keras."""
        super().summary(*args, **kwargs)
        if self.decoder is not None:
            self.decoder.summary(*args, **kwargs)
        bound = inspect.signature(super().summary).bind(*args, **kwargs).arguments
        advice.on_size(self, bound.get("print_fn") or print)

    @functools.cached_property
    def _class_graph(self):
        return ClassGraph.of(self)

    @functools.cached_property
    def _networks(self):
        return Networks.of(self, self._class_graph.call, self._image)

    @property
    def class_layer(self):
        """The `DigitCaps` of the class capsules, or None where there is none."""
        return self._class_graph and self._class_graph.call.layer

    @property
    def class_inputs(self):
        """The tensor that enters the class capsules in this model's graph, or None.

        It differs from `class_layer.input` where that layer was called in another graph before.
        """
        return self._class_graph and self._class_graph.call.inputs[0]

    @property
    def class_poses(self):
        """The tensor of the poses of the class capsules in this model's graph, or None."""
        return self._class_graph and self._class_graph.call.outputs[0]

    @property
    def routing_variables(self):
        """Variables that ascend the routing objective rather than descend the loss."""
        variables = [v for layer in self._digit_caps() for v in layer.routing.routing_variables]
        return [v for v in variables if v.trainable]

    def _other_variables(self):
        routing = {id(v) for v in self.routing_variables}
        return [v for v in self.trainable_variables if id(v) not in routing]

    def _digit_caps(self):
        def search(layers):
            for layer in layers:
                if isinstance(layer, DigitCaps):
                    yield layer
                elif isinstance(layer, keras.Model):
                    yield from search(layer.layers)

        return list(search(self.layers))

    @property
    def _needs_labels(self):
        """Whether a training step reads the labels of the class capsules."""
        return self.decoder is not None or bool(self.routing_variables)

    def _forward(self, x, training, capsules_only=False):
        """What a step needs of one pass; the routing objective the last layer's input alone."""
        self._called = True  # Keras exports models to ONNX that have been called, as this one is
        network = self._networks.below if capsules_only else self._networks.whole
        return network(matched(x, self.input), training=training)

    def call(self, inputs, training=None, mask=None, **kwargs):
        inputs = matched(inputs, self.input)
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y = objectives.with_classes(self, y)
        return super().compute_loss(x, y, y_pred, sample_weight, training=training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, objectives.with_classes(self, y), y_pred, sample_weight)

    def _total_loss(self, x, y, tensors, sample_weight, training):
        reconstruction = 0.0
        if self.decoder is not None:  # before `compute_loss`, which collects the layers' own losses
            reconstruction = objectives.reconstruction_loss(
                self, y, tensors, sample_weight, training
            )
        loss = self.compute_loss(x, y, tensors["outputs"], sample_weight, training=training)
        return loss + reconstruction

    def _objectives(self, x, y, sample_weight, weights, routing):
        """One forward pass in training: its outputs, its loss, and what to minimise by what.

        Args:
            x, y, sample_weight: The batch.
            weights: Whether to step on the weights.
            routing: Whether to step on the routing variables.

        Returns:
            Outputs and loss (both None without `weights`), and a list of
            `(scaled objective, optimizer, variables)`.
        """
        tensors = self._forward(x, training=True, capsules_only=not weights)
        loss, minimised = None, []
        if weights:
            loss = self._total_loss(x, y, tensors, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
            minimised.append((scaled, self.optimizer, self._other_variables()))
        if routing:
            negative = objectives.routing_loss(self, y, tensors, sample_weight)
            scaled = self.routing_optimizer.scale_loss(negative)
            minimised.append((scaled, self.routing_optimizer, self.routing_variables))
        return tensors.get("outputs"), loss, minimised

    def _evaluate(self, x, y, sample_weight):
        """Outputs and loss without training."""
        tensors = self._forward(x, training=False)
        loss = self._total_loss(x, y, tensors, sample_weight, training=False)
        return tensors["outputs"], loss

    def _update_metrics(self, x, y, sample_weight, outputs, loss):
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        # Keras divided the loss by the number of replicas.
        size = keras.ops.shape(keras.tree.flatten(outputs)[0])[0]
        tracker.update_state(loss * num_replicas(), sample_weight=size)
        return self.compute_metrics(x, y, outputs, sample_weight=sample_weight)
