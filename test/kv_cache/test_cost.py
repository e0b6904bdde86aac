"""The cost model against torch's own counter, and bytes against tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from matrix import tokens
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from kv_cache import CachePolicy, CacheSpec, CacheView, Full, Mean, SessionCache
from kv_cache.cost import LLAMA_7B, PALIGEMMA, TransformerShape
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole, run_slices

CONFIG = CompactConfig(words=("", "reach"))
COMPACT = TransformerShape(
    CONFIG.layers,
    CONFIG.width,
    CONFIG.heads,
    CONFIG.kv_heads,
    CONFIG.head_dim,
    CONFIG.mlp_ratio * CONFIG.width,
    gated_mlp=False,
)
SEEN = PolicyObservation(np.zeros((2, 96, 96, 3), np.uint8), np.zeros(4, np.float32), "reach")
PREFILLED, FLOW_TOKENS = CONFIG.tokens_per_observation, 1  # new tokens of a pass


def counted(work: Callable[[], object]) -> int:
    """Return the FLOPs that torch counts; its counter does not know the fused attention of a CPU."""
    with FlopCounterMode(display=False) as counter, nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        work()
    return int(counter.get_total_flops())


@pytest.fixture(scope="module")
def compact() -> CompactPolicy:
    """The compact policy in the size that is shipped, with random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return CompactPolicy(CompactModel(CONFIG), "random")


def history(policy: CachePolicy, count: int) -> SessionCache:
    """Return a cache of the compact policy after `count` tokens."""
    cache = SessionCache(CONFIG.cache, policy)
    if count:
        cache.append(*tokens(count, spec=CONFIG.cache))
    return cache


def costs(compact: CompactPolicy, view: CacheView) -> tuple[int, int]:
    """Return the FLOPs of a prefill and of a flow step behind a view."""
    prefill = counted(lambda: prefill_whole(compact, SEEN, view))
    return prefill, counted(lambda: compact.flow_step(FlowQuery(view, np.zeros(4), 0, state=np.zeros(4))))


@pytest.mark.parametrize("held", [0, 50, 300])
def test_the_compact_policys_flops_are_what_torch_counts(compact: CompactPolicy, held: int) -> None:
    """But for what the model leaves out, and nothing else: what turns pictures and numbers into tokens and back."""
    prefill, flow_step = costs(compact, history(Full(999), held).view())
    encoded = counted(lambda: run_slices(compact.encode(SEEN)))
    # nobody reads the tokens behind the trunk's last layer: it is a projection to queries, keys and values
    heads = CONFIG.heads + 2 * CONFIG.kv_heads
    projection = 2 * PREFILLED * CONFIG.width * heads * CONFIG.head_dim
    trunk = replace(COMPACT, layers=CONFIG.layers - 1).step_flops(PREFILLED, held) + projection
    assert prefill - encoded == trunk < COMPACT.step_flops(PREFILLED, held)
    enter, leave = compact.model.flow.token, compact.model.flow.head
    ends = sum(layer.weight.numel() for layer in (*enter, *leave) if isinstance(layer, nn.Linear))
    assert flow_step == COMPACT.step_flops(FLOW_TOKENS, held) + 2 * FLOW_TOKENS * ends
    assert 2 * FLOW_TOKENS * ends < 0.07 * flow_step


def test_flops_saved_are_saved_by_each_token_of_the_compact_policys_flow(compact: CompactPolicy) -> None:
    """And, but for the last layer, which attends to nothing in a prefill, by each token of an observation."""
    full, short = history(Full(999), 400), history(Mean(0, 50, 25, 90), 400)
    saved, (prefill, flow_step) = short.stats().flops_saved, costs(compact, full.view())
    shorter_prefill, shorter_flow_step = costs(compact, short.view())
    assert flow_step - shorter_flow_step == FLOW_TOKENS * saved
    assert prefill - shorter_prefill == PREFILLED * saved * (CONFIG.layers - 1) / CONFIG.layers


@pytest.mark.parametrize("gated_mlp", [True, False])
def test_a_transformers_flops_are_what_torch_counts(gated_mlp: bool) -> None:
    shape = TransformerShape(1, 48, 4, 2, 8, 80, gated_mlp)
    project = nn.Linear(48, (4 + 2 * 2) * 8, bias=False)
    mix, up, down = nn.Linear(32, 48, bias=False), nn.Linear(48, 80, bias=False), nn.Linear(80, 48, bias=False)
    gate = nn.Linear(48, 80, bias=False)
    held = torch.randn(2, 1, 2, 30, 8)

    def layer() -> None:
        new = torch.randn(1, 7, 48)
        packed = project(new).view(1, 7, 8, 8).transpose(1, 2)
        queries, keys, values = packed.split((4, 2, 2), dim=1)
        keys, values = torch.cat((held[0], keys), 2), torch.cat((held[1], values), 2)
        keys, values = keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1)
        new = mix(functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))
        down(functional.silu(gate(new)) * up(new) if gated_mlp else functional.gelu(up(new)))

    assert counted(layer) == shape.step_flops(7, 30)


def test_flops_saved_are_those_of_attention() -> None:
    spec = CacheSpec(layers=4, kv_heads=2, head_dim=32, query_heads=6)
    cache = SessionCache(spec, Mean(4, 100, 25, 160))
    cache.append(*tokens(4096, spec=spec))
    stats, shape = cache.stats(), TransformerShape(4, 192, 6, 2, 32, 576)
    assert stats.flops_saved == shape.attention_flops(1, 4096) - shape.attention_flops(1, stats.tokens)
    view = cache.view()
    assert stats.bytes == sum(part.numel() * part.element_size() for part in (view.keys, view.values))


def test_the_published_shapes_have_their_published_size() -> None:
    """Parameters without embeddings: 2.0 and 6.5 thousand million."""
    assert PALIGEMMA.linear_flops(1) / 2 == pytest.approx(1.98e9, rel=0.01)
    assert LLAMA_7B.linear_flops(1) / 2 == pytest.approx(6.48e9, rel=0.01)
