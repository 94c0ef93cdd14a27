"""Computes sums over votes and agreements with them without building the votes."""

import keras
from keras import ops

from kcaps.backend.arrays import maxima
from kcaps.backend.compiling import product_dtype


def softmax_over_outputs(logits, leaky: bool = False):
    """Returns the softmax over the first axis, the output capsules.

    `ops.softmax` would transpose the logits on TensorFlow, at several times the cost.

    Args:
        logits: Float32 tensor of shape `(num_outputs, …)`.
        leaky: Whether one more logit, fixed at 0, takes its share.

    Returns:
        Tensor of the same shape.
    """
    largest = ops.stop_gradient(maxima(logits, 0, 0.0 if leaky else -float("inf")))
    powers = ops.exp(logits - largest)
    total = ops.sum(powers, axis=0, keepdims=True)
    return powers / (total + ops.exp(-largest) if leaky else total)


class Votes:
    """The votes `û_j|i = u_i W_ij` of all pairs of capsules, in factored form.

    The tensor of votes has `batch · num_inputs · num_outputs · output_dim` entries, and every pass
    over it costs more than the products below, which need only the capsules and the kernel:

        Σ_i û_j|i           one product of flattened capsules and kernel
        Σ_i c_ij û_j|i      = Σ_i (c_ij u_i) W_ij, one product for each output capsule
        ⟨û_j|i, t_j⟩        = ⟨u_i, W_ij t_j⟩, likewise

    Results have the dtype of the capsules, but for agreements, which are float32. XLA on a CPU has
    no products of half precision, and computes these in float32 (`product_dtype`).

    All of them have the output capsules first, the layout of those products: sums and targets
    `(j, b, d)`, couplings and agreements `(j, b, i)`. `batch_first` turns them round.

    Notation: `b` batch, `i` input capsule, `k` its component, `j` output capsule, `d` its
    component.

    Args:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
        components_first: Whether to lay capsules out as `(b, k, i)` rather than `(b, i, k)`.
            Operations that run one by one, as in TensorFlow's inference or an exported graph, are
            faster with the long axis last; XLA, which fuses them, is faster with the short one
            there. Defaults to False.

    Example:

    >>> votes = Votes(np.ones((2, 6, 3)), np.ones((6, 3, 5, 4)))
    >>> total = votes.sum()
    >>> tuple(total.shape), float(total[0, 0, 0])
    ((5, 2, 4), 18.0)
    >>> couplings = ops.softmax(votes.agreement(total), axis=0)
    >>> tuple(couplings.shape)
    (5, 2, 6)
    >>> tuple(batch_first(votes.weighted_sum(couplings)).shape)
    (2, 5, 4)
    """

    def __init__(self, inputs, kernel, components_first: bool = False):
        inputs, kernel = ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel)
        self.dtype = keras.backend.result_type(inputs.dtype, kernel.dtype)
        self.inputs = ops.cast(inputs, product_dtype(inputs.dtype))
        self.kernel = ops.cast(kernel, product_dtype(kernel.dtype))
        self.num_inputs, self.input_dim, self.num_outputs, self.output_dim = self.kernel.shape
        self._fan_in = self.num_inputs * self.input_dim
        self._components_first = components_first
        self._axis = -2 if components_first else -1  # This is the axis of the components.
        if components_first:
            self._arranged = ops.transpose(self.inputs, (0, 2, 1))  # (b, k, i)
            kernel = ops.transpose(self.kernel, (2, 3, 1, 0))  # (j, d, k, i)
            self._by_output = ops.reshape(kernel, (self.num_outputs, self.output_dim, self._fan_in))
        else:
            self._arranged = self.inputs  # (b, i, k)
            by_input = ops.reshape(self.kernel, (self._fan_in, self.num_outputs, self.output_dim))
            self._by_output = ops.transpose(by_input, (1, 2, 0))  # (j, d, i·k)

    def sum(self, share=1.0):
        """Returns sums `share · Σ_i û_j|i` of shape `(num_outputs, batch, output_dim)`."""
        if self._components_first:
            columns = ops.reshape(self._columns(), (1, self._fan_in, -1))
            # ONNX Runtime fuses a product with a scalar, and has no fast form of the two for one
            # example. With a vector it does not.
            shares = share * ops.ones(self.output_dim, self.kernel.dtype)
            return ops.cast(self._sums_of(columns) * shares, self.dtype)
        flat = ops.reshape(self._arranged, (-1, self._fan_in))
        flat_kernel = ops.reshape(self.kernel, (self._fan_in, -1))  # (i·k, j·d)
        sums = ops.reshape(ops.matmul(flat, flat_kernel), (-1, self.num_outputs, self.output_dim))
        return ops.cast(batch_first(sums) * share, self.dtype)

    def uniform(self, share=None):
        """Returns equal couplings and the sums that they give.

        Args:
            share: The coupling. Defaults to None: `1 / num_outputs`.

        Returns:
            Couplings `(1, num_inputs, num_outputs)`, in the order that routings report them, and
            sums `(num_outputs, batch, output_dim)`.
        """
        share = 1.0 / self.num_outputs if share is None else share
        # Not `ops.full`, whose value Keras fetches from the device on torch.
        couplings = share * ops.ones((1, self.num_inputs, self.num_outputs), "float32")
        return couplings, self.sum(share)

    def weighted_sum(self, couplings):
        """Returns sums `Σ_i c_ij û_j|i`.

        Args:
            couplings: Tensor of shape `(num_outputs, batch, num_inputs)`, or with an axis more, as
                from `agreement` with `keepdims`.

        Returns:
            Tensor of shape `(num_outputs, batch, output_dim)`.
        """
        couplings = ops.cast(couplings, self.inputs.dtype)
        if len(couplings.shape) == 3:
            couplings = ops.expand_dims(couplings, self._axis)
        if self._components_first:
            couplings = ops.transpose(couplings, (0, 2, 3, 1))  # (j, 1, i, b)
            columns = ops.reshape(self._columns(), (self.input_dim, self.num_inputs, -1))
            weighted = ops.reshape(couplings * columns, (self.num_outputs, self._fan_in, -1))
            return ops.cast(self._sums_of(weighted), self.dtype)
        weighted = ops.reshape(couplings * self._arranged, (self.num_outputs, -1, self._fan_in))
        # The kernel has its long axis last here too: the other way round, its gradient takes
        # several times as long.
        sums = ops.matmul(weighted, ops.transpose(self._by_output, (0, 2, 1)))
        return ops.cast(sums, self.dtype)

    def agreement(self, targets, keepdims: bool = False):
        """Returns inner products `⟨û_j|i, t_j⟩`, summed in float32.

        Args:
            targets: Tensor of shape `(num_outputs, batch, output_dim)`.
            keepdims: Whether to keep an axis of size 1 where the components were summed.

        Returns:
            Float32 tensor of shape `(num_outputs, batch, num_inputs)`.
        """
        products = ops.matmul(targets, self._by_output)  # (j, b, i·k) or (j, b, k·i)
        products = ops.reshape(products, (self.num_outputs, -1, *self._arranged.shape[1:]))
        products = ops.cast(products, "float32") * ops.cast(self._arranged, "float32")
        return ops.sum(products, axis=self._axis, keepdims=keepdims)

    def _columns(self):
        """Returns the flattened capsules, an example in each column, `(k·i, b)`."""
        return ops.transpose(ops.reshape(self._arranged, (-1, self._fan_in)), (1, 0))

    def _sums_of(self, columns):
        """Returns products `(j, b, d)` of the kernel with columns `(1 or j, k·i, b)`.

        The kernel has the layout in which `agreement` reads it. An exported graph thus has one
        constant of it, which for one example stays in the processor's cache from one product to
        the next.
        """
        return ops.transpose(ops.matmul(self._by_output, columns), (0, 2, 1))

    def as_couplings(self, by_output):
        """Returns couplings of the shapes above in the order of routings, `(b, i, j)`."""
        by_output = ops.reshape(by_output, (self.num_outputs, -1, self.num_inputs))
        return ops.transpose(by_output, (1, 2, 0))

    def detached(self):
        """Returns the same votes as constants for the gradient."""
        constants = ops.stop_gradient(self.inputs), ops.stop_gradient(self.kernel)
        return Votes(*constants, self._components_first)

    def dense(self):
        """Returns the votes, of shape `(batch, num_inputs, num_outputs, output_dim)`."""
        return ops.cast(self._product(), self.dtype)

    def _product(self):
        """Returns the votes `(b, i, j, d)` in the dtype of the products."""
        by_input = ops.transpose(self.inputs, (1, 0, 2))  # (i, b, k)
        kernels = ops.reshape(self.kernel, (self.num_inputs, self.input_dim, -1))  # (i, k, j·d)
        votes = ops.transpose(ops.matmul(by_input, kernels), (1, 0, 2))  # (b, i, j·d)
        return ops.reshape(votes, (-1, self.num_inputs, self.num_outputs, self.output_dim))


def batch_first(poses):
    """Returns poses `(j, b, d)` as `(b, j, d)`, or the other way round.

    Args:
        poses: Tensor of three axes.

    Example:

    >>> tuple(batch_first(np.ones((10, 2, 16))).shape)
    (2, 10, 16)
    """
    return ops.transpose(poses, (1, 0, 2))
