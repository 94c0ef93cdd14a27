"""A Keras model that alternates weight updates and routing updates."""

import keras

from kcaps import losses
from kcaps.layers import CapsuleMask, DigitCaps
from kcaps.models import parts
from kcaps.replicas import Replicated, num_replicas
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
      The objective is that of the class capsules, the last `DigitCaps`; coefficients of earlier
      layers follow by the chain rule, less their own penalty.
    - *A decoder.* It rebuilds the image from the masked class poses (of the true classes in
      training, of the longest capsules otherwise) and adds its error to the loss. It is not part
      of `outputs`; `model.decoder` is a model of its own. Where several objects are in an image,
      `fit(x, {"labels": labels, "parts": images})` has each rebuilt apart, from the capsule of its
      class alone: integers `(batch, n)`, and images `(batch, n, height, width, channels)`.

    Without either, the model trains by Keras' own step. `keras.models.clone_model` rebuilds models
    from their graph alone: a clone has no decoder.

    Args:
        inputs: Input tensor of a functional model.
        outputs: Output tensor, the capsule lengths `(batch, num_classes)`.
        decoder: Optional model from masked poses `(batch, num_capsules, capsule_dim)` to images
            of the shape and unit of `inputs`.
        reconstruction_weight: Weight of the summed squared error between image and
            reconstruction. Defaults to 0.0005, which is meant for pixels in [0, 1].
        **kwargs: `name` and `trainable`.

    Raises:
        ValueError: for a decoder in a model without `DigitCaps`, or a negative weight.

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
        self.decoder = decoder = from_config("decoder", decoder)
        self.reconstruction_weight = non_negative("reconstruction_weight", reconstruction_weight)
        if decoder is not None and not isinstance(decoder, keras.layers.Layer):
            raise ValueError(f"`decoder` must be a Keras model. Received: decoder={decoder!r}.")
        if decoder is not None and self.class_layer is None:
            raise ValueError(
                "`decoder` needs class capsules to decode. Received: a graph without DigitCaps."
            )

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
            loss: `"margin"`, or anything that Keras accepts.
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
        last = self.class_layer
        if self.routing_variables and not (last and last.routing.routing_variables):
            raise ValueError(
                'The last DigitCaps must use a routing with an objective ("l1" or "l2") and stand '
                "in the model itself when another layer has such a routing: its capsules define "
                f"the objective of all. Received: {last and last.routing} in the last layer."
            )
        if routing_optimizer is None:
            rate = 1e-5 if routing_learning_rate is None else routing_learning_rate
            if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
                rate = non_negative("routing_learning_rate", rate)
            routing_optimizer = keras.optimizers.SGD(rate)
        loss = losses.get(loss) if isinstance(loss, str) else loss
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
            ValueError: for an array of integer labels of which one is no class. In batches of a
                dataset such a label makes the loss NaN.
        """
        validation = kwargs.get("validation_data")
        held_out = validation[1] if isinstance(validation, tuple) and len(validation) > 1 else None
        if getattr(self.loss, "ignore_class", None) is None:
            for labels in (y, held_out):
                parts.check_labels(labels, self.output_shape)
        return super().fit(x, y, *args, **kwargs)

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
        return {
            **super().get_config(),
            "decoder": self.decoder and keras.saving.serialize_keras_object(self.decoder),
            "reconstruction_weight": self.reconstruction_weight,
        }

    def summary(self, *args, **kwargs):
        """Prints the network and, below it, the decoder; arguments as in Keras."""
        super().summary(*args, **kwargs)
        if self.decoder is not None:
            self.decoder.summary(*args, **kwargs)

    @property
    def class_layer(self):
        """The last `DigitCaps` of the graph, or None; Keras keeps layers in order of depth."""
        return next((x for x in reversed(self.layers) if isinstance(x, DigitCaps)), None)

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

    def _forward(self, x, training, capsules_only=False):
        """What a step needs of one pass; the routing objective the last layer's input alone."""
        layer = self.class_layer
        tensors = {"capsules": layer.input}
        if not capsules_only:
            tensors |= {"image": self.inputs[0], "outputs": self.output, "poses": layer.output}
        return keras.Model(self.inputs, tensors)(keras.tree.flatten(x), training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y = parts.class_targets(y, y_pred.shape[-1])
        return super().compute_loss(x, y, y_pred, sample_weight, training=training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y = parts.class_targets(y, y_pred.shape[-1])
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _reconstruction_loss(self, y, tensors, sample_weight, training):
        weight, poses = self.reconstruction_weight, tensors["poses"]
        if isinstance(y, dict):
            return parts.reconstruction_loss(
                self.decoder, poses, y, weight, sample_weight, training
            )
        masked = CapsuleMask()(poses, labels=y if training else None)
        image = self.decoder(masked, training=training)
        loss = losses.ReconstructionLoss(weight)
        return loss(tensors["image"], image, sample_weight=sample_weight)

    def _total_loss(self, x, y, tensors, sample_weight, training):
        reconstruction = 0.0
        if self.decoder is not None:  # before `compute_loss`, which collects the layers' own losses
            reconstruction = self._reconstruction_loss(y, tensors, sample_weight, training)
        loss = self.compute_loss(x, y, tensors["outputs"], sample_weight, training=training)
        return loss + reconstruction

    def _routing_loss(self, y, tensors, sample_weight):
        """Negative routing objective of the whole model."""
        layer = self.class_layer
        kernel = keras.ops.cast(layer.kernel, layer.compute_dtype)
        y = parts.class_targets(y, kernel.shape[2])
        gain = layer.routing.objective(tensors["capsules"], kernel, y, sample_weight)
        routings = [digit_caps.routing for digit_caps in self._digit_caps()]
        penalty = sum(r.penalty_term() for r in routings if r.routing_variables)
        # Gradients are summed over replicas: what is no sum over examples counts once in all.
        replicas = num_replicas()
        if getattr(layer.routing, "reduction", "sum") == "mean":
            gain = gain / replicas
        return penalty / replicas - gain

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
        loss, objectives = None, []
        if weights:
            loss = self._total_loss(x, y, tensors, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
            objectives.append((scaled, self.optimizer, self._other_variables()))
        if routing:
            negative = self._routing_loss(y, tensors, sample_weight)
            scaled = self.routing_optimizer.scale_loss(negative)
            objectives.append((scaled, self.routing_optimizer, self.routing_variables))
        return tensors.get("outputs"), loss, objectives

    def _evaluate(self, x, y, sample_weight):
        """Outputs and loss without training."""
        tensors = self._forward(x, training=False)
        loss = self._total_loss(x, y, tensors, sample_weight, training=False)
        return tensors["outputs"], loss

    def _update_metrics(self, x, y, sample_weight, outputs, loss):
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        # Keras divided the loss by the number of replicas.
        tracker.update_state(loss * num_replicas(), sample_weight=keras.ops.shape(outputs)[0])
        return self.compute_metrics(x, y, outputs, sample_weight=sample_weight)
