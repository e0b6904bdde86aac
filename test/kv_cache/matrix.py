"""The matrix that every cache policy joins: how to build it, and which tokens it is meant to keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache import (
    Attention,
    CachePolicy,
    CacheSpec,
    Expected,
    Full,
    Gate,
    GateConfig,
    Gated,
    Mean,
    Newest,
    Random,
    Window,
    rotate,
)

SPEC = CacheSpec(layers=3, kv_heads=2, head_dim=8, query_heads=4)
T = 40  # tokens of a sequence that a bounded policy has to shorten
B = 3  # sessions of a batch


def wild_gate(cell: str = "gru", summary: str = "mean", spec: CacheSpec = SPEC, seed: int = 0) -> Gate:
    """Return an untrained gate whose scores lie far apart."""
    torch.manual_seed(seed)
    gate = Gate(GateConfig.of(spec, cell=cell, summary=summary, width=8, hidden=6))
    with torch.no_grad():
        gate.head.weight.mul_(30.0)
        gate.head.bias.zero_()
        for parameter in gate.summary.parameters():
            parameter.normal_()
    return gate.eval()


GATE = wild_gate()
LSTM_GATE = wild_gate("lstm", "attention", seed=1)
MLP_GATE = wild_gate("gru", "mlp", seed=2)


@dataclass(frozen=True)
class Case:
    """A policy under test.

    Args:
        roomy: builds it so large that n tokens are left as they are, of `by_append` n tokens of one append.
        small: one that drops tokens of a sequence of T, None when the policy never drops.
        kept: places that `small` keeps of n tokens, the last of which came with the newest append; None when it makes
            summaries.
        by_append: what is kept depends on which tokens came together.
    """

    name: str
    roomy: Callable[[int], CachePolicy]
    small: CachePolicy | None = None
    kept: Callable[[int, int], list[int]] | None = lambda n, newest: list(range(n))
    by_append: bool = False


def sinks_and_recent(sinks: int, recent: int) -> Callable[[int, int], list[int]]:
    """Return the places that a window keeps of n tokens, written down on its own."""
    return lambda n, _newest: [
        place for place in range(n) if n <= sinks + recent or place < sinks or place >= n - recent
    ]


def sinks_and_chunks(sinks: int, recent: int, chunk: int) -> Callable[[int, int], list[int]]:
    """Return the places that are kept of n tokens where the older ones leave in whole chunks and none is summarised."""
    return lambda n, _newest: [*range(min(n, sinks)), *range(sinks + max(0, n - sinks - recent) // chunk * chunk, n)]


CASES = (
    Case("full", Full),
    Case("window", lambda n: Window(0, n), Window(0, 17), sinks_and_recent(0, 17)),
    Case("window with sinks", lambda n: Window(4, n - 4), Window(4, 11), sinks_and_recent(4, 11)),
    Case("window of one", lambda n: Window(1, n - 1), Window(1, 1), sinks_and_recent(1, 1)),
    Case("newest", Newest, Newest(17), lambda n, newest: list(range(n - min(newest, 17), n)), by_append=True),
    Case("gated", lambda n: Gated(2, n, 3, n + 4, gate=GATE), Gated(2, 7, 3, 14, gate=GATE), None),
    Case(
        "gated by lstm",
        lambda n: Gated(0, n, 4, n + 3, gate=LSTM_GATE),
        Gated(0, 7, 4, 14, gate=LSTM_GATE, threshold=0.3),
        None,
    ),
    Case("gated, mlp", lambda n: Gated(1, n, 2, n + 2, gate=MLP_GATE), Gated(1, 5, 2, 9, gate=MLP_GATE), None),
    Case(
        "gated, word for word",
        lambda n: Gated(2, n, 3, n + 7, gate=GATE, exact=0.5),
        Gated(2, 7, 3, 22, gate=GATE, threshold=0.1, exact=0.4),
        None,
    ),
    Case("mean", lambda n: Mean(2, n, 3, n + 4), Mean(2, 7, 3, 15), None),
    Case("mean without room", lambda n: Mean(2, n, 3, n + 4), Mean(2, 7, 3, 11), sinks_and_chunks(2, 7, 3)),
    Case("mean, log count", lambda n: Mean(2, n, 3, n + 4, log_count=True), Mean(1, 6, 4, 15, log_count=True), None),
    Case("random", lambda n: Random(2, n, 3, n + 4), Random(2, 7, 3, 14, keep_rate=0.6), None),
    Case("attention", lambda n: Attention(2, n, 3, n + 4), Attention(2, 7, 3, 14), None),
    Case("attention per token", lambda n: Attention(2, n, 1, n + 2), Attention(2, 7, 1, 14), None),
    Case("expected", lambda n: Expected(2, n, 3, n + 4), Expected(2, 7, 3, 14), None),
)
DROPPING = tuple(case for case in CASES if case.small is not None)
BATCHED = tuple(case for case in DROPPING if case.small is not None and case.small.exact == math.inf)
PLACES = tuple(case for case in DROPPING if case.kept is not None)
SUMMARISING = tuple(case for case in CASES if case.kept is None)
STEADY = tuple(case for case in CASES if not case.by_append)


def tokens(count: int, seed: int = 0, spec: CacheSpec = SPEC) -> tuple[Tensor, Tensor]:
    """Return random keys and values, each [L, Hkv, count, d]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, spec.layers, spec.kv_heads, count, spec.head_dim)
    keys, values = torch.randn(shape, generator=generator)
    return keys, values


def batch_of(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return keys and values of B sessions, each [B, L, Hkv, count, d]."""
    pairs = [tokens(count, seed * B + row) for row in range(B)]
    return torch.stack([keys for keys, _ in pairs]), torch.stack([values for _, values in pairs])


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Plain attention: query [L, Hkv, Q, d], keys (rotated) and values [L, Hkv, N, d] -> [L, Hkv, Q, d]."""
    scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores.softmax(dim=-1) @ values


def plain(query: Tensor, keys: Tensor, values: Tensor, first: int = 0) -> Tensor:
    """Attention without any cache: all keys at first, first + 1, ... and the query behind them."""
    count = keys.shape[2]
    turned = rotate(keys, first + torch.arange(count), SPEC.rope_base)
    return attend(rotate(query, torch.tensor([first + count]), SPEC.rope_base), turned, values)
