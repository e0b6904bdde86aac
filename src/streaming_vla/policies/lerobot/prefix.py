"""Runs an observation's tokens through a text tower behind a session's history, one layer a slice."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.lerobot.layers import DecoderLayer, Rotation, attend, rotated


def extend(
    layers: Sequence[DecoderLayer], tokens: Tensor, view: CacheView, sees: Tensor | None, base: float
) -> Generator[None, None, tuple[Tensor, Tensor]]:
    """Return the keys before rotation and the values of new tokens, each [L, Hkv, T, d]; yields between layers.

    Args:
        layers: of the tower.
        tokens: [1, T, width].
        view: the history, which all new tokens see.
        sees: [T, T], which new tokens see which; None: each sees all.
        base: of the rotary frequencies.
    """
    count = tokens.shape[1]
    keys_of: list[Tensor] = []
    values_of: list[Tensor] = []
    rotation = None
    mask = joint_mask(view, count, sees, tokens.dtype)
    for number, layer in enumerate(layers):
        queries, keys, values, gate = layer.heads(tokens)
        if rotation is None:
            positions = view.next_position + torch.arange(count, device=tokens.device)
            rotation = Rotation.at(positions, keys.shape[-1], base)
        if view.observe_queries is not None:
            view.observe_queries(number, queries[0])
        keys_of.append(keys[0])
        values_of.append(values[0])
        if number + 1 < len(layers):  # of the last layer nothing but keys and values is read
            all_keys = torch.cat((view.keys[number].unsqueeze(0).to(keys.dtype), rotated(keys, rotation)), dim=2)
            all_values = torch.cat((view.values[number].unsqueeze(0).to(keys.dtype), values), dim=2)
            attended = attend(rotated(queries, rotation), all_keys, all_values, mask)
            tokens = layer.finish(tokens, attended, gate)
            yield
    return torch.stack(keys_of), torch.stack(values_of)


def joint_mask(view: CacheView, count: int, sees: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return what `attend` masks with for `count` tokens behind a view, [count, N + count].

    Args:
        view: N tokens, whose bias is added to the logits.
        sees: [count, count], see `extend`.
        dtype: of the queries.
    """
    if sees is None and view.bias is None:
        return None
    device = view.keys.device
    own = torch.ones(count, count, dtype=torch.bool, device=device) if sees is None else sees
    seen = torch.cat((torch.ones(count, view.tokens, dtype=torch.bool, device=device), own), dim=1)
    if view.bias is None:
        return seen
    added = torch.zeros(count, view.tokens + count, dtype=dtype, device=device)
    added[:, : view.tokens] = view.bias.to(dtype)
    return added.masked_fill(~seen, float("-inf"))
