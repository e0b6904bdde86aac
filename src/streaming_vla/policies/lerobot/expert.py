"""An action expert reads a context: what does not change between the steps of a flow is made once (the lean step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.lerobot.layers import DecoderLayer, Rotation, attend, rotated
from streaming_vla.policies.lerobot.prefix import joint_mask


@dataclass(frozen=True)
class ExpertContext:
    """What the expert's layers read besides their own tokens.

    Args:
        keys, values: of each layer, [1, Hkv, N + T, d] with room for the T tokens of a step behind the context's; of
            a layer that crosses [1, Hkv, N, d], projected already.
        tokens: N.
        rotation: of the step's tokens, which follow the context.
        from_zero: the same counted from 0, for queries of layers that cross.
        mask: of layers that do not cross, [T, N + T] (see `attend`).
        bias: of layers that cross, [T, N].
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    tokens: int
    rotation: Rotation
    from_zero: Rotation
    mask: Tensor | None
    bias: Tensor | None


def prepare(
    layers: Sequence[DecoderLayer],
    view: CacheView,
    count: int,
    sees: Tensor | None,
    base: float,
    first: int | None = None,
) -> ExpertContext:
    """Return what steps of `count` tokens read of a view.

    Args:
        layers: of the expert, one for each layer of the view.
        sees: [count, count], which of the step's tokens see which; None: each sees all.
        base: of the rotary frequencies.
        first: position that the step's first token gets; the view's keys are turned, so that they end before it. None:
            where the view ends, and nothing is turned.
    """
    device, head_dim = view.keys.device, view.keys.shape[-1]
    keys = view.keys
    if first is None:
        first = view.next_position
    elif first != view.next_position:
        moved = torch.full((view.tokens,), first - view.next_position, device=device)
        keys = rotated(keys, Rotation.at(moved, head_dim, base))
    context_keys, context_values = [], []
    for number, layer in enumerate(layers):
        if layer.crosses:
            projected = layer.project(keys[number : number + 1], view.values[number : number + 1])
            context_keys.append(projected[0])
            context_values.append(projected[1])
        else:
            context_keys.append(_with_room(keys[number], count))
            context_values.append(_with_room(view.values[number], count))
    steps = torch.arange(count, device=device)
    bias = None if view.bias is None else view.bias.to(view.keys.dtype).expand(count, -1)
    return ExpertContext(
        tuple(context_keys),
        tuple(context_values),
        view.tokens,
        Rotation.at(first + steps, head_dim, base),
        Rotation.at(steps, head_dim, base),
        joint_mask(view, count, sees, view.keys.dtype),
        bias,
    )


def run_expert(
    layers: Sequence[DecoderLayer], tokens: Tensor, context: ExpertContext, condition: Tensor | None = None
) -> Tensor:
    """Return the tokens [1, T, width] of a step behind the last layer.

    Args:
        condition: of adaptive norms, [1, 1, condition].
    """
    for layer, keys, values in zip(layers, context.keys, context.values, strict=True):
        if layer.crosses:
            queries, gate = layer.queries(tokens, condition)
            attended = attend(rotated(queries, context.from_zero), keys, values, context.bias)
        else:
            queries, own_keys, own_values, gate = layer.heads(tokens, condition)
            keys[:, :, context.tokens :] = rotated(own_keys, context.rotation)
            values[:, :, context.tokens :] = own_values
            attended = attend(rotated(queries, context.rotation), keys, values, context.mask)
        tokens = layer.finish(tokens, attended, gate, condition)
    return tokens


def lay_out(layers: Sequence[DecoderLayer]) -> None:
    """Keep wide matrices by columns where that makes a step faster: the numbers stay.

    MKL's float32 product of a matrix that is wider at its output, with one token or fifty, reads columns a quarter
    faster than rows; in bfloat16 it is twenty times slower, so only float32 on a CPU is changed.
    """
    for layer in layers:
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
            weight = projection.weight
            if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkl.is_available():
                columns = weight.detach().t().contiguous().t()
                projection.weight = torch.nn.Parameter(columns, requires_grad=False)


def _with_room(tokens: Tensor, count: int) -> Tensor:
    """Return a copy [1, H, N + count, d] of tokens [H, N, d]; the last places are filled by every step."""
    heads, held, size = tokens.shape
    roomy = tokens.new_empty(1, heads, held + count, size)
    roomy[0, :, :held] = tokens
    return roomy
