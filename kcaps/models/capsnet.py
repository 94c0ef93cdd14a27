"""A Keras model that alternates weight updates and routing updates."""

import functools
import inspect

import keras

from kcaps.backend.keras_private import is_validation_of_fit
from kcaps.backend.replicas import Replicated
from kcaps.backend.steps import run_step, state_beside_metrics
from kcaps.graph import matched
from kcaps.models import class_graph, compilation
from kcaps.models.averaging import own_averages
from kcaps.models.compilation import UPDATES as UPDATES
from kcaps.models.input_checks import checked_targets, warn_of_small_pixels
from kcaps.models.objectives import needs_labels, with_classes
from kcaps.models.training import evaluate_on, other_variables, train_on
from kcaps.saving import KerasFormatOnly
from kcaps.validation import from_config, non_negative


@keras.saving.register_keras_serializable(package="kcaps")
class CapsNet(Replicated, KerasFormatOnly, keras.Model):
    """Capsule network built and trained like any functional Keras model.

    Two things are added to `keras.Model`:

    - *Routing updates.* `DigitCaps` and `ConvCaps2D` with `"l1"` or `"l2"` routing own coupling
      coefficients that ascend an objective of their own (see
      `kcaps.routing.DiscriminativeRouting`). With
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
    >>> history = model.fit(images, labels, verbose=0)
    >>> sorted(history.history)
    ['accuracy', 'loss']

    Reference:

    - [Yang et al., 2021](https://arxiv.org/abs/2103.04278), Algorithm 1.
    - [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), section 4.1 (decoder).
    """

    # Keras takes a subclass with this signature for a functional model.
    def __init__(self, *args, decoder=None, reconstruction_weight: float = 0.0005, **kwargs):
        super().__init__(*args, **kwargs)
        decoder = from_config("decoder", decoder)
        self._image = self.inputs[0]
        if decoder is not None:
            self._image = class_graph.rebuilt_input(decoder, self)
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
        update: str = "alternating",
        weight_steps: int = 1,
        routing_steps: int = 1,
        **kwargs,
    ):
        """Configures the model for training.

        Args:
            optimizer: Optimizer of all weights but the routing variables, as in Keras. With
                `use_ema=True` it averages these; so does `routing_optimizer` with its own.
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
                layer has no routing objective.
        """
        routing_optimizer = compilation.routing_optimizer_of(
            routing_optimizer, routing_learning_rate, optimizer
        )
        steps = compilation.update_steps(update, weight_steps, routing_steps)
        if self.routing_variables:
            class_graph.check_objective(self._class_graph)
        loss = compilation.losses_of(loss, self.output_names, self.output)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        self.update, (self.weight_steps, self.routing_steps) = update, steps
        self.routing_optimizer = compilation.scaled_like(routing_optimizer, self.optimizer)
        if self.routing_variables:
            if self.optimizer is not None:
                self.optimizer.build(other_variables(self))
                self.routing_optimizer.build(self.routing_variables)

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains the model; arguments and result as those of `keras.Model.fit`.

        Raises:
            ValueError: for labels of which one is no class, and for a decoder, `"l1"` or `"l2"`
                without labels of the class capsules. In batches of a dataset a number that is no
                class makes the loss NaN.
        """
        y = checked_targets(self, x, y, training=True)
        bound = inspect.signature(super().fit).bind(x, y, *args, **kwargs)
        held_out = bound.arguments.get("validation_data")
        if isinstance(held_out, tuple | list) and len(held_out) in (2, 3):
            images, labels, *weights = held_out
            labels = checked_targets(self, images, labels)
            bound.arguments["validation_data"] = (images, labels, *weights)
        with own_averages(self):
            return super().fit(*bound.args, **bound.kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Returns loss and metrics on data; arguments and result as of `keras.Model.evaluate`.

        Raises:
            ValueError: for labels of which one is no class.
        """
        if not is_validation_of_fit(kwargs):  # `fit` has checked its own data.
            y = checked_targets(self, x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """Returns outputs for data; arguments and result as those of `keras.Model.predict`."""
        warn_of_small_pixels(self, x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        """Takes one training step, as `keras.Model.train_on_batch` does; errors as of `fit`."""
        y = checked_targets(self, x, y, training=True)
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        """Returns loss and metrics of a batch, as Keras does; errors as of `evaluate`."""
        y = checked_targets(self, x, y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x):
        """Returns outputs for a batch, as `keras.Model.predict_on_batch` does."""
        warn_of_small_pixels(self, x)
        return super().predict_on_batch(x)

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

    def compile_from_config(self, config: dict):
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
        bound = inspect.signature(super().summary).bind(*args, **kwargs).arguments
        class_graph.print_note_on_size(self, bound.get("print_fn") or print)

    @functools.cached_property
    def _class_graph(self):
        return class_graph.ClassGraph.of(self)

    @functools.cached_property
    def _networks(self):
        return class_graph.Networks.of(self, self._class_graph.call, self._image)

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
        routings = [layer.routing for layer in class_graph.routed_layers(self.layers)]
        return [v for routing in routings for v in routing.routing_variables if v.trainable]

    @property
    def metrics_variables(self):
        routing_optimizer = getattr(self, "routing_optimizer", None)
        variables = routing_optimizer.variables if routing_optimizer else []
        return super().metrics_variables + state_beside_metrics(variables)

    def train_step(self, *arguments):
        if not needs_labels(self):
            return super().train_step(*arguments)
        step = functools.partial(train_on, self)
        return run_step(self, step, arguments, training=True)

    def test_step(self, *arguments):
        if self.decoder is None:
            return super().test_step(*arguments)
        step = functools.partial(evaluate_on, self)
        return run_step(self, step, arguments, training=False)

    def call(self, inputs, training=None, mask=None, **kwargs):
        inputs = matched(inputs, self.input)
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y = with_classes(self, y)
        return super().compute_loss(x, y, y_pred, sample_weight, training=training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, with_classes(self, y), y_pred, sample_weight)
