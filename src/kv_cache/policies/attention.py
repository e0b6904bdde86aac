"""Keeps what has been looked at most (heavy hitters, H2O, arXiv 2306.14048), chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kv_cache.chunks import Chunks, Queries, State
from kv_cache.policies.chunked import Chunked

DECAY = 0.99  # per observation, so that scores stay bounded in an endless session and what once mattered can fade


@dataclass(frozen=True)
class Attention(Chunked):
    """A running sum of the attention that a token receives is its score; a summary inherits that of its tokens.

    With chunk = 1 it keeps single tokens, as H2O does. It costs a second pass over the cache per layer, because fused
    attention does not tell its weights; the reader reports its queries by CacheView.observe_queries.
    """

    name = "attention"
    reads_queries = True

    def score(self, chunks: Chunks, state: State) -> tuple[Tensor, State]:
        """Return what the tokens have received so far."""
        return chunks.mass, state

    def utilities(self, scores: Tensor, mass: Tensor) -> Tensor:
        """Return what the summaries have received up to now."""
        return mass

    def observe(self, queries: Queries, mass: Tensor, state: State) -> tuple[Tensor, State]:
        """Add the softmax weights of the queries over the cache, averaged over queries, heads and layers."""
        rotated = queries.rotated()
        batch, heads, count, size = rotated.shape
        kv_heads = queries.keys.shape[1]
        grouped = rotated.reshape(batch, kv_heads, heads // kv_heads * count, size)
        logits = (grouped @ queries.keys.transpose(-1, -2)).float() / size**0.5
        if queries.held is None:
            weights = logits.softmax(dim=-1)
        else:
            hidden = ~queries.held[:, None, None]
            # an empty cache has no weights to give: a softmax over nothing would be NaN
            weights = logits.masked_fill(hidden, -1e30).softmax(dim=-1).masked_fill(hidden, 0.0)
        decay = DECAY if queries.layer == 0 else 1.0
        return mass * decay + weights.mean(dim=(1, 2)).to(mass.dtype) / queries.layers, state
