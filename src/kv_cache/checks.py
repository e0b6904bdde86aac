"""What is asked of tokens and queries before they enter a cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kv_cache.spec import CacheSpec


def is_finite(numbers: Tensor) -> bool:
    """Return whether all numbers are finite; where their sum is, which takes less time to tell, they are."""
    return math.isfinite(float(numbers.sum())) or bool(torch.isfinite(numbers).all())


def check_tokens(who: str, name: str, tokens: Tensor, spec: CacheSpec, device: torch.device, batch: int = 0) -> Tensor:
    """Return tokens in the cache's number format, after every check.

    Args:
        who: says what refuses.
        name: what the tokens are called.
        tokens: [L, Hkv, T, d], or [batch, L, Hkv, T, d] when batch is not 0.

    Raises:
        ValueError: another device or shape, no token, no floating point format, or numbers that are not finite.
    """
    lead = (batch,) if batch else ()
    sizes = (*lead, spec.layers, spec.kv_heads, spec.head_dim)
    shape = tuple(tokens.shape)
    if shape[:-2] + shape[-1:] != sizes or not shape[-2]:
        wanted = ", ".join(map(str, (*sizes[:-1], "tokens", sizes[-1])))
        raise ValueError(f"{who}: {name} have shape {shape}, expected ({wanted}) with at least one token")
    if tokens.device.type != device.type:
        raise ValueError(f"{who}: {name} are on {tokens.device}, expected {device}; move them there first")
    if not tokens.dtype.is_floating_point:
        raise ValueError(f"{who}: {name} have dtype {tokens.dtype}, expected a floating point format")
    # a narrow format is entered before the check, so that a number too large for it is found
    tokens = tokens.to(spec.dtype)
    if not is_finite(tokens):
        raise ValueError(f"{who}: {name} are not finite, they would spoil every later step of the session")
    return tokens


def check_queries(layer: int, queries: Tensor, spec: CacheSpec, batch: int = 0) -> None:
    """Check queries that are reported to a cache.

    Args:
        queries: [Hq, Q, d], or [batch, Hq, Q, d] when batch is not 0.

    Raises:
        ValueError: an unknown layer, another shape, or numbers that are not finite.
    """
    sizes = (*((batch,) if batch else ()), spec.query_heads or spec.kv_heads, spec.head_dim)
    shape = tuple(queries.shape)
    if not 0 <= layer < spec.layers or shape[:-2] + shape[-1:] != sizes:
        wanted = ", ".join(map(str, (*sizes[:-1], "queries", sizes[-1])))
        raise ValueError(
            f"observe_queries: layer {layer} with shape {shape}, expected a layer below {spec.layers} and shape "
            f"({wanted})"
        )
    if not is_finite(queries):
        raise ValueError(f"observe_queries: the queries of layer {layer} are not finite, they would spoil every score")
