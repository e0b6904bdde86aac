"""A gate for every key head: how much attention a token will get from the queries to come, by what it is and its age.

One decision for all heads is a compromise between heads that look at the last words and heads that look names up. Here
each head keeps the tokens that it will read. Every head keeps as many, so that they fit into one tensor.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kv_cache.spec import CacheSpec

MIDDLE = 8.0  # log2 of an age in the middle of what is met: 256 tokens


@dataclass(frozen=True)
class HeadGateConfig:
    """Shape of a gate.

    Args:
        layers, kv_heads, head_dim: of the cache.
        hidden: features of a token per head.
        longest: largest age that it was trained on; older tokens count as this old.

    Raises:
        ValueError: a size is not positive.
    """

    layers: int
    kv_heads: int
    head_dim: int
    hidden: int = 32
    longest: int = 1024

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"head gate: {name} is {value}, it must be at least 1")

    @classmethod
    def of(cls, spec: CacheSpec, **changes: int) -> HeadGateConfig:
        """Return the configuration for caches of `spec`."""
        return cls(spec.layers, spec.kv_heads, spec.head_dim, **changes)

    def to_json(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(asdict(self))


class HeadGate(nn.Module):
    """Per key head a small network over [key before rotation ; value], and a curve over the logarithm of the age.

    Both together are the logarithm of the mean attention that the queries to come give to the token.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: HeadGateConfig) -> None:
        super().__init__()
        self.config = config
        layers, heads, wide, hidden = config.layers, config.kv_heads, 2 * config.head_dim, config.hidden
        self.enter = nn.Parameter(torch.randn(layers, heads, wide, hidden) * wide**-0.5)
        self.bias = nn.Parameter(torch.zeros(layers, heads, 1, hidden))
        self.leave = nn.Parameter(torch.zeros(layers, heads, hidden, 1))
        self.direct = nn.Parameter(torch.zeros(layers, heads, wide, 1))
        self.ageing = nn.Parameter(torch.zeros(layers, heads, 3))  # constant, linear, square
        self.register_buffer("mean", torch.zeros(layers, heads, 1, wide))
        self.register_buffer("scale", torch.ones(layers, heads, 1, wide))

    def forward(self, tokens: Tensor, layers: slice = slice(None)) -> Tensor:
        """Return what does not change with age, [..., L, Hkv, T], of [..., L, Hkv, T, 2d], keys before rotation."""
        seen = (tokens.to(self.enter.dtype) - self.mean[layers]) / self.scale[layers]
        hidden = functional.gelu(seen @ self.enter[layers] + self.bias[layers])
        return (hidden @ self.leave[layers] + seen @ self.direct[layers]).squeeze(-1)

    def of_age(self, age: Tensor, layers: slice = slice(None)) -> Tensor:
        """Return what age adds, [..., L, Hkv, T], for ages in tokens [..., L, Hkv, T] or [T]."""
        far = age.clamp(1, self.config.longest).to(self.enter.dtype).log2() - MIDDLE
        constant, linear, square = self.ageing[layers].unsqueeze(-2).unbind(dim=-1)
        return constant + linear * far + square * far.square()


def check_heads(sinks: int, recent: int, budget: int) -> None:
    """Check the sizes of a cache.

    Raises:
        ValueError: a number out of range, or a budget that has no room for a token of choice.
    """
    if sinks < 0 or recent < 1:
        raise ValueError(f"headwise cache: sinks {sinks}, recent {recent}: expected 0 or more and 1 or more tokens")
    if budget <= sinks + recent:
        raise ValueError(f"headwise cache: budget is {budget}, it must be above sinks + recent ({sinks + recent})")


def choose(utilities: Tensor, positions: Tensor, newest: int, sinks: int, recent: int, budget: int) -> Tensor:
    """Return which tokens stay, [..., budget]: sinks, the newest ones, and those of the highest utility.

    Args:
        utilities, positions: [..., N], of the tokens of a head.
        newest: position of the newest token.
    """
    always = (positions < sinks) | (positions > newest - recent)
    return utilities.masked_fill(always, math.inf).topk(budget, dim=-1).indices
