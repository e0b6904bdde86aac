"""No Python loop runs over heads or tokens: ten times as many of them are the same work for the interpreter."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest
import torch

from kv_cache import CacheSpec, Gate, GateConfig, SessionCache, make_policy
from kv_cache.policies import POLICY_NAMES

CHUNKS = 12


def steps(name: str, heads: int, chunk: int) -> int:
    """Return how many calls an append and a view take that make `CHUNKS` chunks leave the window."""
    spec = CacheSpec(layers=2, kv_heads=heads, head_dim=4)
    torch.manual_seed(0)
    gate = Gate(GateConfig.of(spec, width=8, hidden=8)).eval().requires_grad_(False)
    sizes = {"sinks": 4, "recent": 2 * chunk, "capacity": 10**6, "chunk": chunk, "budget": 10**5}
    cache = SessionCache(spec, make_policy(name, **sizes, gate=gate, threshold=0.0, keep_rate=1.0))  # type: ignore[arg-type]
    cache.append(*torch.randn(2, 2, heads, 4 + 2 * chunk, 4))
    tokens = torch.randn(2, 2, heads, CHUNKS * chunk, 4)
    counted = 0

    def count(_frame: Any, _event: str, _argument: Any) -> None:
        nonlocal counted
        counted += 1

    gc.disable()  # what others have it call would be counted
    sys.setprofile(count)
    try:
        cache.append(*tokens)
        cache.view()
    finally:
        sys.setprofile(None)
        gc.enable()
    return counted


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_work_grows_with_neither_heads_nor_tokens(name: str) -> None:
    base = steps(
        name, heads=1, chunk=50
    )  # so large that the first window has outgrown its rotations, as any larger has
    assert steps(name, heads=1, chunk=500) == base
    assert steps(name, heads=10, chunk=50) == base
