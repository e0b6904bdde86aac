"""Keeps every token, up to a capacity."""

from __future__ import annotations

from dataclasses import dataclass

from kv_cache.policies.base import CachePolicy, Sizes


class CacheFullError(RuntimeError):
    """The tokens of an append do not fit and the policy may drop none."""


@dataclass(frozen=True)
class Full(CachePolicy):
    """The reference that other policies are measured against: nothing is lost, and memory has an end.

    Args:
        capacity: tokens that fit.

    Raises:
        ValueError: capacity is not positive.
    """

    capacity: int
    name = "full"
    scored = False
    moves_tokens = False

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"cache policy full: capacity is {self.capacity}, it must be at least 1 token")

    @property
    def sizes(self) -> Sizes:
        """Nothing but recent tokens."""
        return Sizes(sinks=0, recent=self.capacity)

    @property
    def remembers(self) -> bool:
        """Everything."""
        return True

    def check_room(self, held: int, added: int) -> None:
        """Raise CacheFullError when the tokens do not fit."""
        if held + added > self.capacity:
            raise CacheFullError(
                f"cache policy full: {held} tokens are held and {added} more do not fit into the capacity of "
                f"{self.capacity}; raise the capacity or use cache policy window, which drops the oldest"
            )
