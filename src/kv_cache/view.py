"""What a cache shows and tells: views for attention, statistics and snapshots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kv_cache.chunks import State
from kv_cache.policies.base import CachePolicy
from kv_cache.rotary import angles, apply_rotary
from kv_cache.spec import CacheSpec


@dataclass(frozen=True)
class CacheView:
    """What attention reads; it stays as it is for as long as it is held, whatever its session goes on to.

    Args:
        keys: [L, Hkv, N, d], rotated at their positions.
        values: [L, Hkv, N, d].
        next_position: position of the first token after the view.
        bias: [N], to be added to attention logits; None unless the policy has log_count.
        observe_queries: None, or to be called by whoever extends the session, before the append, once for every
            layer that attends to the view: with the layer's number and its queries [Hq, Q, d] before rotation, the
            first of them at next_position. A layer that has reported on this view is not counted again.
    """

    keys: Tensor
    values: Tensor
    next_position: int
    bias: Tensor | None = None
    observe_queries: Callable[[int, Tensor], None] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens N."""
        return self.keys.shape[2]

    def reanchored(self, spec: CacheSpec, newest: int = 0) -> CacheView:
        """Return the view with its last `newest` tokens at positions 0 .. newest - 1, what is older at negative ones.

        For models that read absolute positions, or that have only seen one observation: it stands where it stood in
        training. Attention between rotated queries and keys depends on distances only and stays as it is. It costs one
        turn of all keys.

        Args:
            spec: of the cache.
            newest: tokens of the newest observation; 0 for a view that it is to follow.

        Raises:
            ValueError: the view does not hold so many tokens.
        """
        if not 0 <= newest <= self.tokens:
            raise ValueError(f"reanchored: newest is {newest}, the view holds {self.tokens} tokens")
        device = self.keys.device
        shift = torch.tensor([newest - self.next_position], device=device)
        frequencies = torch.tensor(spec.frequencies, dtype=torch.float64, device=device)
        return replace(self, keys=apply_rotary(self.keys, *angles(shift, frequencies)), next_position=newest)


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds, next to what an uncompressed one would; the fields are those of KvCacheStats.msg."""

    policy: str
    tokens: int
    bytes: int
    allocated_bytes: int
    full_tokens: int
    full_bytes: int
    chunks_kept: int = 0
    chunks_dropped: int = 0
    chunks_evicted: int = 0
    scores: tuple[float, ...] = ()
    flops_saved: int = 0  # of attention, per query token


@dataclass(frozen=True)
class Ledger:
    """What a session has come to, in numbers.

    Args:
        sinks, recents: tokens held of each kind.
        full_tokens: tokens since the session began.
        numbers: of the chunks that are held, ascending.
        scores: of these chunks.
        lengths: tokens of each: 1 is its summary, more are its own.
        kept, dropped, evicted: chunks since the session began; evicted ones were kept before.
        newest_scores: of the newest chunks, newest last; empty where scores say nothing.
    """

    sinks: int = 0
    recents: int = 0
    full_tokens: int = 0
    numbers: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    kept: int = 0
    dropped: int = 0
    evicted: int = 0
    newest_scores: tuple[float, ...] = ()

    @property
    def memory(self) -> int:
        """Tokens held of older chunks."""
        return sum(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self.sinks + self.memory + self.recents

    def positions(self, chunk: int) -> int:
        """Return how many positions are in use: a chunk of `chunk` tokens keeps all of its own."""
        return self.sinks + chunk * len(self.numbers) + self.recents


@dataclass(frozen=True)
class CacheSnapshot:
    """A copy of a cache's contents; `keys` are unrotated where the policy moves tokens, else rotated."""

    policy: CachePolicy
    keys: Tensor
    values: Tensor
    ledger: Ledger
    mass: Tensor
    state: State
    spec: CacheSpec
