"""Votes that are built once and stored, and the choice between them and factored ones."""

import copy
import functools

import keras
from keras import ops

from kcaps.backend.compiling import prefers_stored_votes
from kcaps.routing.votes import Votes, batch_first


class StoredVotes(Votes):
    """The votes of all pairs of capsules as one tensor, with the methods of `Votes`.

    Each sum and each agreement reads all of the `batch · num_inputs · num_outputs · output_dim`
    entries once, in a product of a matrix and a vector for each example and output capsule, and
    has no product with the kernel. Sums with equal couplings stay the one product of `Votes`.

    Args:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
        components_first: Where `agreement` keeps its axis of size 1, as in `Votes`. The stored
            tensor has one layout. Defaults to False.

    Example:

    >>> votes = StoredVotes(np.ones((2, 6, 3)), np.ones((6, 3, 5, 4)))
    >>> agreement = votes.agreement(votes.sum())
    >>> tuple(agreement.shape), float(agreement[0, 0, 0])
    ((5, 2, 6), 216.0)
    """

    @functools.cached_property
    def _stored(self):
        """The votes `(b, j, i, d)`; a routing of one iteration never reads them."""
        return ops.transpose(self._product(), (0, 2, 1, 3))

    def weighted_sum(self, couplings):
        couplings = ops.cast(couplings, self._stored.dtype)
        couplings = ops.reshape(couplings, (self.num_outputs, -1, self.num_inputs))
        rows = ops.expand_dims(batch_first(couplings), 2)  # (b, j, 1, i)
        sums = ops.squeeze(ops.matmul(rows, self._stored), 2)  # (b, j, d)
        return ops.cast(batch_first(sums), self.dtype)

    def agreement(self, targets, keepdims: bool = False):
        columns = ops.expand_dims(batch_first(ops.cast(targets, "float32")), -1)  # (b, j, d, 1)
        products = ops.squeeze(ops.matmul(ops.cast(self._stored, "float32"), columns), -1)
        agreement = batch_first(products)  # (j, b, i)
        return ops.expand_dims(agreement, self._axis) if keepdims else agreement

    def detached(self):
        constant = copy.copy(self)
        for name in ("inputs", "kernel", "_arranged", "_by_output", "_stored"):
            setattr(constant, name, ops.stop_gradient(getattr(self, name)))
        return constant


class VotesOfOne(StoredVotes):
    """The votes of one example as a matrix for each output capsule, which all methods read.

    The kernel, which has `input_dim` times as many entries, is read once, by products of matrices
    and columns; sums with equal couplings do not read it again. At inference on TensorFlow, and so
    in a file that is exported for one image, that takes less time than factored votes.

    Args:
        inputs: Capsules of shape `(1, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
        components_first: As for `StoredVotes`.

    Example:

    >>> votes = VotesOfOne(np.ones((1, 6, 3)), np.ones((6, 3, 5, 4)))
    >>> agreement = votes.agreement(votes.sum())
    >>> tuple(agreement.shape), float(agreement[0, 0, 0])
    ((5, 1, 6), 216.0)
    """

    @functools.cached_property
    def _stored(self):
        """The votes `(j, d, i)`."""
        kernels = ops.reshape(self.kernel, (self.num_inputs, self.input_dim, -1))
        columns = ops.reshape(self.inputs, (self.num_inputs, self.input_dim, 1))
        votes = ops.matmul(ops.transpose(kernels, (0, 2, 1)), columns)  # (i, j·d, 1)
        votes = ops.transpose(ops.reshape(votes, (self.num_inputs, -1)), (1, 0))
        return ops.reshape(votes, (self.num_outputs, self.output_dim, self.num_inputs))

    def sum(self, share=1.0):
        return self._rows(ops.sum(self._stored, axis=2) * share)

    def weighted_sum(self, couplings):
        couplings = ops.cast(couplings, self._stored.dtype)
        columns = ops.reshape(couplings, (self.num_outputs, self.num_inputs, 1))
        return self._rows(ops.matmul(self._stored, columns))

    def agreement(self, targets, keepdims: bool = False):
        stored = ops.cast(self._stored, "float32")
        agreement = ops.matmul(ops.cast(targets, "float32"), stored)  # (j, 1, i)
        return ops.expand_dims(agreement, self._axis) if keepdims else agreement

    def _rows(self, sums):
        """Returns sums `(j, d)` or `(j, d, 1)` as `(j, 1, d)`."""
        return ops.cast(ops.reshape(sums, (self.num_outputs, 1, self.output_dim)), self.dtype)


def votes_of(inputs, kernel, components_first: bool = False, training: bool | None = None) -> Votes:
    """Returns the votes, stored where that is faster, or else in factored form.

    `kcaps.backend.compiling.prefers_stored_votes` decides by backend, device and sizes. Those of
    one example in float32, in the layout of TensorFlow's inference, are `VotesOfOne`.

    Args:
        inputs: Capsules of shape `(batch, num_inputs, input_dim)`.
        kernel: Weights of shape `(num_inputs, input_dim, num_outputs, output_dim)`.
        components_first: The layout, see `Votes`. Defaults to False.
        training: Whether the model trains. Defaults to None: nobody knows.

    Returns:
        `Votes`, `StoredVotes` or `VotesOfOne`, whose results are the same but for rounding.

    Example:

    >>> votes = votes_of(np.ones((2, 6, 3)), np.ones((6, 3, 5, 4)), training=True)
    >>> tuple(votes.sum().shape)
    (5, 2, 4)
    """
    inputs, kernel = ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel)
    dtypes = {keras.backend.standardize_dtype(x.dtype) for x in (inputs, kernel)}
    if components_first and inputs.shape[0] == 1 and dtypes == {"float32"}:
        way = VotesOfOne
    else:
        way = StoredVotes if prefers_stored_votes(inputs, kernel, training) else Votes
    return way(inputs, kernel, components_first)
