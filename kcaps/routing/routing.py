"""The contract of a routing: from capsules and a kernel to the capsules of the next layer."""

import inspect

import keras
from keras import ops

from kcaps.backend.compiling import call_compiled, is_compiled, prefers_components_first
from kcaps.routing.votes import Votes
from kcaps.validation import agree


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
        return None  # The layer that uses the routing builds it on loading.

    def iterate(self, inputs, kernel):
        """Generates `(coupling_coefficients, poses)` of each iteration; the last poses count.

        The couplings have the shape `(batch, num_inputs, num_outputs)`, or 1 in the place of the
        batch where they are the same for every example. An `iterate` that has an argument
        `components_first` is told which layout of `kcaps.routing.Votes` is the faster one, and one
        that has an argument `training` whether the model trains: `kcaps.routing.votes_of` takes
        both.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `call(inputs, kernel)`, which returns poses of "
            "shape (batch, num_outputs, output_dim), or `iterate(inputs, kernel)`, which also "
            "gives the coupling coefficients of each iteration."
        )

    def call(self, inputs, kernel, components_first: bool = False, training: bool | None = None):
        options = _known(self.iterate, components_first=components_first, training=training)
        *_, (_, poses) = self.iterate(inputs, kernel, **options)
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
        if symbolic:
            return super().__call__(inputs, kernel, training=training)
        inputs, kernel = (ops.cast(x, self.compute_dtype) for x in (inputs, kernel))
        if is_compiled(training):
            return call_compiled(self, inputs, kernel, training=training)
        options = _known(self.call, components_first=prefers_components_first())
        return super().__call__(inputs, kernel, training=training, **options)

    def fixed_couplings(self, kernel_shape: tuple):
        """Returns the couplings `(num_inputs, num_outputs)`, if no example changes them; or None.

        Not None promises that the poses are `squash(Σ_i c_ij û_j|i)`: a `ConvCaps2D` then computes
        them as one convolution, by the product of couplings and kernel, without a call of the
        routing. A subclass that overrides `call` or `iterate` after that makes no such promise,
        unless it overrides this, too (see `couplings_to_fold`).

        Args:
            kernel_shape: `(num_inputs, input_dim, num_outputs, output_dim)`.
        """
        return None

    @property
    def routing_variables(self):
        """Variables that `CapsNet` lets ascend `objective(...)`; none by default.

        A routing that has some also implements `objective(inputs, kernel, labels, sample_weight)`
        and `penalty_term()`, both float32 scalars. Its other weights follow the loss.
        """
        return []

    proximal = False  # Whether `proximal_step` takes the penalty, which has then no gradient.

    def proximal_step(self, rate):
        """Takes the step of the penalty after one of the objective, where `proximal` is true.

        Args:
            rate: Learning rate of the step, a float32 scalar.
        """

    def votes(self, inputs, kernel):
        """Returns the votes of each input capsule for each output capsule.

        Args:
            inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
            kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.

        Returns:
            Tensor of shape `(batch, num_inputs, num_outputs, output_dim)`.
        """
        return Votes(inputs, kernel).dense()


def couplings_to_fold(routing: Routing, kernel_shape: tuple):
    """Returns the fixed couplings of a routing, by which its kernel may be multiplied, or None.

    Args:
        routing: Built routing.
        kernel_shape: `(num_inputs, input_dim, num_outputs, output_dim)`.
    """
    for base in type(routing).__mro__:
        if "fixed_couplings" in vars(base):
            return routing.fixed_couplings(kernel_shape)
        if {"call", "iterate", "__call__"} & vars(base).keys():
            return None  # What it computes is not what the couplings were fixed for.
    return None


def _known(method, **options):
    """Returns those of some keyword arguments that a method takes."""
    return {k: v for k, v in options.items() if k in inspect.signature(method).parameters}
