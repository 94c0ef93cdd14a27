"""The contract of a routing: from capsules and a kernel to the capsules of the next layer."""

import json
import weakref

import keras
from keras import ops

from kcaps.routing.votes import Votes, components_first
from kcaps.validation import agree

# Compiled forms live beside the layers, not on them: a `tf.function` held as an attribute would
# be traced into every SavedModel of the layer and would forbid copying it.
_COMPILED = weakref.WeakKeyDictionary()


class Routing(keras.layers.Layer):
    """Base class of routings: how capsules of one layer decide on those of the next.

    A subclass implements `call(inputs, kernel)`, or `iterate(inputs, kernel)`, from which `call`
    follows and which `kcaps.diagnostics` can read. It receives the capsules and the kernel rather
    than the votes `û_j|i = u_i W_ij`, so that it need not build the votes tensor of shape
    `(batch, num_inputs, num_outputs, output_dim)`, which is what makes capsule layers slow and
    hungry: `kcaps.routing.Votes` gives its sums and products without it, `votes(inputs, kernel)`
    the tensor to those that want it. Numbers of iterations, penalties and tolerances are
    arguments of the routing, not of the layer that uses it. A routing that owns weights creates
    them in `build(input_shape, kernel_shape)`.

    On the TensorFlow backend, a routing runs inside `tf.function(jit_compile=True)` while a model
    trains and in direct eager calls. Inference traces the plain operations: it sees many batch
    sizes, each of which XLA would compile anew, and an exported graph must not contain XLA calls,
    which ONNX cannot express.

    Notation: `b` batch, `i` input capsule, `k` its component, `j` output capsule, `d` its
    component.

    Args:
        **kwargs: Base layer keyword arguments (e.g. `name`); the dtype is the layer's.

    Call arguments:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
        training: Whether the model trains. It decides on XLA, and reaches layers inside the
            routing and a `call` that takes it, as in any Keras layer.

    Output shape:
        Poses of shape `(batch, num_outputs, output_dim)`.

    Example: a routing with equal couplings.

    ```python
    @keras.saving.register_keras_serializable(package="my_package")
    class MeanRouting(kcaps.routing.Routing):
        def call(self, inputs, kernel):
            return kcaps.activations.squash(ops.mean(self.votes(inputs, kernel), axis=1))

    layer = kcaps.layers.DigitCaps(10, 16, routing=MeanRouting())
    ```
    """

    def build(self, input_shape, kernel_shape):
        self.built = True

    def get_build_config(self):
        return None  # on loading, the layer that uses the routing builds it

    def iterate(self, inputs, kernel):
        """Generates `(coupling_coefficients, poses)` of each iteration; the last poses count.

        The couplings have the shape `(batch, num_inputs, num_outputs)`, or 1 in the place of the
        batch where they are the same for every example.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `call(inputs, kernel)`, which returns poses of "
            "shape (batch, num_outputs, output_dim), or `iterate(inputs, kernel)`, which also "
            "gives the coupling coefficients of each iteration."
        )

    def call(self, inputs, kernel):
        *_, (_, poses) = self.iterate(inputs, kernel)
        return poses

    def __call__(self, inputs, kernel, training=None):
        symbolic = isinstance(inputs, keras.KerasTensor)
        if not symbolic:
            inputs, kernel = ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel)
        # Products of flattened capsules would take others for a batch of another size.
        fits = len(kernel.shape) == 4 and agree(inputs.shape[1:], kernel.shape[:2])
        if not fits or 0 in kernel.shape:
            raise ValueError(
                "`inputs` must have the shape (batch, num_inputs, input_dim), and `kernel` "
                "(num_inputs, input_dim, num_outputs, output_dim), each of 1 or more. "
                f"Received: shapes {tuple(inputs.shape)} and {tuple(kernel.shape)}."
            )
        if not self.built:
            self.build(tuple(inputs.shape), tuple(kernel.shape))
        if not symbolic:
            inputs, kernel = (ops.cast(x, self.compute_dtype) for x in (inputs, kernel))
        if keras.backend.backend() == "tensorflow" and not symbolic:
            import tensorflow as tf

            if tf.executing_eagerly() if training is None else training:
                return self._call_compiled(inputs, kernel, training)
            with components_first():
                return super().__call__(inputs, kernel, training=training)
        return super().__call__(inputs, kernel, training=training)

    @property
    def routing_variables(self):
        """Variables that `CapsNet` lets ascend `objective(...)`; none by default.

        A routing that has some also implements `objective(inputs, kernel, labels, sample_weight)`
        and `penalty_term()`, both float32 scalars. Its other weights follow the loss.
        """
        return []

    def votes(self, inputs, kernel):
        """Votes of each input capsule for each output capsule.

        Args:
            inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
            kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.

        Returns:
            Tensor of shape `(batch, num_inputs, num_outputs, output_dim)`.
        """
        return Votes(inputs, kernel).dense()

    def _call_compiled(self, inputs, kernel, training):
        import tensorflow as tf

        if self not in _COMPILED:
            routing = weakref.ref(self)  # no cycle: the dictionary must not keep its key alive
            _COMPILED[self] = tf.function(
                lambda config, *args: _stateless_call(routing(), *args), jit_compile=True
            )
        variables = self.variables
        poses, updates = _COMPILED[self](
            # Python values, each of which has a trace of its own: settings may change.
            json.dumps(self.get_config(), default=str),
            training,
            [variable.value for variable in variables],
            inputs,
            kernel,
        )
        for index, value in updates.items():
            variables[index].assign(value)
        return poses


def _stateless_call(routing, training, values, inputs, kernel):
    """Poses, and the new values of the variables that the call assigned, by their index."""
    variables = routing.variables
    with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
        before = [scope.get_current_value(variable) for variable in variables]
        poses = keras.layers.Layer.__call__(routing, inputs, kernel, training=training)
    after = [scope.get_current_value(variable) for variable in variables]
    pairs = enumerate(zip(before, after, strict=True))
    return poses, {index: new for index, (old, new) in pairs if new is not old}
