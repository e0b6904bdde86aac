"""One measurement each: the compact policy, the gate, FLOPs, flatness."""

from __future__ import annotations

import functools
import pickle
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kv_cache import (
    CachePolicy,
    CacheSpec,
    CacheView,
    Gate,
    GateConfig,
    SessionCache,
    make_policy,
    required_bytes,
)
from kv_cache.chunks import Chunks
from kv_cache.policies import POLICY_NAMES
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole

POLICIES = tuple(name for name in POLICY_NAMES if name != "newest")  # a window without a history
SINKS, RECENT, CHUNK, BUDGET = 4, 100, 25, 160  # 4 observations as they are, 32 summaries
FILL = 1000  # tokens that are appended at once to make a history
YOUNG, TURNS = 1000, 1000  # observations of the short run, timed appends of each
WARM = 3  # turns that do not count
STATE = np.zeros(4, dtype=np.float32)  # of the robot
CONTEXTS = 3  # that an engine keeps


def policy(name: str, spec: CacheSpec, capacity: int) -> CachePolicy:
    """Return a policy; the gate has the form of the shipped one, is untrained and keeps all: the worst case."""
    torch.manual_seed(0)
    gate = Gate(GateConfig.of(spec, summary="attention")).eval().requires_grad_(False)
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

    Every turn begins with the history that a cache has now, whose view is held: works may append to it.
    """
    times: dict[str, tuple[list[float], ...]] = {name: tuple([] for _ in works) for name in caches}
    begin = {name: cache.snapshot() for name, cache in caches.items()}
    for turn in range(WARM + turns):
        for name, cache in caches.items():
            cache.restore(begin[name])
            _held = cache.view()
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


def prefill(served: CompactPolicy, cache: SessionCache) -> CacheView:
    """Encode an observation and append it, queries reported where the policy reads them; return the new context."""
    prefilled = prefill_whole(served, observation(), cache.view())
    cache.append(prefilled.keys, prefilled.values)
    return cache.view()


def whole(served: CompactPolicy, cache: SessionCache) -> None:
    """Do what an observation brings: its prefill and all flow steps."""
    context = prefill(served, cache)
    for index in range(served.spec.execution_horizon):
        served.flow_step(FlowQuery(context, np.zeros(4), index, state=STATE))


@torch.inference_mode()
def compact(tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Time prefill and flow step of the compact policy after a history of `tokens`, under every policy."""
    served = model()
    spare = served.spec.tokens_per_observation
    caches = {name: history(served.spec.cache, name, tokens, spare) for name in POLICIES}
    stats = {name: cache.stats() for name, cache in caches.items()}
    contexts: dict[int, CacheView] = {}  # held while they are asked, as an engine holds them
    times = in_turn(
        caches,
        repeats,
        lambda cache: contexts.update({id(cache): prefill(served, cache)}),
        lambda cache: served.flow_step(FlowQuery(contexts[id(cache)], np.zeros(4), 0, state=STATE)),
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
    times: list[list[float]] = [[], []]
    for turn in range(3 + 4 * repeats):
        for which in (0, 1) if turn % 2 else (1, 0):
            times[which].append(cpu_ms(lambda: whole(served, caches[which])))  # noqa: B023 (called at once)
    before, after = (statistics.median(column[3:]) for column in times)
    return {"tokens": factor * tokens, "step_ms": after, "step_time_ratio": after / before}


@torch.inference_mode()
def young(tokens: int, repeats: int) -> dict[str, float]:
    """Compare `full` with `gated` early in an episode, turn by turn: median and quartiles of the turns' ratios."""
    served = model()
    caches = {name: history(served.spec.cache, name, tokens, spare=25) for name in ("full", "gated")}
    times = in_turn(caches, 8 * repeats, lambda cache: whole(served, cache))
    ratios = [full / gated for full, gated in zip(*(times[name][0] for name in caches), strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"tokens": tokens, "time_ratio": middle, "low": low, "high": high}


def memory(tokens: int) -> dict[str, float]:
    """Compare what a gated session takes with what it holds: alone, with its newest view, with an engine's contexts."""
    spec = model().spec.cache
    cache = history(spec, "gated", tokens, spare=0)
    taken = {
        name: required_bytes(spec, cache.policy, views) for name, views in (("one_view", 1), ("contexts", CONTEXTS))
    }
    taken["reserved"] = cache.stats().allocated_bytes
    return {f"{name}_over_held": count / cache.stats().bytes for name, count in taken.items()}


@torch.inference_mode()
def flops(tokens: int) -> list[dict[str, float]]:
    """Count the FLOPs of one observation with all its flow steps, whole model, after a history of `tokens`."""
    served = model()
    counted: dict[str, float] = {"tokens": tokens}
    for name in ("full", "gated"):
        cache = history(served.spec.cache, name, tokens, spare=50)
        # the counter does not know the CPU's fused attention; the plain one does the same multiplications
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            whole(served, cache)
        counted[name] = counter.get_total_flops()
    return [counted | {"saving": 1.0 - counted["gated"] / counted["full"]}]


@torch.inference_mode()
def gate(tokens: int, repeats: int) -> dict[str, float]:
    """Time the judgement of one chunk, its summary, an append with its view, and a prefill after `tokens`, in turn."""
    served = model()
    spec = served.spec.cache
    cache = history(spec, "gated", tokens, spare=0)
    gated = cache.policy
    shape = (1, spec.layers, spec.kv_heads, 1, CHUNK, spec.head_dim)
    chunks = Chunks(torch.randn(shape), torch.randn(shape), torch.ones(1, dtype=torch.int64), None, torch.zeros(1, 1))
    state = gated.start(spec, 1, torch.device("cpu"))
    keys, values = torch.randn(2, spec.layers, spec.kv_heads, CHUNK, spec.head_dim)

    times = in_turn(
        {"gated": cache},
        20 * repeats,
        lambda _: gated.score(chunks, state),
        lambda _: gated.summarise(chunks),
        lambda cache: (cache.append(keys, values), cache.view()),
        lambda cache: prefill(served, cache),
    )["gated"]
    names = ("gate_ms", "summary_ms", "append_ms", "prefill_ms")
    return {name: statistics.median(column) for name, column in zip(names, times, strict=True)}


@torch.inference_mode()
def flat(observations: int) -> dict[str, float]:
    """Compare a gated cache that was given so many observations, one by one, with one that was given YOUNG."""
    spec = model().spec.cache
    caches = [history(spec, "gated", 0, spare=0) for _ in range(2)]
    generator = torch.Generator().manual_seed(1)
    for cache, count in zip(caches, (YOUNG, observations), strict=True):
        for _ in range(count):
            shape = (2, spec.layers, spec.kv_heads, CHUNK, spec.head_dim)
            cache.append(*torch.randn(shape, generator=generator))
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
