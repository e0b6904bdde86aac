"""Caches of evaluations by name: with the sizes that a gate was trained for, or with room for a whole episode."""

from __future__ import annotations

from pathlib import Path

from kv_cache.gate_file import load_gate
from kv_cache.policies import CachePolicy
from kv_cache.tensor_file import file_digest
from streaming_vla.engine.cache import engine_options, trained_cache
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.contract import PolicySpec

NEWEST_ONLY = CacheOptions()
FULL = CacheOptions(cache_policy="full", cache_capacity=16_384)  # what others are compared with must never be full


def fitted(cache: CacheOptions, spec: PolicySpec, seed: int = 0) -> CachePolicy:
    """Return the cache policy for a model in the episode of `seed`: random keeps other chunks in another one.

    Raises:
        ValueError: a number that the cache policy refuses, a gate that is missing or another model's, or a window
            below one observation.
    """
    policy = engine_options(cache, spec.tokens_per_observation, seed=seed, device=spec.device).policy()
    policy.check_spec(spec.cache)
    if policy.newest_tokens < spec.tokens_per_observation:
        raise ValueError(
            f"cache_recent is {cache.cache_recent} tokens, below the {spec.tokens_per_observation} of an observation "
            f"of {spec.name}"
        )
    return policy


def with_gate_digest(cache: CacheOptions) -> CacheOptions:
    """Return the options with a hash of the gate in the place of its file, to tell results of two gates apart."""
    return cache.changed(cache_gate=file_digest(Path(cache.cache_gate))[:16]) if cache.cache_gate else cache


def choose_cache(
    policy: str,
    gate: Path | None,
    budget: int,
    sinks: int | None = None,
    recent: int | None = None,
    chunk: int | None = None,
) -> CacheOptions:
    """Return a cache by its name; sizes that are None are those that its gate was trained for, else 0.

    Raises:
        ValueError: gated without a gate, a gate without gated, or see gated_cache.
    """
    if policy != "gated" and gate is not None:
        raise ValueError(f"cache {policy} has no gate: choose cache gated for '{gate}'")
    if policy != "gated":
        plain = FULL.changed(cache_policy=policy, cache_budget=budget)
        return plain.changed(cache_sinks=sinks or 0, cache_recent=recent or 0, cache_chunk=chunk or 0)
    if gate is None:
        raise ValueError("cache gated needs a gate, a name or a file: --gate compact_mt10_gate is the shipped policy's")
    return gated_cache(gate, budget, sinks, recent, chunk)


def gated_cache(
    gate: Path, budget: int, sinks: int | None = None, recent: int | None = None, chunk: int | None = None
) -> CacheOptions:
    """Return the cache that a gate was trained for.

    Args:
        budget: most tokens that it holds; a gate is trained for none.
        sinks, recent, chunk: in the place of those that the gate was trained for.

    Raises:
        ValueError: the file cannot be used as a gate, or does not tell for which cache it was trained.
    """
    asked = {"sinks": sinks, "recent": recent, "chunk": chunk}
    sizes = {**trained_cache(load_gate(gate).training)} | {n: size for n, size in asked.items() if size is not None}
    if not asked.keys() <= sizes.keys():
        raise ValueError(
            f"gate '{gate}' does not tell for which cache it was trained, expected sinks, recent and chunk of its "
            "plan: train it with 'streaming-vla train gate', or give all three"
        )
    named = {f"cache_{name}": sizes[name] for name in asked}
    return FULL.changed(cache_policy="gated", cache_budget=budget, cache_gate=str(gate), **named)
