"""Many sessions in one tensor: as one by one, whatever is in unused slots, on any device."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import BATCHED, GATE, SPEC, B, Case, batch_of
from torch import Tensor

from kv_cache import CachePolicy, Full, Gated, Mean, SessionCache, Window, rotate
from kv_cache.batched import BatchedCache, BatchState

torch.set_num_threads(1)


def parts_of(state: BatchState) -> list[Tensor]:
    """Return all tensors of a state."""
    return [*state[:-1], *state.policy]


def spoiled(state: BatchState, policy: CachePolicy) -> BatchState:
    """Return a state with large numbers in its unused slots."""
    unused = (torch.arange(policy.max_tokens) >= state.tokens.unsqueeze(1))[:, None, None, :, None]
    return state._replace(keys=state.keys.masked_fill(unused, 1e4), values=state.values.masked_fill(unused, -1e4))


def weigh(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights [L, Hkv, Q, N] of rotated queries over keys of `bias` [N], and what they see."""
    weights = (query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias).softmax(dim=-1)
    return weights, weights @ values


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
@settings(max_examples=6)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=7), late=st.integers(0, 4), seed=st.integers(0, 3))
@torch.no_grad()
def test_a_row_is_what_a_session_of_its_own_would_be(case: Case, sizes: list[int], late: int, seed: int) -> None:
    assert case.small is not None
    batched = BatchedCache(SPEC, case.small, B)
    alone = [SessionCache(SPEC, case.small) for _ in range(B)]
    for step, size in enumerate(sizes):
        if step == late:  # row 1 begins anew, the others go on
            batched.reset(torch.tensor([False, True, False]))
            alone[1].reset()
        keys, values = batch_of(size, seed + step)
        for layer in range(SPEC.layers):
            queries = torch.randn(B, 4, 2, 8, generator=torch.Generator().manual_seed(step))
            batched.observe_queries(layer, queries)
            for row, cache in enumerate(alone):
                observe = cache.view().observe_queries
                if observe is not None:
                    observe(layer, queries[row])
        batched.append(keys, values)
        for row, cache in enumerate(alone):
            cache.append(keys[row], values[row])
    view, state = batched.view(), batched.state
    for row, cache in enumerate(alone):
        own, stats = cache.view(), cache.stats()
        count = own.tokens
        assert int(view.held[row].sum()) == count
        assert bool(view.held[row, :count].all())
        torch.testing.assert_close(view.keys[row, :, :, :count], own.keys, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(view.values[row, :, :, :count], own.values, rtol=1e-5, atol=1e-5)
        assert int(view.next_position[row]) == own.next_position
        counted = (state.kept[row], state.dropped[row], state.evicted[row], state.full_tokens[row])
        wanted = (stats.chunks_kept, stats.chunks_dropped, stats.chunks_evicted, stats.full_tokens)
        assert tuple(map(int, counted)) == wanted
        if view.bias is not None:
            assert own.bias is not None
            torch.testing.assert_close(view.bias[row, :count], own.bias)


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
@torch.no_grad()
def test_what_is_in_unused_slots_does_not_matter(case: Case) -> None:
    """Whatever stands there between updates: what is held is that of a cache with zeros in them."""
    assert case.small is not None
    clean, other = BatchedCache(SPEC, case.small, B), BatchedCache(SPEC, case.small, B)
    for step, size in enumerate((3, 1, 9, 5, 12, 2)):
        if step == 3:
            for cache in (clean, other):
                cache.reset(torch.tensor([False, True, False]))
        other.state = spoiled(other.state, case.small)
        for cache in (clean, other):
            for layer in range(SPEC.layers):
                cache.observe_queries(layer, torch.ones(B, 4, 2, 8))
            cache.append(*batch_of(size, step))
    (mine, theirs), held = (other.view(), clean.view()), clean.view().held
    assert torch.equal(mine.held, held) and torch.equal(mine.next_position, theirs.next_position)
    for one, wanted in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
        torch.testing.assert_close(one.movedim(3, 1)[held], wanted.movedim(3, 1)[held], rtol=0, atol=0)
    assert torch.equal(other.state.scores, clean.state.scores)
    assert torch.equal(other.state.kept, clean.state.kept)


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
@torch.no_grad()
def test_an_unused_slot_gets_no_attention_whatever_it_holds(case: Case) -> None:
    """Bit for bit what zeros in those slots give, and, but for the order of sums, what a session without them gives."""
    assert case.small is not None
    batched, alone = BatchedCache(SPEC, case.small, B), [SessionCache(SPEC, case.small) for _ in range(B)]
    draw = torch.Generator().manual_seed(0)
    for step, size in enumerate((3, 1, 9, 5, 12, 2)):
        if step == 3:  # so that rows hold different numbers of tokens
            batched.reset(torch.tensor([False, True, False]))
            alone[1].reset()
        keys, values = batch_of(size, step)
        batched.append(keys, values)
        for row, cache in enumerate(alone):
            cache.append(keys[row], values[row])
        clean, view = batched.view(), batched.view_of(spoiled(batched.state, case.small))
        query = torch.randn(SPEC.layers, SPEC.kv_heads, 4, SPEC.head_dim, generator=draw)
        for row, cache in enumerate(alone):
            own = cache.view()
            bias = torch.zeros(view.held.shape[1]) if view.bias is None else view.bias[row]
            bias = bias.masked_fill(~view.held[row], -math.inf)
            asked = rotate(query, torch.full((4,), own.next_position), SPEC.rope_base)
            weights, seen = weigh(asked, view.keys[row], view.values[row], bias)
            assert bool((weights[..., own.tokens :] == 0.0).all()) and bool((weights[..., : own.tokens] > 0.0).all())
            zeros = [part[row].where(view.held[row, :, None], 0.0) for part in (clean.keys, clean.values)]
            torch.testing.assert_close(seen, weigh(asked, zeros[0], zeros[1], bias)[1], rtol=0, atol=0)
            packed = weigh(asked, own.keys, own.values, torch.zeros(own.tokens) if own.bias is None else own.bias)
            torch.testing.assert_close(seen, packed[1], rtol=0, atol=2e-5 if case.name == "gated, mlp" else 1e-6)


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
def test_an_update_never_looks_at_the_data(case: Case) -> None:
    """On the meta device tensors have shapes only: whatever asks for a value, or mixes devices, fails."""
    assert case.small is not None
    policy = case.small
    if isinstance(policy, Gated):
        import copy

        policy = replace(policy, gate=copy.deepcopy(policy.gate).to("meta"))
    cache = BatchedCache(SPEC, policy, B, device="meta")
    keys = torch.empty(B, 3, 2, 7, 8, device="meta")
    state = cache.update(cache.state, keys, keys)
    assert state.keys.shape == cache.state.keys.shape
    assert cache.view_of(state).keys.device.type == "meta"


def test_a_gradient_passes_through_an_update() -> None:
    cache = BatchedCache(SPEC, Mean(1, 4, 3, 12), B)
    keys, values = batch_of(20, 0)
    keys.requires_grad_()
    cache.view_of(cache.update(cache.state, keys, values)).keys.sum().backward()
    assert keys.grad is not None and bool(torch.isfinite(keys.grad).all())


def test_a_session_does_not_keep_a_graph_of_gradients() -> None:
    cache = BatchedCache(SPEC, Gated(2, 7, 3, 14, gate=GATE), B)
    cache.append(*batch_of(20, 0))
    assert any(parameter.requires_grad for parameter in GATE.parameters())
    assert not any(part.requires_grad for part in parts_of(cache.state))


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
def test_sizes_are_checked_before_memory_is_taken(case: Case) -> None:
    assert case.small is not None
    cache = BatchedCache(SPEC, case.small, B)
    cache.append(*batch_of(20, 0))
    parts = [cache._cos, cache._sin, *(part for state in (cache._empty, cache.state) for part in parts_of(state))]
    taken = sum(part.untyped_storage().nbytes() for part in parts)
    assert taken <= cache.allocated_bytes
    BatchedCache(SPEC, case.small, B, max_bytes=cache.allocated_bytes)
    with pytest.raises(MemoryError, match=r"3 sessions of policy .* bytes, \d+ are allowed; keep fewer"):
        BatchedCache(SPEC, case.small, B, max_bytes=cache.allocated_bytes - 1)


@pytest.mark.parametrize("policy", [Window(0, 10**9), Mean(0, 1, 10**5, 10**6)], ids=["many slots", "many positions"])
def test_many_tokens_are_refused_at_once(policy: Window | Mean) -> None:
    with pytest.raises(MemoryError, match="keep fewer tokens or sessions"):
        BatchedCache(SPEC, policy, B)


def test_bad_input_is_refused_and_changes_nothing() -> None:
    cache = BatchedCache(SPEC, Gated(2, 7, 3, 14, gate=GATE), B)
    cache.append(*batch_of(8, 0))
    before = cache.state
    good, values = batch_of(4, 1)
    for bad, sentence in (
        (good[:2], r"keys have shape .*, expected \(3, 3, 2, tokens, 8\)"),
        (good.long(), "keys have dtype torch.int64, expected a floating point format"),
        (good.to("meta"), "keys are on meta, expected cpu; move them there first"),
        (good / 0.0, "keys are not finite"),
        (good[:, :, :, :3], "3 keys and 4 values"),
    ):
        with pytest.raises(ValueError, match=sentence):
            cache.append(bad, values)
    assert cache.state is before
    with pytest.raises(ValueError, match=r"rows are \(1,\) of torch.bool, expected \(3,\) of bool"):
        cache.reset(torch.tensor([True]))  # it would mean all of them
    for queries, sentence in (
        (torch.ones(B, 2, 1, 8), r"expected a layer below 3 and shape \(3, 4, queries, 8\)"),
        (torch.full((B, 4, 1, 8), math.nan), "the queries of layer 0 are not finite"),
    ):
        with pytest.raises(ValueError, match=sentence):
            cache.observe_queries(0, queries)
    assert cache.state is before
    with pytest.raises(ValueError, match="policy full has no bound"):
        BatchedCache(SPEC, Full(9), B)
    with pytest.raises(ValueError, match="policy mean keeps chunks word for word, which needs a SessionCache"):
        BatchedCache(SPEC, Mean(0, 4, 2, 9, exact=0.0), B)
    with pytest.raises(ValueError, match="batch is 0"):
        BatchedCache(SPEC, Mean(0, 4, 2, 9), 0)
