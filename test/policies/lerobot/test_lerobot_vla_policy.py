"""The policies behind the contract: slices, histories, guidance, number formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import FLOWS, POLICIES, observed, prefilled

from kv_cache.cache import CacheView, SessionCache
from kv_cache.policies import Full
from kv_cache.rotary import rotate
from streaming_vla.policies.contract import prefill_whole, run_slices
from streaming_vla.policies.guide import Guide

Load = Callable[..., Any]


def chunk_of(policy: Any, view: CacheView, context: Any, guide: Guide | None = None, seed: int = 0) -> Any:
    return run_slices(policy.denoise(view, context, 10, guide, np.random.default_rng(seed)))


@pytest.mark.parametrize("policy_name", POLICIES)
def test_a_prefill_and_a_chunk_come_in_slices(load: Load, policy_name: str) -> None:
    policy = load(policy_name)
    cache = SessionCache(policy.spec.cache, Full(policy.spec.tokens_per_observation))
    slices = list(policy.prefill(observed(policy), cache.view()))
    pictures, layers = len(policy.spec.cameras), policy.spec.cache.layers
    assert len(slices) == pictures + (layers - 1 if policy_name != "act" else 1)
    view, left = prefilled(policy)
    steps = list(policy.denoise(view, left.context, 7, None, np.random.default_rng(0)))
    assert len(steps) == (7 if policy_name != "act" else 1)


@pytest.mark.parametrize("policy_name", POLICIES)
def test_a_chunk_is_of_the_spec_and_repeats_with_its_seed(load: Load, policy_name: str) -> None:
    policy = load(policy_name)
    view, left = prefilled(policy)
    rows = chunk_of(policy, view, left.context)
    assert rows.shape == (policy.spec.trained_horizon, policy.spec.layout.size) and rows.dtype == np.float64
    assert np.array_equal(rows, chunk_of(policy, view, left.context))
    assert left.keys.shape[2] <= policy.spec.tokens_per_observation
    if policy_name != "act":
        assert not np.allclose(rows, chunk_of(policy, view, left.context, seed=1))


@pytest.mark.parametrize("policy_name", FLOWS)
def test_a_longer_instruction_makes_more_tokens(load: Load, policy_name: str) -> None:
    policy = load(policy_name)
    view = SessionCache(policy.spec.cache, Full(1)).view()
    short = prefill_whole(policy, observed(policy), view).keys.shape[2]
    long = prefill_whole(policy, observed(policy, instruction="put the red_block into the left bowl\n"), view)
    assert short < long.keys.shape[2] <= policy.spec.tokens_per_observation
    endless = prefill_whole(policy, observed(policy, instruction="up " * 300), view).keys.shape[2]
    assert endless == policy.spec.tokens_per_observation


@pytest.mark.parametrize("policy_name", FLOWS)
def test_where_an_observation_lies_in_the_cache_does_not_matter(load: Load, policy_name: str) -> None:
    """SmolVLA's crossing layers read positions: without turning the view back its chunk would move."""
    policy = load(policy_name)
    view, left = prefilled(policy)
    count = left.keys.shape[2]
    far = CacheView(
        rotate(left.keys, 416 + torch.arange(count), frequencies=policy.spec.cache.frequencies),
        view.values,
        416 + count,
    )
    assert np.allclose(chunk_of(policy, far, left.context), chunk_of(policy, view, left.context), atol=2e-3)


@pytest.mark.parametrize("policy_name", FLOWS)
def test_a_history_is_read(load: Load, policy_name: str) -> None:
    policy = load(policy_name)
    alone, left = prefilled(policy, seed=2)
    behind, left_behind = prefilled(policy, seed=0, observations=3)  # the last one is that of seed 2
    assert behind.tokens > alone.tokens
    assert torch.equal(left.keys[0], left_behind.keys[0])  # nothing is read before the first layer's keys
    assert not torch.allclose(left.keys[-1], left_behind.keys[-1], atol=1e-3)
    assert not np.allclose(
        chunk_of(policy, alone, left.context), chunk_of(policy, behind, left_behind.context), atol=1e-3
    )


@pytest.mark.parametrize("policy_name", FLOWS)
def test_queries_are_reported_once_a_layer(load: Load, policy_name: str) -> None:
    policy = load(policy_name)
    seen: list[tuple[int, tuple[int, ...]]] = []
    spec = policy.spec.cache
    empty = torch.zeros(spec.layers, spec.kv_heads, 0, spec.head_dim)
    view = CacheView(empty, empty, 0, None, lambda layer, queries: seen.append((layer, tuple(queries.shape))))
    count = prefill_whole(policy, observed(policy), view).keys.shape[2]
    assert seen == [(layer, (spec.query_heads, count, spec.head_dim)) for layer in range(spec.layers)]


@pytest.mark.parametrize("policy_name", FLOWS)
def test_a_guide_pulls_the_weighted_rows(load: Load, policy_name: str) -> None:
    policy = load(policy_name)
    view, left = prefilled(policy)
    free = chunk_of(policy, view, left.context)
    target = free + 5.0
    weight = np.zeros(len(free))
    assert np.allclose(chunk_of(policy, view, left.context, Guide(target, weight, 10.0, exact=False)), free, atol=1e-6)
    weight[:3] = 1.0
    target[3:] = np.finfo(np.float64).max  # rows of weight 0 may hold anything
    pulled = chunk_of(policy, view, left.context, Guide(target, weight, 10.0, exact=False))
    assert np.abs(pulled[:3] - target[:3]).mean() < 0.2 * np.abs(free[:3] - target[:3]).mean()


@pytest.mark.parametrize("policy_name", FLOWS)
def test_a_guide_that_does_not_fit_is_refused(load: Load, policy_name: str) -> None:
    policy = load(policy_name)
    view, left = prefilled(policy)
    shape = (policy.spec.trained_horizon, policy.spec.layout.size)
    with pytest.raises(ValueError, match="identity for the Jacobian"):
        chunk_of(policy, view, left.context, Guide(np.zeros(shape), np.zeros(shape[0])))
    with pytest.raises(ValueError, match="the guide has shape"):
        chunk_of(policy, view, left.context, Guide(np.zeros((3, 6)), np.zeros(3), exact=False))


@pytest.mark.parametrize("policy_name", POLICIES)
def test_bfloat16_is_near_float32(load: Load, policy_name: str) -> None:
    exact, coarse = load(policy_name), load(policy_name, dtype="bfloat16")
    chunks = [chunk_of(policy, view, left.context) for policy in (exact, coarse) for view, left in [prefilled(policy)]]
    spread = np.abs(chunks[0]).max()
    assert 0.0 < np.abs(chunks[0] - chunks[1]).max() < 0.1 * spread
    if policy_name != "act":
        assert coarse.spec.cache.dtype == torch.bfloat16
        assert coarse.network.text[0].self_attn.q_proj.weight.dtype == torch.bfloat16
        assert coarse.network.action_in_proj.weight.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("policy_name", POLICIES)
def test_cuda_is_near_the_cpu(load: Load, policy_name: str) -> None:
    here, there = load(policy_name), load(policy_name, device="cuda")
    view, left = prefilled(here)
    cache = SessionCache(there.spec.cache, Full(there.spec.tokens_per_observation), device="cuda")
    moved = prefill_whole(there, observed(there), cache.view())
    cache.append(moved.keys, moved.values)
    chunks = chunk_of(here, view, left.context), chunk_of(there, cache.view(), moved.context)
    assert np.allclose(*chunks, atol=0.02 * np.abs(chunks[0]).max())


def test_act_cuts_the_letterbox_off(load: Load) -> None:
    policy = load("act")
    plain = observed(policy)
    random = np.random.default_rng(5)
    shapes = [(48, 64), (75, 50)]
    pictures: Any = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    boxed = np.zeros((2, 75, 75, 3), dtype=np.uint8)
    boxed[1, :, 12:62] = pictures[1]
    assert policy.spec.image_size == 75
    sample = policy.sample(type(plain)(pictures, plain.state, ""))
    again = policy.sample(type(plain)([pictures[0], boxed[1]], plain.state, ""))
    assert list(sample.pictures) == ["observation.images.top", "observation.images.wrist"]
    assert torch.equal(sample.pictures["observation.images.wrist"], again.pictures["observation.images.wrist"])


def test_what_is_read_of_a_view_is_made_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load("smolvla")
    view, left = prefilled(policy)
    made: list[int] = []
    prepare = policy.network.prepare
    monkeypatch.setattr(policy.network, "prepare", lambda *given: made.append(1) or prepare(*given))
    chunk_of(policy, view, left.context)
    chunk_of(policy, view, left.context)
    assert len(made) == 1
    chunk_of(policy, CacheView(view.keys[:, :, 1:], view.values[:, :, 1:], view.next_position), left.context)
    assert len(made) == 2
