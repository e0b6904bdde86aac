"""Keeps the first tokens and the newest ones (attention sinks, arXiv 2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass

from kv_cache.policies.base import Span


@dataclass(frozen=True)
class Window:
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
    moves_tokens = True

    def __post_init__(self) -> None:
        if self.sinks < 0:
            raise ValueError(f"cache policy window: sinks is {self.sinks}, it must be 0 or more tokens")
        if self.recent < 1:
            raise ValueError(f"cache policy window: recent is {self.recent}, it must be at least 1 token")

    @property
    def max_tokens(self) -> int:
        """Sinks and recent tokens."""
        return self.sinks + self.recent

    @property
    def newest_tokens(self) -> int:
        """The recent tokens."""
        return self.recent

    def retain(self, held: int, added: int) -> tuple[Span, ...]:
        """Return one span while everything fits, then the sinks and the newest tokens."""
        total = held + added
        if total <= self.max_tokens:
            return ((0, total),)
        newest = (total - self.recent, total)
        return ((0, self.sinks), newest) if self.sinks else (newest,)
