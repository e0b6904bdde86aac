"""Keeps chunks by chance: what a gate is worth shows against the same number of random summaries."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kv_cache.chunks import Chunks, State
from kv_cache.policies.chunked import Chunked


@dataclass(frozen=True)
class Random(Chunked):
    """A chunk's score is drawn from its number and `seed`, so that a replay keeps the same chunks.

    Args:
        keep_rate: share of the chunks that is kept, 0 to 1.
        seed: of the draws, 0 to 2^32 - 1.

    Raises:
        ValueError: keep_rate or seed is out of range; see also Chunked.
    """

    keep_rate: float = field(default=0.1, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    name = "random"
    by_content = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.keep_rate <= 1.0:
            raise ValueError(f"cache policy random: keep_rate is {self.keep_rate}, it must be from 0 to 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"cache policy random: seed is {self.seed}, it must be from 0 to 2^32 - 1")

    @property
    def least_score(self) -> float:
        """Scores are even in [0, 1)."""
        return 1.0 - self.keep_rate

    def score(self, chunks: Chunks, state: State) -> tuple[Tensor, State]:
        """Mix the number of each chunk with the seed (the finaliser of MurmurHash3, 32 bits)."""
        number = chunks.first.unsqueeze(1) + torch.arange(chunks.mass.shape[1], device=chunks.first.device)
        mixed = (number + 0x9E3779B9 * (self.seed + 1)) & 0xFFFFFFFF
        for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
            mixed = ((mixed ^ (mixed >> shift)) * factor) & 0xFFFFFFFF
        mixed = mixed ^ (mixed >> 16)
        return (mixed >> 8).to(chunks.mass.dtype) / 2**24, state
