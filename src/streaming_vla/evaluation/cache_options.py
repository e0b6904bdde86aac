"""Which cache a pilot flies with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kv_cache.gate_file import load_gate
from kv_cache.policies import CachePolicy, make_policy
from streaming_vla.policy.contract import PolicySpec


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

    def build(self, spec: PolicySpec) -> CachePolicy:
        """Return the cache policy for a model.

        Raises:
            ValueError: an unknown policy, a number out of range, or a missing or another model's gate.
        """
        block = spec.tokens_per_observation
        recent = self.recent or block
        if recent < block:
            raise ValueError(f"cache: recent is {recent} tokens, below the {block} of an observation of {spec.name}")
        loaded = load_gate(Path(self.gate)) if self.gate and self.policy == "gated" else None
        threshold = self.threshold
        if threshold is None:
            threshold = 0.5 if loaded is None else loaded.threshold
        policy = make_policy(
            self.policy,
            sinks=self.sinks,
            recent=recent,
            capacity=self.capacity,
            chunk=self.chunk or block,
            budget=self.budget,
            gate=None if loaded is None else loaded.gate,
            threshold=threshold,
            keep_rate=self.keep_rate,
        )
        policy.fit(spec.cache)
        return policy
