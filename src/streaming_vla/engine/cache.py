"""The options of a KV cache made ready for one policy: sizes that are left open are filled in, the gate is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kv_cache.gate_file import LoadedGate, load_gate
from kv_cache.policies import CachePolicy, make_policy
from kv_cache.tensor_file import file_digest
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.models import find_model

RETUNED = ("cache_budget", "cache_threshold")  # what can change while sessions are open


@dataclass(frozen=True)
class EngineOptions:
    """What the engine makes sessions with.

    Args:
        cache: with no size and no threshold left open.
        max_sessions: robots that are served at most.
        gate: of cache policy gated.
        seed: of the draws of cache policy random.
        contexts_kept: newest contexts of a session that flow steps may use: the old one, whose flow goes on until the
            new one has taken over, and one that was asked for again.

    Raises:
        ValueError: a number that the cache policy refuses, or a missing gate.
    """

    cache: CacheOptions
    max_sessions: int
    gate: LoadedGate | None = None
    seed: int = 0
    contexts_kept: int = 3

    def __post_init__(self) -> None:
        for field in ("max_sessions", "contexts_kept"):
            if getattr(self, field) < 1:
                raise ValueError(f"engine: {field} is {getattr(self, field)}, it must be at least 1")
        self.policy()

    def policy(self) -> CachePolicy:
        """Return the cache policy that every session gets."""
        cache = self.cache
        return make_policy(
            cache.cache_policy,
            sinks=cache.cache_sinks,
            recent=cache.cache_recent,
            capacity=cache.cache_capacity,
            chunk=cache.cache_chunk,
            budget=cache.cache_budget,
            gate=None if self.gate is None else self.gate.gate,
            threshold=cache.cache_threshold,
            keep_rate=cache.cache_keep_rate,
            seed=self.seed,
            exact=cache.cache_exact if cache.cache_exact >= 0.0 else math.inf,
        )

    def retuned(self, cache: CacheOptions) -> EngineOptions:
        """Return the same with the budget and the threshold of `cache`.

        Raises:
            ValueError: a number that the cache policy refuses.
        """
        filled = _filled(cache, self.cache.cache_recent, self.gate)
        changes = {name: getattr(filled, name) for name in RETUNED}
        return replace(self, cache=self.cache.changed(**changes))


def engine_options(
    cache: CacheOptions, tokens: int, max_sessions: int = 1, seed: int = 0, device: str = "cpu"
) -> EngineOptions:
    """Return what the options stand for with a policy.

    Args:
        tokens: of one observation of the policy.
        device: of its tokens, where the gate has to be.

    Raises:
        ValueError: a number that the cache policy refuses, or a gate that is missing or cannot be used.
    """
    gate = load_gate(find_model(cache.cache_gate)) if cache.cache_gate else None
    if gate is not None:
        gate.gate.to(device)
    return EngineOptions(_filled(cache, tokens, gate), max_sessions, gate, seed)


def _filled(cache: CacheOptions, tokens: int, gate: LoadedGate | None) -> CacheOptions:
    threshold = cache.cache_threshold
    if threshold < 0.0:
        threshold = 0.0 if gate is None else gate.threshold
    sizes = CacheOptions(**{name: getattr(cache, name) for name in CacheOptions.declared})
    return sizes.changed(
        cache_recent=cache.cache_recent or tokens, cache_chunk=cache.cache_chunk or tokens, cache_threshold=threshold
    )


def trained_cache(training: Mapping[str, object]) -> Mapping[str, Any]:
    """Return the sizes of the cache that a gate was trained for, in tokens; empty where nothing is told.

    Args:
        training: how the gate was trained (see kv_cache.gate_file).
    """
    plan = training.get("plan")
    trained = plan.get("cache") if isinstance(plan, Mapping) else None
    return trained if isinstance(trained, Mapping) else {}


def differences(training: Mapping[str, object], cache: CacheOptions, policy: Sequence[Path]) -> list[str]:
    """Return a sentence for every size of the cache, and for weights, that are not those that a gate was trained for.

    Args:
        training: how the gate was trained (see kv_cache.gate_file); nothing is said of what it does not tell.
        cache: with no size left open (EngineOptions.cache).
        policy: files of the weights that run.
    """
    trained = trained_cache(training)
    sizes = {name: getattr(cache, f"cache_{name}") for name in ("sinks", "recent", "chunk")}
    sentences = [
        f"cache_{name} is {size}, its gate was trained for {trained[name]}: it may choose badly"
        for name, size in sizes.items()
        if trained.get(name, size) != size
    ]
    own = training.get("policy")
    if isinstance(own, Mapping) and own.get("sha256") not in [file_digest(file) for file in policy]:
        named = " and ".join(f"'{file}'" for file in policy) or "those of this model"
        sentences.append(
            f"the gate was trained for other weights of policy {own.get('name')} than {named}: it may choose badly, "
            "train one with 'streaming-vla train gate'"
        )
    return sentences
