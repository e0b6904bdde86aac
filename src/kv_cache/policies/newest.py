"""Keeps the newest append and nothing else: a policy without a history, whose observations differ in length."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kv_cache.policies.base import CachePolicy, Sizes


@dataclass(frozen=True)
class Newest(CachePolicy):
    """Every append takes the place of the one before it, however many tokens each has.

    A window of one observation would keep some tokens of the one before where the newest has fewer than the longest.

    Args:
        recent: tokens of the longest append; of a longer one the newest stay.

    Raises:
        ValueError: recent is not positive.
    """

    recent: int
    name = "newest"
    scored = False

    def __post_init__(self) -> None:
        if self.recent < 1:
            raise ValueError(f"cache policy newest: recent is {self.recent}, it must be at least 1 token")

    @property
    def sizes(self) -> Sizes:
        """Recent tokens."""
        return Sizes(0, self.recent)

    @property
    def least_score(self) -> float:
        """No score is enough."""
        return math.inf

    def staying(self, added: int) -> int:
        """Those that were added."""
        return min(added, self.recent)
