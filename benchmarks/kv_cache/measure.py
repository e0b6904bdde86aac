"""One measurement each: the compact policy, one layer of PaliGemma's size, the gate, FLOPs, flatness."""

from __future__ import annotations

import functools
import pickle
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kv_cache import CachePolicy, CacheSpec, CacheView, Gate, GateConfig, SessionCache, make_policy
from kv_cache.chunks import Chunks
from kv_cache.cost import PALIGEMMA
from kv_cache.policies import POLICY_NAMES
from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.model import CompactModel
from streaming_vla.policy.compact.policy import CompactPolicy
from streaming_vla.policy.contract import PolicyObservation, prefill_whole

POLICIES = POLICY_NAMES
SINKS, RECENT, CHUNK, BUDGET = 4, 100, 25, 160  # 4 observations as they are, 32 summaries
FILL = 1000  # tokens that are appended at once to make a history
YOUNG, TURNS = 1000, 1000  # observations of the short run, timed appends of each
IMAGE_TOKENS = 256  # of one picture of PaliGemma
WARM = 3  # turns that do not count


def policy(name: str, spec: CacheSpec, capacity: int) -> CachePolicy:
    """Return a policy; the gate is untrained and keeps all, so that its budget is always used up: the worst case."""
    torch.manual_seed(0)
    gate = Gate(GateConfig.of(spec)).eval().requires_grad_(False)
    return make_policy(
        name,
        sinks=SINKS,
        recent=RECENT,
        capacity=capacity,
        chunk=CHUNK,
        budget=BUDGET,
        gate=gate,
        threshold=0.0,
        keep_rate=1.0,
    )


def history(spec: CacheSpec, name: str, tokens: int, spare: int) -> SessionCache:
    """Return a cache that has seen `tokens` random tokens and has room for `spare` more."""
    cache = SessionCache(spec, policy(name, spec, tokens + spare))
    generator = torch.Generator().manual_seed(1)
    for start in range(0, tokens, FILL):
        count = min(FILL, tokens - start)
        keys, values = torch.randn(2, spec.layers, spec.kv_heads, count, spec.head_dim, generator=generator)
        cache.append(keys, values)
    return cache


def cpu_ms(work: Callable[[], object]) -> float:
    """Return the CPU time of this thread, milliseconds."""
    begin_ns = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - begin_ns) / 1e6


def in_turn(
    caches: Mapping[str, SessionCache], turns: int, *works: Callable[[SessionCache], object]
) -> dict[str, tuple[list[float], ...]]:
    """Return the CPU times of every work, milliseconds, by cache; turn by turn, so that other work falls on all.

    Every turn begins with the history that a cache has now: works may append to it.
    """
    times: dict[str, tuple[list[float], ...]] = {name: tuple([] for _ in works) for name in caches}
    begin = {name: cache.snapshot() for name, cache in caches.items()}
    for turn in range(WARM + turns):
        for name, cache in caches.items():
            cache.restore(begin[name])
            for column, work in zip(times[name], works, strict=True):
                taken = cpu_ms(functools.partial(work, cache))
                if turn >= WARM:
                    column.append(taken)
    return times


def model() -> CompactPolicy:
    """Return the compact policy with random weights: its speed does not depend on them."""
    torch.manual_seed(0)
    return CompactPolicy(CompactModel(CompactConfig(words=("", "reach"))), "random")


def observation() -> PolicyObservation:
    """Return a picture of every camera and a state."""
    pictures = np.random.default_rng(0).integers(0, 255, (2, 96, 96, 3), dtype=np.uint8)
    return PolicyObservation(pictures, np.zeros(4, dtype=np.float32), "reach")


def prefill(served: CompactPolicy, cache: SessionCache) -> None:
    """Encode an observation and append it, queries reported where the policy reads them."""
    prefilled = prefill_whole(served, observation(), cache.view())
    cache.append(prefilled.keys, prefilled.values)


@torch.inference_mode()
def compact(tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Time prefill and flow step of the compact policy after a history of `tokens`, under every policy."""
    served = model()
    spare = served.spec.tokens_per_observation
    caches = {name: history(served.spec.cache, name, tokens, spare) for name in POLICIES}
    stats = {name: cache.stats() for name, cache in caches.items()}
    times = in_turn(
        caches,
        repeats,
        lambda cache: prefill(served, cache),
        lambda cache: served.flow_step(cache.view(), np.zeros(4), 0),
    )
    return [
        {
            "policy": name,
            "tokens": tokens,
            "held": stats[name].tokens,
            "prefill_ms": statistics.median(times[name][0]),
            "flow_step_ms": statistics.median(times[name][1]),
            "bytes": stats[name].bytes,
            "reserved_bytes": stats[name].allocated_bytes,
        }
        for name in POLICIES
    ]


@torch.inference_mode()
def long(tokens: int, factor: int, repeats: int) -> dict[str, float]:
    """Compare an observation with all its flow steps after `tokens` and after `factor` times as many.

    Turn by turn, so that what else the machine does falls on both.
    """
    served = model()
    caches = [history(served.spec.cache, "gated", count, spare=0) for count in (tokens, factor * tokens)]

    def whole(cache: SessionCache) -> None:
        prefill(served, cache)
        for index in range(served.spec.execution_horizon):
            served.flow_step(cache.view(), np.zeros(4), index)

    times: list[list[float]] = [[], []]
    for turn in range(3 + 4 * repeats):
        for which in (0, 1) if turn % 2 else (1, 0):
            times[which].append(cpu_ms(lambda: whole(caches[which])))  # noqa: B023 (called at once)
    before, after = (statistics.median(column[3:]) for column in times)
    return {"tokens": factor * tokens, "step_ms": after, "step_time_ratio": after / before}


@torch.inference_mode()
def flops(tokens: int) -> dict[str, int]:
    """Count the FLOPs of one observation with all its flow steps, whole model, after a history of `tokens`."""
    served = model()
    counted = {"flow_steps": served.spec.execution_horizon}
    for name in ("full", "gated"):
        cache = history(served.spec.cache, name, tokens, spare=50)
        # the counter does not know the CPU's fused attention; the plain one does the same multiplications
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            prefill(served, cache)
            for index in range(served.spec.execution_horizon):
                served.flow_step(cache.view(), np.zeros(4), index)
        counted[name] = counter.get_total_flops()
    return counted


@torch.inference_mode()
def gate(repeats: int) -> dict[str, float]:
    """Time the judgement of one chunk and its summary, and the whole append of an observation."""
    spec = model().spec.cache
    gated = policy("gated", spec, 1)
    shape = (1, spec.layers, spec.kv_heads, 1, CHUNK, spec.head_dim)
    one = torch.ones(1, dtype=torch.int64)
    chunks = Chunks(torch.randn(shape), torch.randn(shape), one, one, torch.zeros(1, 1))
    state = gated.start(spec, 1, torch.device("cpu"))

    def judge() -> None:
        gated.score(chunks, state)
        gated.summarise(chunks)

    cache = history(spec, "gated", 4096, 0)
    keys, values = torch.randn(2, spec.layers, spec.kv_heads, CHUNK, spec.head_dim)
    counts = 20 * repeats
    return {
        "gate_ms": statistics.median(cpu_ms(judge) for _ in range(counts)),
        "append_ms": statistics.median(cpu_ms(lambda: cache.append(keys, values)) for _ in range(counts)),
    }


@torch.inference_mode()
def flat(observations: int) -> dict[str, float]:
    """Compare a gated cache that has seen so many observations with one that has seen YOUNG, turn by turn."""
    spec = model().spec.cache
    caches = [history(spec, "gated", count * CHUNK, spare=0) for count in (YOUNG, observations)]
    keys, values = torch.randn(2, spec.layers, spec.kv_heads, CHUNK, spec.head_dim)
    times: list[list[float]] = [[], []]
    for turn in range(2 * TURNS):
        which = turn % 2
        times[which].append(cpu_ms(lambda: caches[which].append(keys, values)))  # noqa: B023 (called at once)
    young, old = (len(pickle.dumps(cache)) for cache in caches)  # all that a session holds, whatever it is called
    before, after = (statistics.median(column) for column in times)
    return {
        "observations": observations,
        "bytes_ratio": old / young,
        "step_time_ratio": after / before,
        "next_position": caches[1].view().next_position,
    }


class GemmaLayer(nn.Module):
    """One layer of PaliGemma's language model, random weights, without its norms' cost."""

    def __init__(self) -> None:
        super().__init__()
        size = PALIGEMMA
        self.project = nn.Linear(size.width, (size.heads + 2 * size.kv_heads) * size.head_dim, bias=False)
        self.mix = nn.Linear(size.heads * size.head_dim, size.width, bias=False)
        self.gate = nn.Linear(size.width, size.hidden, bias=False)
        self.up = nn.Linear(size.width, size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, size.width, bias=False)

    def forward(self, tokens: Tensor, view: CacheView) -> tuple[Tensor, Tensor]:
        """Run new tokens [T, width] against a view of one layer; return their keys and values [1, Hkv, T, d]."""
        size = PALIGEMMA
        packed = self.project(tokens).unflatten(-1, (-1, size.head_dim)).transpose(0, 1)
        queries, keys, values = packed.split((size.heads, size.kv_heads, size.kv_heads))
        seen = functional.scaled_dot_product_attention(
            queries.unsqueeze(0),
            torch.cat((view.keys, keys.unsqueeze(0)), dim=2).expand(-1, size.heads, -1, -1),
            torch.cat((view.values, values.unsqueeze(0)), dim=2).expand(-1, size.heads, -1, -1),
        )
        tokens = tokens + self.mix(seen[0].transpose(0, 1).flatten(1))
        self.down(functional.gelu(self.gate(tokens), approximate="tanh") * self.up(tokens))
        return keys.unsqueeze(0), values.unsqueeze(0)


@torch.inference_mode()
def layer(tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Time one layer of PaliGemma's size, full and gated in turn: a prefill of a picture and a token of an action flow.

    One layer, not 18: the matrices of all do not fit beside each other on a small machine. Layers are alike, so the
    ratio of two policies is that of the whole language model; the gate runs once per model, not per layer.
    """
    torch.manual_seed(0)
    size = PALIGEMMA
    network = GemmaLayer()
    spec = CacheSpec(1, size.kv_heads, size.head_dim, query_heads=size.heads)
    caches = {name: history(spec, name, tokens, spare=IMAGE_TOKENS) for name in ("full", "gated")}
    held = {name: cache.stats().bytes for name, cache in caches.items()}
    picture = torch.randn(IMAGE_TOKENS, size.width)
    times = in_turn(
        caches,
        repeats,
        lambda cache: cache.append(*network(picture, cache.view())),
        lambda cache: network(picture[:1], cache.view()),
    )
    return [
        {
            "policy": name,
            "tokens": tokens,
            "prefill_ms": statistics.median(times[name][0]),
            "flow_step_ms": statistics.median(times[name][1]),
            "bytes": held[name] * size.layers,
        }
        for name in caches
    ]
