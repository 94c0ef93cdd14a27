"""Traces of routings: their objective, and how decided their coupling coefficients are."""

import keras
import numpy as np
from keras import ops

from kcaps import routing as routings
from kcaps.activations import safe_norm
from kcaps.graph import calls, matched
from kcaps.layers.routed_caps import RoutedCaps
from kcaps.routing import Routing, Votes, batch_first
from kcaps.routing import routing_objective as routing_objective
from kcaps.validation import agree


def _shares(couplings):
    """Returns the share of each output capsule in an input capsule, `(b, i, j)`, by sizes."""
    sizes = ops.abs(ops.cast(couplings, "float32"))
    total = ops.sum(sizes, axis=-1, keepdims=True)
    return sizes / ops.maximum(total, keras.config.epsilon())


def coupling_entropy(couplings):
    """Returns the mean entropy of the coupling coefficients of an input capsule, in nats.

    `-Σ_j c_ij ln c_ij`, averaged over the input capsules: `ln J` for equal couplings to `J` output
    capsules, 0 where each input capsule has one parent. Couplings that do not sum to one, as those
    of `"l1"` and `"l2"`, count by their shares `|c_ij| / Σ_j |c_ij|`.

    Args:
        couplings: Tensor of shape `(batch, num_inputs, num_outputs)`.

    Returns:
        Float32 tensor of shape `(batch,)`.

    Example:

    >>> np.asarray(coupling_entropy([[[0.5, 0.5], [1.0, 0.0]]])).round(4)  # ln 2 / 2
    array([0.3466], dtype=float32)
    """
    shares = _shares(couplings)
    logarithms = ops.log(ops.where(shares > 0, shares, 1.0))
    return -ops.mean(ops.sum(shares * logarithms, axis=-1), axis=-1)


def polarisation(couplings):
    """Returns the mean largest coupling coefficient of an input capsule.

    `max_j c_ij`, averaged over the input capsules: `1 / J` for equal couplings to `J` output
    capsules, 1 where each input capsule has one parent. Couplings that do not sum to one count as
    in `coupling_entropy`.

    Args:
        couplings: Tensor of shape `(batch, num_inputs, num_outputs)`.

    Returns:
        Float32 tensor of shape `(batch,)`.

    Example:

    >>> polarisation([[[0.5, 0.5], [1.0, 0.0]]])
    <tf.Tensor: shape=(1,), dtype=float32, numpy=array([0.75], dtype=float32)>
    """
    return ops.mean(ops.max(_shares(couplings), axis=-1), axis=-1)


def trace_routing(layer: RoutedCaps, inputs, routing: Routing | str | None = None):
    """Follows the routing of a layer on a batch, iteration by iteration.

    Args:
        layer: A `kcaps.layers.DigitCaps` or `kcaps.layers.ConvCaps2D` that has been built. Each
            window of the latter counts as an example.
        inputs: The capsules that enter it, in the shape that the layer takes. The ones of a model
            on images are `keras.Model(model.input, layer.input).predict(images)`; where the layer
            was called in another graph before, `model.class_inputs` of a CapsNet has its inputs.
        routing: A routing without weights, or its name, to follow in place of the layer's own,
            for example `DynamicRouting(num_iterations=50)`. Defaults to the layer's own.

    Returns:
        A dict of NumPy arrays, the first axis of which is the iteration:

        - `"objective"`: Ψ of the weighted sums (see `routing_objective`), mean over the batch
        - `"entropy"`: see `coupling_entropy`, mean over the batch
        - `"polarisation"`: see `polarisation`, mean over the batch
        - `"lengths"`: lengths of the poses, `(iterations, batch, num_outputs)`, or of maps,
          `(iterations, batch, height, width, num_outputs)`

    Raises:
        ValueError: if the layer is of another kind or not built, if the inputs do not fit it, or
            if `routing` has weights.
        NotImplementedError: if the routing implements `call` alone (see `kcaps.routing.Routing`).

    Example:

    >>> layer = kcaps.layers.DigitCaps(10, 16)
    >>> capsules = np.random.default_rng(0).normal(size=(2, 32, 8))
    >>> poses = layer(capsules)
    >>> trace = trace_routing(layer, capsules)
    >>> np.diff(trace["objective"]) < 0
    array([ True,  True])

    Reference:

    - [Ye, Li and Shen, 2025](https://arxiv.org/abs/2501.06240).
    """
    if not isinstance(layer, RoutedCaps) or not layer.built:
        raise ValueError(
            "`layer` must be a built kcaps.layers.DigitCaps or kcaps.layers.ConvCaps2D. "
            f"Received: {layer!r}."
        )
    kernel = ops.stop_gradient(ops.convert_to_tensor(layer.kernel))
    inputs = ops.stop_gradient(ops.cast(ops.convert_to_tensor(inputs), kernel.dtype))
    inputs, lengths_shape = _as_routed(layer, inputs)
    if routing is None:
        routing = layer.routing
    else:
        routing = routings.get(routing)
        if not routing.built:
            routing.build(tuple(inputs.shape), tuple(kernel.shape))
        if routing.weights:
            raise ValueError(
                "`routing` must have no weights: those of another routing are not trained for "
                f"this layer. Received: routing={routing!r}."
            )
    votes = Votes(inputs, kernel)
    trace = {"objective": [], "entropy": [], "polarisation": [], "lengths": []}
    for couplings, poses in routing.iterate(inputs, kernel):
        couplings = ops.broadcast_to(couplings, (inputs.shape[0], *couplings.shape[1:]))
        sums = batch_first(votes.weighted_sum(ops.transpose(couplings, (2, 0, 1))))
        trace["objective"].append(ops.mean(routing_objective(sums)))
        trace["entropy"].append(ops.mean(coupling_entropy(couplings)))
        trace["polarisation"].append(ops.mean(polarisation(couplings)))
        trace["lengths"].append(ops.reshape(safe_norm(poses), lengths_shape))
    return {name: np.array([ops.convert_to_numpy(v) for v in vs]) for name, vs in trace.items()}


def _as_routed(layer, inputs):
    """Returns inputs of a layer as its routing takes them, and the shape of the output's lengths.

    Raises:
        ValueError: for inputs that do not fit the layer.
    """
    spec = layer.input_spec
    needed = tuple(spec.axes.get(axis) for axis in range(1, spec.ndim))
    if not agree(inputs.shape[1:], needed):
        sizes = ", ".join(["batch", *map(str, needed)])
        raise ValueError(
            f"`inputs` must have the shape ({sizes}) of the capsules that enter the layer. "
            f"Received: inputs of shape {tuple(inputs.shape)}."
        )
    lengths_shape = layer.compute_output_shape(tuple(inputs.shape))[:-1]
    return layer.routed(inputs), lengths_shape


class RoutingTensorBoard(keras.callbacks.TensorBoard):
    """Keras' TensorBoard callback, which also logs what each routing does.

    At the end of each epoch, the routings of all `DigitCaps` and `ConvCaps2D` in the model itself
    (not those inside its layers) are traced on a fixed batch of images. Objective, entropy and
    polarisation after each iteration become metrics named like `"digit_caps/entropy_3"` (layer,
    quantity, iteration), for TensorBoard and for the callbacks that follow in the list: put it
    before a `CSVLogger`. Like Keras' callback, it needs TensorFlow to be installed, whatever the
    backend.

    Args:
        images: A batch of inputs of the model, in each form that it takes; some dozens are enough.
        log_dir: Folder of the logs. Defaults to `"logs"`.
        **kwargs: Further arguments of `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: at the start of training, if the model has neither of these layers, or one that
            it calls more than once, or whose routing implements `call` alone and cannot be traced.

    Example:

    >>> model.compile("adam", metrics=["accuracy"])
    >>> callback = RoutingTensorBoard(images[:32], log_dir="logs")
    >>> history = model.fit(images, labels, callbacks=[callback], verbose=0)
    >>> sorted(path.name for path in pathlib.Path("logs").iterdir())
    ['train']
    """

    def __init__(self, images, log_dir: str = "logs", **kwargs):
        super().__init__(log_dir=log_dir, **kwargs)
        self.images = images

    def set_model(self, model: keras.Model):
        super().set_model(model)
        found = calls(model.outputs, RoutedCaps)
        self._layers = [call.layer for call in found]
        if not found:
            raise ValueError(
                "`RoutingTensorBoard` needs a model with DigitCaps or ConvCaps2D among its layers. "
                f"Received: model {model.name!r} with {[layer.name for layer in model.layers]}."
            )
        if len(set(self._layers)) < len(found):
            raise ValueError(
                "`RoutingTensorBoard` cannot tell the calls of a layer apart that is called more "
                f"than once. Received: calls of {[layer.name for layer in self._layers]}."
            )
        for layer in self._layers:
            if type(layer.routing).iterate is Routing.iterate:
                raise ValueError(
                    "`RoutingTensorBoard` needs routings that implement `iterate`, which gives the "
                    f"couplings. Received: {type(layer.routing).__name__} in layer {layer.name!r}."
                )
        inputs = {call.layer.name: call.inputs[0] for call in found}
        self._network = keras.Model(model.input, inputs)

    def on_epoch_end(self, epoch: int, logs=None):
        logs = {} if logs is None else logs
        images = matched(self.images, self.model.input)
        images = keras.tree.map_structure(ops.convert_to_tensor, images)
        capsules = self._network(images, training=False)
        for layer in self._layers:
            trace = trace_routing(layer, capsules[layer.name])
            for name in ("objective", "entropy", "polarisation"):
                values = enumerate(trace[name], start=1)
                logs |= {f"{layer.name}/{name}_{n}": float(value) for n, value in values}
        super().on_epoch_end(epoch, logs)
