"""What is compared: our policies and gates, and presses of kvpress, each holding the same number of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kv_cache import Attention, CachePolicy, Expected, Mean, Window
from kv_cache.heads import HeadGate

SINKS, CHUNK = 4, 16
NEWEST = 0.75  # share of a budget that a cache per head gives to the newest tokens, chosen on one page not reported
# name: source, and whether it decides without having seen the question (the last tokens of the prompt)
METHODS = {
    "full": ("transformers", True),
    "gated": ("ours", True),
    "gated, without age": ("ours", True),
    "window": ("ours", True),
    "mean": ("ours", True),
    "attention": ("ours", True),
    "expected": ("ours", True),
    "random": ("ours", True),
    "oldest": ("ours", True),
    "StreamingLLM": ("kvpress", True),
    "SnapKV": ("kvpress", False),
    "ExpectedAttention": ("kvpress", True),
    "Knorm": ("kvpress", True),
}


class Ranked(HeadGate):
    """A gate that has not learned: ranks tokens at random, or the oldest first."""

    def __init__(self, like: HeadGate, rank: str) -> None:
        super().__init__(like.config)
        self.rank = rank

    def forward(self, tokens: Tensor, layers: slice = slice(None)) -> Tensor:
        """Return noise, one number per token and head."""
        shape = tokens.shape[:-1]
        return torch.rand(shape, generator=torch.Generator().manual_seed(shape[-1])) * (self.rank == "random")

    def of_age(self, age: Tensor, layers: slice = slice(None)) -> Tensor:
        """Return the age where the oldest are to stay."""
        return age * float(self.rank == "oldest")


class Ageless(HeadGate):
    """A trained gate that only looks at what a token is."""

    def of_age(self, age: Tensor, layers: slice = slice(None)) -> Tensor:
        """Return nothing."""
        return torch.zeros_like(age, dtype=torch.float32)


def ours(name: str, budget: int, gate: HeadGate) -> CachePolicy | HeadGate | str:
    """Return what makes the cache of one of our methods."""
    if name == "full":
        return "full"
    if name == "gated":
        return gate
    if name in ("random", "oldest"):
        return Ranked(gate, name)
    if name == "gated, without age":
        ageless = Ageless(gate.config)
        ageless.load_state_dict(gate.state_dict())
        return ageless
    if name == "window":
        return Window(SINKS, budget - SINKS)
    # half of the budget for summaries, half for the newest; single tokens word for word where the paper has them
    kind, chunk = {"mean": (Mean, CHUNK), "attention": (Attention, 1), "expected": (Expected, 1)}[name]
    return kind(SINKS, budget // 2 - SINKS - chunk + 1, chunk, budget)


def presses(budgets: list[int], total: int, names: list[str]) -> dict[str, Any]:
    """Return kvpress's presses for prompts of `total` tokens, by 'name budget'."""
    wanted = [name for name in names if METHODS[name][0] == "kvpress"]
    if not wanted:
        return {}
    import kvpress

    made: dict[str, Any] = {}
    for budget in budgets:
        for name in wanted:
            press = getattr(kvpress, f"{name}Press")(compression_ratio=1.0 - budget / total)
            made[f"{name} {budget}"] = press
    return made
