"""Keeps a summary of every chunk: the baseline that a gate has to beat in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from kv_cache.policies.chunked import Chunked


@dataclass(frozen=True)
class Mean(Chunked):
    """Every chunk becomes its mean; when the budget is used up the oldest summary goes."""

    name = "mean"
    scored = False
