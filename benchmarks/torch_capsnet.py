"""The capsule network of Sabour et al. as users of PyTorch write it, without its decoder."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_caps import TorchCaps, squash


class TorchCapsNet(nn.Module):
    """Two convolutions, capsules of eight neighbouring channels, and dynamic routing."""

    def __init__(self, filters, types, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, filters, kernel_size=9)
        self.primary = nn.Conv2d(filters, types * 8, kernel_size=9, stride=2)
        self.digits = TorchCaps(6 * 6 * types, 8, num_classes, 16)

    def forward(self, images):
        features = self.primary(F.relu(self.conv(images)))
        capsules = squash(features.permute(0, 2, 3, 1).reshape(len(images), -1, 8))
        return self.digits(capsules).norm(dim=-1)


def margin_loss(lengths, labels):
    present = F.one_hot(labels, lengths.shape[-1])
    loss = present * F.relu(0.9 - lengths) ** 2
    loss = loss + 0.5 * (1 - present) * F.relu(lengths - 0.1) ** 2
    return loss.sum(dim=-1).mean()


def train_step(model, optimizer, images, labels, half=False):
    optimizer.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        loss = margin_loss(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()
