"""The cost model against torch's own counter, and bytes against tensors."""

from __future__ import annotations

import pytest
import torch
from matrix import tokens
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from kv_cache import CacheSpec, Mean, SessionCache
from kv_cache.cost import LLAMA_7B, PALIGEMMA, TransformerShape


@pytest.mark.parametrize("gated_mlp", [True, False])
def test_a_transformers_flops_are_what_torch_counts(gated_mlp: bool) -> None:
    shape = TransformerShape(1, 48, 4, 2, 8, 80, gated_mlp)
    project = nn.Linear(48, (4 + 2 * 2) * 8, bias=False)
    mix, up, down = nn.Linear(32, 48, bias=False), nn.Linear(48, 80, bias=False), nn.Linear(80, 48, bias=False)
    gate = nn.Linear(48, 80, bias=False)
    held = torch.randn(2, 1, 2, 30, 8)
    counter = FlopCounterMode(display=False)
    with counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        new = torch.randn(1, 7, 48)
        packed = project(new).view(1, 7, 8, 8).transpose(1, 2)
        queries, keys, values = packed.split((4, 2, 2), dim=1)
        keys, values = torch.cat((held[0], keys), 2), torch.cat((held[1], values), 2)
        keys, values = keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1)
        new = mix(functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))
        down(functional.silu(gate(new)) * up(new) if gated_mlp else functional.gelu(up(new)))
    assert counter.get_total_flops() == shape.step_flops(7, 30)


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
