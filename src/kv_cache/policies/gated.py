"""Keeps the chunks that a trained recurrent gate finds useful (KV-Efficient VLA, arXiv 2509.21354)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kv_cache.chunks import Chunks, State
from kv_cache.gate import Gate
from kv_cache.policies.chunked import Chunked
from kv_cache.spec import CacheSpec


@dataclass(frozen=True)
class Gated(Chunked):
    """A chunk is kept when the gate's score, 0 to 1, reaches the threshold.

    Args:
        gate: trained for this model; it also makes the summaries.
        threshold: least score that is kept: 0 keeps all, above 1 nothing.

    Raises:
        ValueError: threshold is not a number of 0 or more, or gate is none; see also Chunked.
    """

    gate: Gate = field(kw_only=True)
    threshold: float = field(default=0.5, kw_only=True)
    name = "gated"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.gate, Gate):
            raise ValueError(
                f"cache policy gated: gate is a {type(self.gate).__name__}, expected a Gate: load_gate(path).gate, or "
                "Gate(GateConfig.of(spec))"
            )
        if not self.threshold >= 0.0:
            raise ValueError(f"cache policy gated: threshold is {self.threshold}, it must be 0 or more")

    @property
    def least_score(self) -> float:
        """The threshold."""
        return self.threshold

    def check_spec(self, spec: CacheSpec) -> None:
        """Raise ValueError when the gate was trained for keys of another shape, or its weights are no numbers."""
        made, given = self.gate.config, (spec.layers, spec.kv_heads, spec.head_dim)
        if (made.layers, made.kv_heads, made.head_dim) != given:
            raise ValueError(
                f"cache policy gated: the gate's weights are for {made.layers} layers of {made.kv_heads} x "
                f"{made.head_dim} numbers, the cache has {given[0]} layers of {given[1]} x {given[2]}; load the gate "
                "that was trained for this model"
            )
        for name, weights in self.gate.named_parameters():
            if not weights.is_meta and not bool(torch.isfinite(weights).all()):
                raise ValueError(f"cache policy gated: the gate's weights {name} are not finite; load them again")

    def start(self, spec: CacheSpec, batch: int, device: torch.device) -> State:
        """Return the gate's state.

        Raises:
            ValueError: the gate's weights are on another device.
        """
        place = self.gate.head.weight.device
        if "meta" not in (device.type, place.type) and device.type != place.type:
            raise ValueError(f"cache policy gated: the gate is on {place}, the cache on {device}; move the gate there")
        return self.gate.start(batch, device)

    def score(self, chunks: Chunks, state: State) -> tuple[Tensor, State]:
        """Return the gate's scores."""
        logits, state = self.gate(chunks.keys[:, self.gate.config.layer], state, chunks.count)
        return logits.sigmoid().float(), state

    def summarise(self, chunks: Chunks) -> tuple[Tensor, Tensor]:
        """Return what the gate's summary makes of every chunk."""
        keys, values = self.gate.summary(chunks.keys, chunks.values)
        return keys, values
