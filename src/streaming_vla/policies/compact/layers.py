"""Transformer layers with grouped keys and rotary positions, and the expert's layer that reads their cache."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from kv_cache.rotary import angles, frequencies_of, rotate
from streaming_vla.policies.compact.config import CompactConfig


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention with grouped heads.

    Args:
        queries: [B, heads, Q, d], rotated.
        keys, values: [B, kv_heads, N, d], keys rotated.
        mask: [B, 1, Q, N], True where a query may look.

    Returns:
        [B, Q, heads * d].
    """
    # copies of the keys for every head of a group would cost most of a flow step behind a long history
    out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


class Projection(nn.Module):
    """The first half of a pre-norm transformer layer: queries, keys and values."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.attention_norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_dim)

    def heads_of(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, heads, T, d], keys and values [B, kv_heads, T, d] of tokens [B, T, width], unrotated."""
        batch, count, _ = tokens.shape
        packed = self.project(self.attention_norm(tokens)).view(batch, count, -1, self.head_dim).transpose(1, 2)
        queries, keys, values = packed.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        return queries, keys, values


class Layer(Projection):
    """One pre-norm transformer layer; trunk and expert have the same form."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config)
        hidden = config.mlp_ratio * config.width
        self.mix = nn.Linear(config.width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width))

    def finish(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Add what attention brought, [B, T, width], and the MLP."""
        mixed: Tensor = tokens + self.mix(attended)
        out: Tensor = mixed + self.mlp(self.mlp_norm(mixed))
        return out


def rotated(heads: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotate heads [B, H, T, d] to `positions` [T] (RoPE, arXiv 2104.09864)."""
    return rotate(heads, positions, base).to(heads.dtype)


def turning(positions: Tensor, config: CompactConfig) -> tuple[Tensor, Tensor]:
    """Return what `kv_cache.rotary.turn` needs to rotate heads to `positions` [T], for all layers of one pass."""
    cos, sin = angles(positions, frequencies_of(config.head_dim, config.rope_base, positions.device))
    return cos.float(), sin.float()
