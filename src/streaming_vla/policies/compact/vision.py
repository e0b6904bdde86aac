"""From a camera's picture to tokens: a small CNN with keypoints (spatial softmax) on two scales and pooled patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from streaming_vla.policies.compact.config import NORM_GROUPS

COORDINATE_GAIN = 3.0  # a keypoint moves by a few hundredths: scaled up, the first layer need not grow to see it


class CameraEncoder(nn.Module):
    """One camera's encoder.

    Args:
        channels: of the four convolutions (strides 2, 2, 2, 1).
        keypoints: spatial-softmax keypoints on the fine scale (stride 4: small markers) and on the coarse one
            (stride 8: things); all in one token.
        patch_grid: pooled patches per side.
        width: size of a token.
    """

    def __init__(
        self, channels: tuple[int, int, int, int], keypoints: tuple[int, int], patch_grid: int, width: int
    ) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.patch_grid = patch_grid
        self.fine = nn.Sequential(_convolution(3, first, 5, 2), _convolution(first, second, 3, 2))
        self.coarse = nn.Sequential(_convolution(second, third, 3, 2), _convolution(third, fourth, 3, 1))
        self.fine_maps = nn.Conv2d(second, keypoints[0], 1)
        self.coarse_maps = nn.Conv2d(fourth, keypoints[1], 1)
        self.keypoint_token = nn.Sequential(nn.Linear(3 * sum(keypoints), width), nn.SiLU(), nn.Linear(width, width))
        self.patch_token = nn.Linear(fourth, width)
        self.place = nn.Parameter(torch.randn(1 + patch_grid**2, width) * 0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures [B, 3, S, S] in [-1, 1] to tokens [B, 1 + patch_grid^2, width]."""
        fine = self.fine(pictures)
        coarse = self.coarse(fine)
        points = torch.cat((*spatial_softmax(self.fine_maps(fine)), *spatial_softmax(self.coarse_maps(coarse))), dim=-1)
        patches = functional.adaptive_avg_pool2d(coarse, self.patch_grid).flatten(2).transpose(1, 2)
        keypoints = self.keypoint_token(points).unsqueeze(1)
        return torch.cat((keypoints, self.patch_token(patches)), dim=1) + self.place


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2),
        nn.GroupNorm(NORM_GROUPS, outputs),
        nn.SiLU(),
    )


def spatial_softmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the expected position of each map and how sure it is, [B, K, H, W] -> [B, 2K] and [B, K].

    Positions are in [-1, 1] times COORDINATE_GAIN; sureness is the largest weight (a thing that is not in the picture
    has none). Levine et al., End-to-end training of deep visuomotor policies (arXiv 1504.00702), section 4.3.
    """
    _, _, height, width = maps.shape
    weights = maps.flatten(2).float().softmax(dim=-1)
    rows = torch.linspace(-COORDINATE_GAIN, COORDINATE_GAIN, height, device=maps.device).repeat_interleave(width)
    columns = torch.linspace(-COORDINATE_GAIN, COORDINATE_GAIN, width, device=maps.device).repeat(height)
    return torch.cat((weights @ columns, weights @ rows), dim=-1), weights.amax(dim=-1)
