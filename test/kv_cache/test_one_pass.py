"""A whole episode in one pass sees, observation by observation, what the online cache shows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import SPEC, attend, tokens, wild_gate
from torch import Tensor

from kv_cache import Gated, SessionCache, rotate
from kv_cache.one_pass import Asked, Fate, LayerMemory, remember
from kv_cache.policies.base import Sizes
from kv_cache.sampling import chunks_of, hard_sample
from kv_cache.summaries import SUMMARIES

torch.set_num_threads(1)
TOTAL, GROUP = 36, 2  # tokens of the episode, query heads of a key head


def one_layer(layer: int, keys: Tensor, values: Tensor, fate: Fate, sizes: Sizes, gate: object) -> LayerMemory:
    """Return the memory of one layer of an episode."""
    old = chunks_of(keys, sizes), chunks_of(values, sizes)
    made = gate.summary(*(part[None, layer : layer + 1] for part in old), slice(layer, layer + 1))  # type: ignore[attr-defined]
    part = slice(layer, layer + 1)
    return remember(keys[part], values[part], (made[0][:, 0], made[1][:, 0]), fate, sizes, SPEC)


@settings(max_examples=15)
@given(
    sinks=st.integers(0, 3),
    recent=st.integers(1, 8),
    chunk=st.integers(1, 4),
    step=st.sampled_from((1, 2, 3, 4, 6)),
    seed=st.integers(0, 5),
    summary=st.sampled_from(SUMMARIES),
)
@torch.no_grad()
def test_every_group_sees_what_the_cache_holds(
    sinks: int, recent: int, chunk: int, step: int, seed: int, summary: str
) -> None:
    sizes, gate = Sizes(sinks, recent, chunk), wild_gate(summary=summary, seed=seed)
    cache = SessionCache(SPEC, Gated(sinks, recent, chunk, 100, gate=gate))
    keys, values = tokens(TOTAL, seed)
    logits, _ = gate(chunks_of(keys, sizes)[:1], gate.start(1))
    fate = Fate.of(logits.sigmoid() >= 0.5)
    layer = SPEC.layers - 1
    memory = one_layer(layer, keys, values, fate, sizes, gate)
    draw = torch.Generator().manual_seed(seed)
    heads, groups = SPEC.kv_heads * GROUP, TOTAL // step
    asking = torch.randn(1, heads, groups, step, 8, generator=draw)
    own_keys, own_values = torch.randn(2, 1, SPEC.kv_heads, groups, step, 8, generator=draw)
    held = torch.arange(groups) * step
    places = torch.arange(step)
    before = Asked(held, step, places, TOTAL, fate, sizes, SPEC).attend(asking, memory)
    alone = torch.eye(step, dtype=torch.bool)
    after = Asked(held + step, 0, torch.zeros(step), TOTAL, fate, sizes, SPEC)
    answers = after.attend(asking, memory, (own_keys, own_values, alone))
    for number in range(groups):
        piece = slice(number * step, number * step + step)
        new_keys, new_values = keys[:, :, piece], values[:, :, piece]
        view = cache.view()
        at = view.next_position + places
        seen_keys = torch.cat((view.keys, rotate(new_keys, at)), 2)[layer].repeat_interleave(GROUP, 0)
        seen_values = torch.cat((view.values, new_values), 2)[layer].repeat_interleave(GROUP, 0)
        wanted = attend(rotate(asking[0, :, number], at), seen_keys, seen_values)
        torch.testing.assert_close(before[0, :, number], wanted, rtol=1e-4, atol=1e-5)
        cache.append(new_keys, new_values)
        view = cache.view()
        at = torch.tensor([view.next_position])
        for query in range(step):
            seen_keys = torch.cat((view.keys[layer], rotate(own_keys[0, :, number, query : query + 1], at)), 1)
            seen_values = torch.cat((view.values[layer], own_values[0, :, number, query : query + 1]), 1)
            asked = rotate(asking[0, :, number, query : query + 1], at)
            wanted = attend(asked, seen_keys.repeat_interleave(GROUP, 0), seen_values.repeat_interleave(GROUP, 0))
            torch.testing.assert_close(answers[0, :, number, query : query + 1], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("summary", SUMMARIES)
def test_the_loss_of_a_late_query_reaches_the_gate(summary: str) -> None:
    sizes, gate = Sizes(0, 6, 3), wild_gate(summary=summary)
    keys, values = tokens(TOTAL)
    logits, _ = gate(chunks_of(keys, sizes)[:1], gate.start(1))
    fate = Fate(*hard_sample(logits, torch.zeros_like(logits)))
    memory = one_layer(0, keys, values, fate, sizes, gate)
    asked = Asked(torch.tensor([TOTAL - 3]), 3, torch.arange(3), TOTAL, fate, sizes, SPEC)
    asked.attend(torch.randn(1, 4, 1, 3, 8), memory).square().sum().backward()
    for name, parameter in gate.named_parameters():
        if name.startswith("summary") and not bool(fate.keep.any()):
            continue
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name
