"""A step of SmolVLA's action expert layer by layer, nothing kept between steps: what the lean step is compared with.

As LeRobot 0.6.1 does it: every step puts the context's keys and values in front of its own, projects those of the
layers that cross anew, lays heads out behind tokens, repeats them for every query head, and attends in float32 with a
mask and a softmax written out; every turn computes its own sines. Same weights, same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kv_cache.cache import CacheView
from streaming_vla.policies.lerobot.layers import DecoderLayer, LayerSizes
from streaming_vla.policies.lerobot.smolvla import ROPE_BASE, SmolVLA


def plain_velocity(network: SmolVLA, sizes: LayerSizes, noisy: Tensor, time: float, view: CacheView) -> Tensor:
    """Return what SmolVLA.velocity does, of a view whose observation begins at 0.

    Args:
        sizes: of a layer of the text tower, whose heads are the expert's.
        noisy: [T, padded action].
    """
    tokens = network.suffix(noisy, time).unsqueeze(0)
    count, past = tokens.shape[1], view.tokens
    positions = view.next_position + torch.arange(count)
    mask = torch.ones(count, past + count, dtype=torch.bool)
    mask[:, past:] = torch.ones(count, count, dtype=torch.bool).tril()
    for number, layer in enumerate(network.expert):
        assert isinstance(layer, DecoderLayer), "what the expert is made of"
        normed, _ = layer.input_layernorm(tokens)
        queries = _split(layer.self_attn.q_proj(normed), sizes.head_dim)
        held = [each[number].unsqueeze(0) for each in (view.keys, view.values)]
        if layer.crosses:
            keys, values = (each.transpose(1, 2) for each in held)
            keys = layer.self_attn.k_proj(keys.flatten(2)).unflatten(-1, (-1, sizes.head_dim))
            values = layer.self_attn.v_proj(values.flatten(2)).unflatten(-1, (-1, sizes.head_dim))
            queries = _turned(queries, positions - positions.min())
            attended = _attend(queries, keys, values, mask[:, :past])
        else:
            own = _split(layer.self_attn.k_proj(normed), sizes.head_dim)
            own_values = _split(layer.self_attn.v_proj(normed), sizes.head_dim)
            keys = torch.cat((held[0], _turned(own, positions)), dim=2).transpose(1, 2)
            values = torch.cat((held[1], own_values), dim=2).transpose(1, 2)
            attended = _attend(_turned(queries, positions), keys, values, mask)
        tokens = tokens + layer.self_attn.o_proj(attended.flatten(2))
        again, _ = layer.post_attention_layernorm(tokens)
        gate = functional.silu(layer.mlp.gate_proj(again))
        tokens = tokens + layer.mlp.down_proj(gate * layer.mlp.up_proj(again))
    out, _ = network.expert_norm(tokens)
    velocity: Tensor = network.action_out_proj(out[0].float())
    return velocity


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return [1, T, Hq, d] of queries [1, Hq, T, d] and keys and values [1, N, Hkv, d]."""
    groups = queries.shape[1] // keys.shape[2]
    every_key, every_value = (
        each.unsqueeze(3).expand(-1, -1, -1, groups, -1).flatten(2, 3).transpose(1, 2) for each in (keys, values)
    )
    logits = queries.float() @ every_key.float().transpose(-1, -2) * queries.shape[-1] ** -0.5
    logits = torch.where(mask, logits, torch.finfo(logits.dtype).min)
    attended: Tensor = torch.softmax(logits, dim=-1).to(values.dtype) @ every_value
    return attended.transpose(1, 2)


def _turned(heads: Tensor, positions: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    timescale = ROPE_BASE ** (torch.arange(half, dtype=torch.float32) / half)
    angles = positions.unsqueeze(-1).float() / timescale
    sin, cos = torch.sin(angles), torch.cos(angles)
    first, second = heads.float().split(half, dim=-1)
    turned = torch.empty_like(heads)
    turned[..., :half] = first * cos - second * sin
    turned[..., half:] = second * cos + first * sin
    return turned


def _split(flat: Tensor, size: int) -> Tensor:
    return flat.unflatten(-1, (-1, size)).transpose(1, 2)
