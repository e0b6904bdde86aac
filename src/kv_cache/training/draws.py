"""What says which chunks are kept: hard draws in training, a threshold or a constant in validation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kv_cache.one_pass import Fate
from kv_cache.sampling import hard_sample

ALIKE = 0.01  # of scores

Draw = Callable[[Tensor], Fate]  # from the gate's logits [B, n] to the fate of the chunks


def draw_hard(generator: torch.Generator) -> Draw:
    """Return hard draws with the noise of `generator`."""

    def hard(logits: Tensor) -> Fate:
        uniform = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1.0 - 1e-6)
        return Fate(*hard_sample(logits, uniform.log() - (-uniform).log1p()))

    return hard


def keep_none(logits: Tensor) -> Fate:
    """Drop every chunk: a plain window."""
    return Fate.of(torch.zeros_like(logits, dtype=torch.bool))


def keep_all(logits: Tensor) -> Fate:
    """Keep every chunk."""
    return Fate.of(torch.ones_like(logits, dtype=torch.bool))


def keep_from(threshold: float) -> Draw:
    """Return what a cache does: chunks whose score reaches the threshold are kept."""
    return lambda logits: Fate.of(logits.sigmoid() >= threshold)


def check_apart(scores: Tensor) -> None:
    """Refuse a gate that judges all chunks alike; scores are 0 where there is no chunk.

    Raises:
        ValueError: they lie within ALIKE.
    """
    there = scores[scores > 0]
    if not len(there) or float(there.max() - there.min()) < ALIKE:
        raise ValueError(
            f"gate: its scores of all chunks lie within {ALIKE}, so it has not learned what to keep: train again with "
            "another seed or a lower learning.gate_rate"
        )
