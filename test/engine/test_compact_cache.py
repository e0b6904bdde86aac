"""What the compact policy asks of the cache that it reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kv_cache import CacheView, Mean, SessionCache
from streaming_vla.policies.compact.chunk_head import ChunkBegin
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole, run_slices

torch.set_num_threads(1)
CONFIG = CompactConfig(words=("", "open"), width=48, layers=2, image_size=32)
SEEN = PolicyObservation(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(4, np.float32), "open")
READERS: dict[str, Callable[[CompactPolicy, CacheView, CacheView], object]] = {
    "prefill": lambda policy, _plain, view: prefill_whole(policy, SEEN, view),
    "flow_step": lambda policy, _plain, view: policy.flow_step(FlowQuery(view, np.zeros(4), 0, state=np.zeros(4))),
    "flow_steps": lambda policy, plain, view: policy.flow_steps(
        [FlowQuery(each, np.zeros(4), 0, state=np.zeros(4)) for each in (plain, view)]
    ),
    "plan": lambda policy, _plain, view: policy.plan(view, np.zeros(4)),
    "denoise": lambda policy, _plain, view: run_slices(
        policy.chunks.denoise(view, ChunkBegin(np.zeros(4, np.float32)), 2, None, np.random.default_rng(0))
    ),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_bias_that_the_network_would_not_add_is_refused(
    read: Callable[[CompactPolicy, CacheView, CacheView], object],
) -> None:
    torch.manual_seed(0)
    policy = CompactPolicy(CompactModel(CONFIG), "random")
    plain, counting = (SessionCache(CONFIG.cache, Mean(0, 25, 5, 60, log_count=each)) for each in (False, True))
    for cache in (plain, counting):
        cache.append(*torch.randn(2, CONFIG.layers, CONFIG.kv_heads, 50, CONFIG.head_dim))
    read(policy, plain.view(), plain.view())
    with pytest.raises(ValueError, match="compact policy: its attention does not add log_count, make the cache policy"):
        read(policy, plain.view(), counting.view())
