"""What can be set at the engine."""

from __future__ import annotations

from dataclasses import dataclass

from kv_cache.policies import CachePolicy, make_policy


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine.

    Args:
        cache_policy: full or window.
        sinks: first tokens of the episode that window always keeps.
        recent: newest tokens that window keeps.
        capacity: tokens that full can hold.
        max_sessions: robots that are served at most.
        contexts_kept: newest contexts of a session that flow steps may use; 2 lets the flow of the old
            context go on until the new one has taken over.

    Raises:
        ValueError: a number out of range or an unknown cache policy.
    """

    cache_policy: str
    sinks: int
    recent: int
    capacity: int
    max_sessions: int
    contexts_kept: int = 2

    def __post_init__(self) -> None:
        for field in ("max_sessions", "contexts_kept"):
            if getattr(self, field) < 1:
                raise ValueError(f"engine: {field} is {getattr(self, field)}, it must be at least 1")
        self.policy()

    def policy(self) -> CachePolicy:
        """Return the cache policy that every session gets."""
        return make_policy(self.cache_policy, sinks=self.sinks, recent=self.recent, capacity=self.capacity)
