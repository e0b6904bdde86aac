"""The interface of a cache policy: which tokens live on when new ones arrive."""

from __future__ import annotations

from typing import Protocol

Span = tuple[int, int]  # tokens start..stop-1


class CachePolicy(Protocol):
    """Decides, by place in the sequence, which tokens a cache keeps; holds no state of a session."""

    @property
    def name(self) -> str:
        """What parameters and messages call it."""

    @property
    def max_tokens(self) -> int:
        """Most tokens that it ever keeps; the cache reserves memory for so many."""

    @property
    def newest_tokens(self) -> int:
        """Newest tokens that are certain to live on as they are; an observation must fit into them."""

    @property
    def moves_tokens(self) -> bool:
        """True when a kept token may get another position; the cache then stores keys before rotation as well."""

    def retain(self, held: int, added: int) -> tuple[Span, ...]:
        """Return the spans that live on, ascending and apart, as places in [held tokens | added tokens].

        Kept tokens take the positions 0, 1, 2, ... in that order.

        Raises:
            CacheFullError: the policy drops nothing and has no room for the added tokens.
        """
