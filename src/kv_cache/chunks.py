"""What a policy is shown: the chunks that leave the recent window, and the queries that read the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

State = tuple[Tensor, ...]  # what a policy remembers of every session, each tensor [B, ...]


@dataclass(frozen=True)
class Chunks:
    """n chunks of C tokens, the oldest first.

    Args:
        keys: [B, L, Hkv, n, C, d], before rotation.
        values: [B, L, Hkv, n, C, d].
        first: [B], number of the first of them since the session began.
        count: [B], how many of them are real: the first ones; the others are padding; None: all are.
        mass: [B, n], attention that their tokens have received so far; zero where nobody reports queries.
    """

    keys: Tensor
    values: Tensor
    first: Tensor
    count: Tensor | None
    mass: Tensor


@dataclass(frozen=True)
class Queries:
    """The queries of one layer, on their way to attention over a cache.

    Args:
        layer: its number, of `layers`.
        heads: [B, Hq, Q, d], before rotation.
        rotated: gives [B, Hq, Q, d], at their positions behind the cache.
        keys: [B, Hkv, N, d], the cache's, rotated.
        held: [B, N], True where the cache holds a token; None: everywhere.
    """

    layer: int
    layers: int
    heads: Tensor
    rotated: Callable[[], Tensor]
    keys: Tensor
    held: Tensor | None
