"""The decoder layer of all text towers and action experts: RMS norm (plain or adaptive), rotary positions, grouped
key-value heads, gated MLP. Tensors are [B, T, width]; heads [B, H, T, d]. B is 1 but for a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kv_cache.rotary import angles, apply_rotary, frequencies_of


@dataclass(frozen=True)
class LayerSizes:
    """What a decoder layer is made of.

    Args:
        width: of its tokens.
        mlp: of the gated MLP.
        heads, kv_heads, head_dim: of the attention.
        norm_epsilon: of the RMS norms.
        unit_offset: norms multiply by 1 + weight (Gemma) in place of weight (Llama).
        condition: width of what adaptive norms are given (adaRMS: a scale, a shift and a gate of it); 0: plain norms.
        gelu: the gate is a GELU (tanh), otherwise a SiLU.
    """

    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float = 1e-6
    unit_offset: bool = False
    condition: int = 0
    gelu: bool = False


class Rotation(NamedTuple):
    """Cosine and sine of token positions, each [T, d / 2]."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, head_dim: int, base: float) -> Rotation:
        """Return that of positions [T]."""
        cos, sin = angles(positions, frequencies_of(head_dim, base, positions.device))
        return cls(cos.float(), sin.float())


class Heads(NamedTuple):
    """Queries [1, Hq, T, d], keys and values [1, Hkv, T, d] before rotation, and the gate of an adaptive norm."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    gate: Tensor | None


class RMSNorm(nn.Module):
    """Root mean square norm, computed in float32; with a condition it is adaptive (adaRMS)."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self._epsilon, self._offset, self._width = sizes.norm_epsilon, float(sizes.unit_offset), sizes.width
        if sizes.condition:
            self.dense = nn.Linear(sizes.condition, 3 * sizes.width)
        else:
            self.weight = nn.Parameter(torch.zeros(sizes.width))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the normed tokens in the format of `x`, and the gate of what is added back to them."""
        normed = functional.rms_norm(x.float(), (self._width,), eps=self._epsilon)
        if condition is None:
            return (normed * (self._offset + self.weight.float())).to(x.dtype), None
        scale, shift, gate = self.dense(condition).chunk(3, dim=-1)
        return (normed * (1.0 + scale) + shift).to(x.dtype), gate.to(x.dtype)


class _Projections(nn.Module):
    def __init__(self, sizes: LayerSizes, key_width: int) -> None:
        super().__init__()
        inner, shared = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        self.q_proj = nn.Linear(sizes.width, inner, bias=False)
        self.k_proj = nn.Linear(key_width, shared, bias=False)
        self.v_proj = nn.Linear(key_width, shared, bias=False)
        self.o_proj = nn.Linear(inner, sizes.width, bias=False)


class _GatedMlp(nn.Module):
    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.width, sizes.mlp, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.mlp, bias=False)
        self.down_proj = nn.Linear(sizes.mlp, sizes.width, bias=False)
        self._gelu = sizes.gelu

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        opened = functional.gelu(gate, approximate="tanh") if self._gelu else functional.silu(gate)
        out: Tensor = self.down_proj(opened * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """One layer. Whoever calls it attends between `heads` and `finish`, to whatever keys and values there are.

    Args:
        sizes: of the layer.
        key_width: what keys and values are projected from, where not from the layer's own tokens: such a layer makes
            no keys of its tokens, see `project`.
    """

    def __init__(self, sizes: LayerSizes, key_width: int | None = None) -> None:
        super().__init__()
        self._sizes = sizes
        self.crosses = key_width is not None
        self.input_layernorm = RMSNorm(sizes)
        self.self_attn = _Projections(sizes, key_width or sizes.width)
        self.post_attention_layernorm = RMSNorm(sizes)
        self.mlp = _GatedMlp(sizes)

    def heads(self, x: Tensor, condition: Tensor | None = None) -> Heads:
        """Return the heads of tokens of a layer that does not cross."""
        normed, gate = self.input_layernorm(x, condition)
        own = self.self_attn
        return Heads(
            self._split(own.q_proj(normed)), self._split(own.k_proj(normed)), self._split(own.v_proj(normed)), gate
        )

    def queries(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the queries of tokens of a layer that crosses, and the gate."""
        normed, gate = self.input_layernorm(x, condition)
        return self._split(self.self_attn.q_proj(normed)), gate

    def project(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return another tower's keys and values [B, Hkv, N, d] as this layer's, [B, Hkv', N, d']."""
        flat = [each.transpose(1, 2).flatten(2) for each in (keys, values)]
        return self._split(self.self_attn.k_proj(flat[0])), self._split(self.self_attn.v_proj(flat[1]))

    def finish(self, x: Tensor, attended: Tensor, gate: Tensor | None, condition: Tensor | None = None) -> Tensor:
        """Return the layer's output of what its queries attended to, [1, Hq, T, d]."""
        mixed: Tensor = self.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        x = x + (mixed if gate is None else mixed * gate)
        normed, gate = self.post_attention_layernorm(x, condition)
        out: Tensor = self.mlp(normed)
        return x + (out if gate is None else out * gate)

    def _split(self, flat: Tensor) -> Tensor:
        heads: Tensor = flat.unflatten(-1, (-1, self._sizes.head_dim)).transpose(1, 2)
        return heads


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return attention of grouped heads, [1, Hq, T, d].

    Args:
        queries: [1, Hq, T, d], rotated.
        keys, values: [1, Hkv, N, d]; Hq is a multiple of Hkv.
        mask: [T, N], True where a query sees a key, or numbers that are added to the logits; None: all are seen.
    """
    return functional.scaled_dot_product_attention(queries, keys, values, mask, enable_gqa=True)


def rotated(heads: Tensor, rotation: Rotation) -> Tensor:
    """Return heads [..., T, d] turned to their positions."""
    return apply_rotary(heads, *rotation)
