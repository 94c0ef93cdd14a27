"""A capsule layer as users of PyTorch write it, without kcaps and Keras."""

import torch
from torch import nn


def squash(x, dim=-1):
    squared = (x**2).sum(dim, keepdim=True)
    return squared / (1 + squared) * x / torch.sqrt(squared + 1e-7)


class TorchCaps(nn.Module):
    """Dynamic routing over votes that one broadcast product of matrices makes."""

    def __init__(self, num_routes, in_dim, num_caps, out_dim, num_iterations=3):
        super().__init__()
        self.num_iterations = num_iterations
        self.weight = nn.Parameter(0.01 * torch.randn(1, num_caps, num_routes, out_dim, in_dim))

    def forward(self, u):
        votes = (self.weight @ u[:, None, :, :, None]).squeeze(-1)  # (b, j, i, d)
        b_ij = torch.zeros(*votes.shape[:3], 1, device=u.device)
        for iteration in range(self.num_iterations):
            c_ij = torch.softmax(b_ij, dim=1)
            v = squash((c_ij * votes).sum(dim=2, keepdim=True))  # (b, j, 1, d)
            if iteration < self.num_iterations - 1:
                b_ij = b_ij + (votes * v).sum(dim=-1, keepdim=True)
        return v.squeeze(2)
