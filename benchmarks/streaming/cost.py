"""What each kind of a policy's work costs in FLOPs, counted by torch (2 per multiply-add)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from kv_cache.cache import SessionCache
from kv_cache.policies import make_policy
from streaming_vla.policies.contract import (
    ChunkPolicy,
    FlowPolicy,
    FlowQuery,
    PlanningPolicy,
    PolicyObservation,
    prefill_whole,
    run_slices,
)


def costs(policy: FlowPolicy) -> dict[str, int]:
    """Return the FLOPs of every kind of work that `policy` can do, history left out.

    The kinds are those of engine.jobs.Work (a row of a chunk that exists costs nothing), and exact_denoise: a step of
    denoising with a guide that goes through the true Jacobian.
    """
    spec = policy.spec
    cache = SessionCache(spec.cache, make_policy("window", sinks=0, recent=spec.tokens_per_observation, capacity=1))
    images = np.zeros((len(spec.cameras), spec.image_size, spec.image_size, 3), dtype=np.uint8)
    picture = PolicyObservation(images, np.zeros(spec.state_size, dtype=np.float32), "")
    found = {"prefill": _counted(lambda: prefill_whole(policy, picture, cache.view()))}
    prefilled = prefill_whole(policy, picture, cache.view())
    cache.append(prefilled.keys, prefilled.values)
    view, context = cache.view(), prefilled.context
    query = FlowQuery(view, spec.layout.start(), 0, context)
    found["flow_step"] = _counted(lambda: policy.flow_step(query))
    if prefilled.seen is not None:
        seen = prefilled.seen
        found["look_ahead"] = _counted(lambda: policy.look_ahead(seen, spec.layout.start()))
    if hasattr(policy, "plan"):
        planning = cast(PlanningPolicy, policy)
        found["plan"] = _counted(lambda: planning.plan(view, context))
    if hasattr(policy, "chunks"):
        chunks, random = cast(ChunkPolicy, policy.chunks), np.random.default_rng(0)
        begin = prefill_whole(chunks, picture, view).context
        found["denoise"] = _counted(lambda: run_slices(chunks.denoise(view, begin, 1, None, random)))
        # the way back to the noise has the same products again; weights get no gradient
        found["exact_denoise"] = 2 * found["denoise"]
    return found


def _counted(work: Callable[[], Any]) -> int:
    # the fused attention of a CPU is not known to the counter, the plain one is
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        work()
    return int(counter.get_total_flops())


def flops(work: Mapping[str, int], cost: Mapping[str, int]) -> int:
    """Return the FLOPs of an episode that did `work`; work that has no cost of its own costs nothing."""
    return sum(count * cost.get(kind, 0) for kind, count in work.items())
