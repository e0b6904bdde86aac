"""From a camera's picture to tokens: a small CNN with keypoints (spatial softmax) and pooled patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8


class CameraEncoder(nn.Module):
    """One camera's encoder.

    Args:
        channels: of the three convolutions (strides 4, 2, 1).
        keypoints: number of spatial-softmax keypoints.
        patch_grid: pooled patches per side.
        width: size of a token.
    """

    def __init__(self, channels: tuple[int, int, int], keypoints: int, patch_grid: int, width: int) -> None:
        super().__init__()
        first, second, third = channels
        self.patch_grid = patch_grid
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 7, stride=4, padding=3),
            nn.GroupNorm(GROUPS, first),
            nn.SiLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.GroupNorm(GROUPS, second),
            nn.SiLU(),
            nn.Conv2d(second, third, 3, padding=1),
            nn.GroupNorm(GROUPS, third),
            nn.SiLU(),
        )
        self.keypoint_maps = nn.Conv2d(third, keypoints, 1)
        self.keypoint_token = nn.Linear(2 * keypoints, width)
        self.patch_token = nn.Linear(third, width)
        self.place = nn.Parameter(torch.randn(1 + patch_grid**2, width) * 0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures [B, 3, S, S] in [-1, 1] to tokens [B, 1 + patch_grid^2, width]."""
        features = self.features(pictures)
        keypoints = self.keypoint_token(spatial_softmax(self.keypoint_maps(features)))
        patches = functional.adaptive_avg_pool2d(features, self.patch_grid).flatten(2).transpose(1, 2)
        return torch.cat((keypoints.unsqueeze(1), self.patch_token(patches)), dim=1) + self.place


def spatial_softmax(maps: Tensor) -> Tensor:
    """Return the expected position of each map, [B, K, H, W] -> [B, 2K], coordinates in [-1, 1].

    Levine et al., End-to-end training of deep visuomotor policies (arXiv 1504.00702), section 4.3.
    """
    _, _, height, width = maps.shape
    weights = maps.flatten(2).float().softmax(dim=-1)
    rows = torch.linspace(-1.0, 1.0, height, device=maps.device).repeat_interleave(width)
    columns = torch.linspace(-1.0, 1.0, width, device=maps.device).repeat(height)
    return torch.cat((weights @ columns, weights @ rows), dim=-1)
