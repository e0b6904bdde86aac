"""Keeps the first tokens and the newest ones (StreamingLLM's attention sinks, arXiv 2309.17453)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kv_cache.policies.base import CachePolicy, Sizes


@dataclass(frozen=True)
class Window(CachePolicy):
    """Bounded for ever: what lies between the sinks and the recent tokens is dropped, positions close the gap.

    Args:
        sinks: first tokens of the episode that always stay; may be 0.
        recent: newest tokens that stay.

    Raises:
        ValueError: sinks is negative or recent is not positive.
    """

    sinks: int
    recent: int
    name = "window"
    scored = False

    def __post_init__(self) -> None:
        check_window(self.name, self.sinks, self.recent)

    @property
    def sizes(self) -> Sizes:
        """Sinks and recent tokens."""
        return Sizes(self.sinks, self.recent)

    @property
    def least_score(self) -> float:
        """No score is enough."""
        return math.inf


def check_window(name: str, sinks: int, recent: int) -> None:
    """Raise ValueError when sinks is negative or recent is not positive."""
    if sinks < 0:
        raise ValueError(f"cache policy {name}: sinks is {sinks}, it must be 0 or more tokens")
    if recent < 1:
        raise ValueError(f"cache policy {name}: recent is {recent}, it must be at least 1 token")
