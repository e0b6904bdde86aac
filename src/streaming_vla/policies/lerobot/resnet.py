"""ResNet-18 and -34 (arXiv 1512.03385) up to their last feature map, with frozen batch norms.

Written out here because torchvision is tied to one release of torch and brings its own compiled operators: a robot that
has torch already would have to change it for these few layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
CHANNELS = WIDTHS[-1]


class FrozenBatchNorm(nn.Module):
    """Batch norm with the statistics of its training; names are torchvision's."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed map [1, C, h, w]."""
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


class BasicBlock(nn.Module):
    """Two convolutions and what they are added to."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = FrozenBatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), FrozenBatchNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        kept = x if self.downsample is None else self.downsample(x)
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + kept)


class ResNet(nn.Module):
    """The network without its classifier.

    Args:
        name: of BLOCKS.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm(64)
        before = 64
        for number, (count, width) in enumerate(zip(BLOCKS[name], WIDTHS, strict=True)):
            strides = [1 if number == 0 else 2, *[1] * (count - 1)]
            blocks = [BasicBlock(width if index else before, width, stride) for index, stride in enumerate(strides)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
            before = width

    def forward(self, picture: Tensor) -> Tensor:
        """Return the feature map [1, 512, h / 32, w / 32] of a picture [1, 3, h, w]."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(picture))), 3, 2, padding=1)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return x
