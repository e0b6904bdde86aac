"""What can be set at the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_cache.gate import Gate
from kv_cache.policies import CachePolicy, make_policy
from kv_cache.tensor_file import file_digest


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine.

    Args:
        cache_policy: one of kv_cache.policies.POLICY_NAMES.
        sinks: first tokens of the episode that every policy but full and newest always keeps.
        recent: newest tokens that every policy but full always keeps; newest those of the newest observation.
        capacity: tokens that full can hold.
        max_sessions: robots that are served at most.
        contexts_kept: newest contexts of a session that flow steps may use: the old one, whose flow goes on until the
            new one has taken over, and one that was asked for again.
        chunk: tokens that are judged and summarised together.
        budget: most tokens that a policy with summaries holds.
        threshold: least score of a chunk that gated keeps.
        gate: of gated.
        keep_rate: share of the chunks that random keeps.
        seed: of its draws.

    Raises:
        ValueError: a number out of range, an unknown cache policy or a missing gate.
    """

    cache_policy: str
    sinks: int
    recent: int
    capacity: int
    max_sessions: int
    contexts_kept: int = 3
    chunk: int = 25
    budget: int = 256
    threshold: float = 0.5
    gate: Gate | None = None
    keep_rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("max_sessions", "contexts_kept"):
            if getattr(self, field) < 1:
                raise ValueError(f"engine: {field} is {getattr(self, field)}, it must be at least 1")
        self.policy()

    def policy(self) -> CachePolicy:
        """Return the cache policy that every session gets."""
        return make_policy(
            self.cache_policy,
            sinks=self.sinks,
            recent=self.recent,
            capacity=self.capacity,
            chunk=self.chunk,
            budget=self.budget,
            gate=self.gate,
            threshold=self.threshold,
            keep_rate=self.keep_rate,
            seed=self.seed,
        )


def trained_cache(training: Mapping[str, object]) -> Mapping[str, Any]:
    """Return the sizes of the cache that a gate was trained for, in tokens; empty where nothing is told.

    Args:
        training: how the gate was trained (see kv_cache.gate_file).
    """
    plan = training.get("plan")
    trained = plan.get("cache") if isinstance(plan, Mapping) else None
    return trained if isinstance(trained, Mapping) else {}


def differences(training: Mapping[str, object], options: EngineOptions, policy: Path | None) -> list[str]:
    """Return a sentence for every size of the cache, and for weights, that are not those that a gate was trained for.

    Args:
        training: how the gate was trained (see kv_cache.gate_file); nothing is said of what it does not tell.
        policy: file of the weights that run; None: they come from no file.
    """
    trained = trained_cache(training)
    sentences = [
        f"cache_{name} is {getattr(options, name)}, its gate was trained for {trained[name]}: it may choose badly"
        for name in ("sinks", "recent", "chunk")
        if trained.get(name, getattr(options, name)) != getattr(options, name)
    ]
    own = training.get("policy")
    if isinstance(own, Mapping) and (policy is None or own.get("sha256") != file_digest(policy)):
        others = "those of the model, which is no file" if policy is None else f"'{policy}'"
        sentences.append(
            f"the gate was trained for other weights of policy {own.get('name')} than {others}: it may choose "
            "badly, train one with 'streaming-vla train gate'"
        )
    return sentences
