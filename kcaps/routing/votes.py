"""Sums over votes and agreements with them, computed without building the votes."""

from keras import ops


def softmax_over_outputs(logits, leaky=False):
    """Softmax over the first axis, the output capsules.

    `ops.softmax` would transpose the logits on TensorFlow, at several times the cost.

    Args:
        logits: Float32 tensor of shape `(num_outputs, …)`.
        leaky: Whether one more logit, fixed at 0, takes its share.

    Returns:
        Tensor of the same shape.
    """
    smallest = 0.0 if leaky else -float("inf")  # with which an empty batch has a maximum too
    largest = ops.stop_gradient(ops.max(logits, axis=0, keepdims=True, initial=smallest))
    powers = ops.exp(logits - largest)
    total = ops.sum(powers, axis=0, keepdims=True)
    return powers / (total + ops.exp(-largest) if leaky else total)


class Votes:
    """The votes `û_j|i = u_i W_ij` of all pairs of capsules, in factored form.

    The tensor of votes has `batch · num_inputs · num_outputs · output_dim` entries, and every pass
    over it costs more than the products below, which need only the capsules and the kernel:

        Σ_i û_j|i           one product of flattened capsules and kernel
        Σ_i c_ij û_j|i      = Σ_i (c_ij u_i) W_ij, one product for each output capsule
        ⟨û_j|i, v_j⟩        = ⟨u_i, W_ij v_j⟩, likewise

    Couplings and agreements have the output capsules first, `(j, b, i)`: the layout of those
    products.

    Notation: `b` batch, `i` input capsule, `k` its component, `j` output capsule, `d` its
    component.

    Args:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.

    Example:

    >>> votes = Votes(np.ones((2, 6, 3)), np.ones((6, 3, 5, 4)))
    >>> total = votes.sum()  # (2, 5, 4), each 18
    >>> couplings = ops.softmax(votes.agreement(total), axis=0)  # (5, 2, 6)
    >>> poses = votes.weighted_sum(couplings)  # (2, 5, 4)
    """

    def __init__(self, inputs, kernel):
        self.inputs, self.kernel = ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel)
        self.num_inputs, self.input_dim, self.num_outputs, self.output_dim = self.kernel.shape
        self._fan_in = self.num_inputs * self.input_dim
        by_input = ops.reshape(self.kernel, (self._fan_in, self.num_outputs, self.output_dim))
        self._by_output = ops.transpose(by_input, (1, 2, 0))  # (j, d, i·k)

    def sum(self):
        """Sums `Σ_i û_j|i` of shape `(batch, num_outputs, output_dim)`."""
        flat_kernel = ops.reshape(self.kernel, (self._fan_in, -1))  # (i·k, j·d)
        sums = ops.matmul(ops.reshape(self.inputs, (-1, self._fan_in)), flat_kernel)
        return ops.reshape(sums, (-1, self.num_outputs, self.output_dim))

    def weighted_sum(self, couplings):
        """Sums `Σ_i c_ij û_j|i`.

        Args:
            couplings: Tensor of shape `(num_outputs, batch, num_inputs)`.

        Returns:
            Tensor of shape `(batch, num_outputs, output_dim)`.
        """
        couplings = ops.expand_dims(ops.cast(couplings, self.inputs.dtype), -1)
        weighted = ops.reshape(couplings * self.inputs, (self.num_outputs, -1, self._fan_in))
        # Products with one layout of the kernel, the long axis last: the kernel's gradient is
        # several times slower the other way round.
        sums = ops.matmul(weighted, ops.transpose(self._by_output, (0, 2, 1)))  # (j, b, d)
        return ops.transpose(sums, (1, 0, 2))

    def agreement(self, targets):
        """Inner products `⟨û_j|i, t_j⟩`, summed in float32.

        Args:
            targets: Tensor of shape `(batch, num_outputs, output_dim)`.

        Returns:
            Float32 tensor of shape `(num_outputs, batch, num_inputs)`.
        """
        products = ops.matmul(ops.transpose(targets, (1, 0, 2)), self._by_output)  # (j, b, i·k)
        products = ops.reshape(products, (self.num_outputs, -1, self.num_inputs, self.input_dim))
        products = ops.cast(products, "float32") * ops.cast(self.inputs, "float32")
        return ops.sum(products, axis=-1)

    def detached(self):
        """The same votes as constants for the gradient."""
        return Votes(ops.stop_gradient(self.inputs), ops.stop_gradient(self.kernel))

    def dense(self):
        """The votes themselves, of shape `(batch, num_inputs, num_outputs, output_dim)`."""
        by_input = ops.transpose(self.inputs, (1, 0, 2))  # (i, b, k)
        kernels = ops.reshape(self.kernel, (self.num_inputs, self.input_dim, -1))  # (i, k, j·d)
        votes = ops.transpose(ops.matmul(by_input, kernels), (1, 0, 2))  # (b, i, j·d)
        return ops.reshape(votes, (-1, self.num_inputs, self.num_outputs, self.output_dim))
