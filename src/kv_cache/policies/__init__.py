"""Cache policies, one per file, and the way to one by its name."""

from __future__ import annotations

import math

from kv_cache.gate import Gate
from kv_cache.policies.attention import Attention
from kv_cache.policies.base import CachePolicy
from kv_cache.policies.chunked import Chunked
from kv_cache.policies.expected import Expected
from kv_cache.policies.full import CacheFullError, Full
from kv_cache.policies.gated import Gated
from kv_cache.policies.mean import Mean
from kv_cache.policies.newest import Newest
from kv_cache.policies.random import Random
from kv_cache.policies.window import Window

POLICY_NAMES = ("full", "window", "newest", "gated", "mean", "random", "attention", "expected")

__all__ = [
    "POLICY_NAMES",
    "Attention",
    "CacheFullError",
    "CachePolicy",
    "Chunked",
    "Expected",
    "Full",
    "Gated",
    "Mean",
    "Newest",
    "Random",
    "Window",
    "make_policy",
]


def make_policy(
    name: str,
    *,
    sinks: int,
    recent: int,
    capacity: int,
    chunk: int = 1,
    budget: int = 0,
    gate: Gate | None = None,
    threshold: float = 0.5,
    keep_rate: float = 0.1,
    seed: int = 0,
    exact: float = math.inf,
) -> CachePolicy:
    """Return the policy called `name`; numbers that it has no use for are ignored.

    Args:
        sinks, recent, chunk, budget: tokens, see Window, Newest and Chunked.
        capacity: tokens, of full.
        gate, threshold: of gated.
        keep_rate, seed: of random.
        exact: score from which a policy with chunks keeps them word for word.

    Raises:
        ValueError: an unknown name, a missing gate, or a number that the policy refuses.
    """
    if name == "full":
        return Full(capacity)
    if name == "window":
        return Window(sinks, recent)
    if name == "newest":
        return Newest(recent)
    if name == "gated":
        if gate is None:
            raise ValueError("cache policy gated needs the weights of a gate, none are given")
        return Gated(sinks, recent, chunk, budget, gate=gate, threshold=threshold, exact=exact)
    if name == "random":
        return Random(sinks, recent, chunk, budget, keep_rate=keep_rate, seed=seed, exact=exact)
    others: dict[str, type[Chunked]] = {"mean": Mean, "attention": Attention, "expected": Expected}
    if name not in others:
        raise ValueError(f"cache policy '{name}' is unknown, choose one of {', '.join(POLICY_NAMES)}")
    return others[name](sinks, recent, chunk, budget, exact=exact)
