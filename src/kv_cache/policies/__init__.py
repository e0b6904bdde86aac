"""Cache policies, one per file, and the way to one by its name."""

from __future__ import annotations

from kv_cache.policies.base import CachePolicy
from kv_cache.policies.full import CacheFullError, Full
from kv_cache.policies.window import Window

POLICY_NAMES = ("full", "window")

__all__ = ["POLICY_NAMES", "CacheFullError", "CachePolicy", "Full", "Window", "make_policy"]


def make_policy(name: str, *, sinks: int, recent: int, capacity: int) -> CachePolicy:
    """Return the policy called `name`; sinks and recent are for window, capacity is for full, all in tokens.

    Raises:
        ValueError: an unknown name, or a number that the policy refuses.
    """
    if name == "full":
        return Full(capacity)
    if name == "window":
        return Window(sinks, recent)
    raise ValueError(f"cache policy '{name}' is unknown, choose one of {', '.join(POLICY_NAMES)}")
