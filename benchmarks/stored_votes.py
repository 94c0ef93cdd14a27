"""Dynamic routing from stored votes, beside kcaps' products of capsules and kernel."""

from keras import ops

from kcaps.activations import squash
from kcaps.routing import Routing

WAYS = ("products", "reductions")


class StoredVotes(Routing):
    """Dynamic routing that builds the tensor of votes once, and computes with it thereafter.

    The votes have `batch · num_inputs · num_outputs · output_dim` entries, each read in every sum
    and every agreement. `kcaps.routing.DynamicRouting` computes the same from tensors with
    `input_dim` instead of `output_dim`, at the price of products with the kernel.

    Args:
        way: `"products"`, by a matrix product for each example and output capsule, or
            `"reductions"`, by multiplying and adding, which a compiler can fuse.
        num_iterations: Positive integer. Defaults to 3.
        **kwargs: Base layer keyword arguments.
    """

    def __init__(self, way: str, num_iterations: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.way, self.num_iterations = way, num_iterations

    def call(self, inputs, kernel):
        votes = self.votes(inputs, kernel)  # (b, i, j, d)
        poses = squash(ops.sum(votes, axis=1) / votes.shape[2])  # (b, j, d)
        if self.way == "products":
            votes = ops.transpose(votes, (0, 2, 1, 3))  # (b, j, i, d)
        logits = 0.0
        for _ in range(self.num_iterations - 1):
            logits = logits + ops.cast(self._agreement(votes, poses), "float32")
            poses = squash(self._weighted_sum(votes, logits))
        return poses

    def _agreement(self, votes, poses):
        if self.way == "products":
            return ops.squeeze(ops.matmul(votes, ops.expand_dims(poses, -1)), -1)  # (b, j, i)
        return ops.sum(votes * ops.expand_dims(poses, 1), axis=-1)  # (b, i, j)

    def _weighted_sum(self, votes, logits):
        if self.way == "products":
            couplings = ops.cast(ops.softmax(logits, axis=1), votes.dtype)
            return ops.squeeze(ops.matmul(ops.expand_dims(couplings, 2), votes), 2)
        couplings = ops.cast(ops.softmax(logits, axis=2), votes.dtype)
        return ops.sum(votes * ops.expand_dims(couplings, -1), axis=1)

    def get_config(self):
        return {
            **super().get_config(),
            "way": self.way,
            "num_iterations": self.num_iterations,
        }
