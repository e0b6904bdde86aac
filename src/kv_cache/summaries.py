"""Ways to make one token out of a chunk; the learned ones start as the mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SUMMARIES = ("mean", "attention", "mlp")
ALL = slice(None)


class MeanSummary(nn.Module):
    """The mean of keys (before rotation) and of values."""

    def forward(self, keys: Tensor, values: Tensor, layers: slice = ALL) -> tuple[Tensor, Tensor]:
        """Summarise [B, L, Hkv, n, C, d] into [B, L, Hkv, n, d], keys and values; the L `layers` of the model."""
        return keys.mean(dim=4), values.mean(dim=4)


class AttentionSummary(nn.Module):
    """A learned query per layer and head weighs the tokens, keys and values alike."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(layers, kv_heads, head_dim))

    def forward(self, keys: Tensor, values: Tensor, layers: slice = ALL) -> tuple[Tensor, Tensor]:
        """Summarise [B, L, Hkv, n, C, d] into [B, L, Hkv, n, d], keys and values; the L `layers` of the model."""
        *lead, length, size = keys.shape
        query = (self.query[layers] / size**0.5).unsqueeze(2).expand(lead[0], -1, -1, lead[3], -1)
        # three dimensions: with more of them a product goes through many small steps, which take longer than it does
        flat = [each.to(query.dtype).reshape(-1, length, size) for each in (keys, values)]
        weights = (flat[0] @ query.reshape(-1, size, 1)).softmax(dim=1).transpose(1, 2)  # [B * L * Hkv * n, 1, C]
        own_keys, own_values = ((weights @ each).view(*lead, size).to(keys.dtype) for each in flat)
        return own_keys, own_values


class MlpSummary(nn.Module):
    """Mean plus what an MLP per layer makes of [mean ; largest] of a head; one for keys, one for values."""

    def __init__(self, layers: int, head_dim: int) -> None:
        super().__init__()
        wide = 2 * head_dim
        self.enter = nn.Parameter(torch.randn(2, layers, wide, wide) * wide**-0.5)
        self.leave = nn.Parameter(torch.zeros(2, layers, wide, head_dim))

    def forward(self, keys: Tensor, values: Tensor, layers: slice = ALL) -> tuple[Tensor, Tensor]:
        """Summarise [B, L, Hkv, n, C, d] into [B, L, Hkv, n, d], keys and values; the L `layers` of the model."""
        return self._one(keys, 0, layers), self._one(values, 1, layers)

    def _one(self, tokens: Tensor, which: int, layers: slice) -> Tensor:
        mean = tokens.mean(dim=4)
        pooled = torch.cat((mean, tokens.amax(dim=4)), dim=-1).to(self.enter.dtype)
        hidden = nn.functional.gelu(torch.einsum("blhnd,lde->blhne", pooled, self.enter[which, layers]))
        change = torch.einsum("blhne,led->blhnd", hidden, self.leave[which, layers])
        return mean + change.to(mean.dtype)


def make_summary(name: str, layers: int, kv_heads: int, head_dim: int) -> nn.Module:
    """Return the summary called `name`.

    Raises:
        ValueError: an unknown name.
    """
    if name == "mean":
        return MeanSummary()
    if name == "attention":
        return AttentionSummary(layers, kv_heads, head_dim)
    if name == "mlp":
        return MlpSummary(layers, head_dim)
    raise ValueError(f"summary '{name}' is unknown, choose one of {', '.join(SUMMARIES)}")
