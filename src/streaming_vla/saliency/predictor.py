"""The look-ahead predictor: how the base camera's tokens change when the pending actions are executed.

A small network after StreamingVLA (arXiv 2603.28565): in go the tokens z of the base camera and the sum of the
pending actions, out comes the change of every token. Its length is the saliency.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST_SCALE = 1e-6  # where nothing ever changes, nothing is divided by zero


class ChangePredictor(nn.Module):
    """Maps tokens and actions to the change of the tokens.

    Each token is read with its place, the mean of all and the actions; two residual blocks follow. The last layer
    starts at zero, so that an untrained predictor says that nothing changes.

    Args:
        tokens: T, of the base camera.
        features: F, of a token.
        actions: A, of the summed actions.
        width: of the hidden layers.
    """

    scale: Tensor

    def __init__(self, tokens: int, features: int, actions: int, width: int = 128) -> None:
        super().__init__()
        self.normalise = nn.LayerNorm(features)
        self.own = nn.Linear(features, width)
        self.all = nn.Linear(features, width, bias=False)
        self.place = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.acting = nn.Linear(actions, width, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(2)
        )
        self.head = nn.Linear(width, features)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Return the predicted change, [..., T, F].

        Args:
            tokens: [..., T, F], of the base camera.
            actions: [..., A], sum of the pending actions (newest value where they are no changes).
        """
        seen = self.normalise(tokens)
        hidden = (
            self.own(seen) + self.place + self.all(seen.mean(dim=-2, keepdim=True)) + self.acting(actions).unsqueeze(-2)
        )
        for block in self.blocks:
            hidden = hidden + block(hidden)
        change: Tensor = self.head(hidden)
        return change

    def saliency(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Return the length of the predicted change over all tokens in units of `scale`, [...]."""
        length: Tensor = norm(self(tokens, actions)) / self.scale.clamp(min=SMALLEST_SCALE)
        return length


def norm(change: Tensor) -> Tensor:
    """Return the Euclidean length of a change, [..., T, F] -> [...]."""
    length: Tensor = torch.linalg.vector_norm(change, dim=(-2, -1))
    return length


def predictor_loss(predictor: ChangePredictor, tokens: Tensor, actions: Tensor, later: Tensor) -> Tensor:
    """Return the mean squared error of the predicted change, a scalar.

    The target is later - tokens, and no gradient reaches the tokens: they are the frozen policy's.

    Args:
        tokens: [N, T, F], at t.
        actions: [N, A], sum of the actions executed from t to t + m; m drawn from 1 to the longest wait.
        later: [N, T, F], at t + m.
    """
    target = (later - tokens).detach()
    return functional.mse_loss(predictor(tokens.detach(), actions), target)


@torch.no_grad()
def typical_change(tokens: Tensor, later: Tensor) -> Tensor:
    """Return the median length of the true change, a scalar: what `scale` is set to after training.

    A saliency of 1 is then a change as large as usual between two observations.

    Args:
        tokens, later: [N, T, F].
    """
    median: Tensor = norm(later - tokens).median()
    return median
