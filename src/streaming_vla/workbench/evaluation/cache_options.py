"""What is kept of a policy's history: a cache policy, its sizes and its gate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kv_cache.gate_file import load_gate
from kv_cache.policies import CachePolicy
from kv_cache.tensor_file import file_digest
from streaming_vla.engine.options import EngineOptions, trained_cache
from streaming_vla.policies.contract import PolicySpec


@dataclass(frozen=True)
class CacheOptions:
    """A cache policy and its sizes, in tokens; what the policy has no use for is ignored.

    Args:
        policy: one of kv_cache.policies.POLICY_NAMES.
        sinks: first tokens that always stay.
        recent: newest tokens that always stay; 0: one observation.
        chunk: tokens that are judged together; 0: one observation.
        budget: most tokens that a policy with summaries holds.
        capacity: tokens that full can hold.
        gate: file of the gate of gated.
        threshold: least score that gated keeps; None: as calibrated with the gate.
        keep_rate: share of the chunks that random keeps.
    """

    policy: str = "window"
    sinks: int = 0
    recent: int = 0
    chunk: int = 0
    budget: int = 256
    capacity: int = 16_384
    gate: str = ""
    threshold: float | None = None
    keep_rate: float = 0.1

    def engine(self, spec: PolicySpec, seed: int = 0) -> EngineOptions:
        """Return the options of an engine that serves one robot.

        Args:
            seed: of the episode: random keeps other chunks in another one.

        Raises:
            ValueError: an unknown policy, a number out of range, or a gate that is missing or cannot be used.
        """
        block = spec.tokens_per_observation
        recent = self.recent or block
        if recent < block:
            raise ValueError(f"cache: recent is {recent} tokens, below the {block} of an observation of {spec.name}")
        loaded = load_gate(Path(self.gate)) if self.gate and self.policy == "gated" else None
        threshold = self.threshold
        if threshold is None:
            threshold = 0.5 if loaded is None else loaded.threshold
        return EngineOptions(
            cache_policy=self.policy,
            sinks=self.sinks,
            recent=recent,
            capacity=self.capacity,
            max_sessions=1,
            chunk=self.chunk or block,
            budget=self.budget,
            threshold=threshold,
            gate=None if loaded is None else loaded.gate,
            keep_rate=self.keep_rate,
            seed=seed,
        )

    def build(self, spec: PolicySpec, seed: int = 0) -> CachePolicy:
        """Return the cache policy for a model in the episode of `seed`.

        Raises:
            ValueError: as of `engine`, or the gate is another model's.
        """
        policy = self.engine(spec, seed).policy()
        policy.check_spec(spec.cache)
        return policy

    def with_gate_digest(self) -> CacheOptions:
        """Return the options with a hash of the gate in the place of its file, to tell results of two gates apart."""
        if not self.gate:
            return self
        return replace(self, gate=file_digest(Path(self.gate))[:16])


NEWEST_ONLY = CacheOptions()


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
        return CacheOptions(policy, sinks or 0, recent or 0, chunk or 0, budget)
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
    return CacheOptions("gated", sizes["sinks"], sizes["recent"], sizes["chunk"], budget, gate=str(gate))
