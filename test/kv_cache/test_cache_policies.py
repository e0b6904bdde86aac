"""What every cache policy must do, over one matrix of policies."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from matrix import CASES, DROPPING, PLACES, SPEC, STEADY, Case, T, attend, plain, tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kv_cache import CachePolicy, CacheView, Mean, Newest, SessionCache, required_bytes, rotate

torch.set_num_threads(1)


def filled(policy: CachePolicy, sizes: list[int], views: int = 2) -> SessionCache:
    """Return a cache to which tokens(sum(sizes)) were appended in pieces."""
    cache = SessionCache(SPEC, policy, views)
    keys, values = tokens(sum(sizes))
    for piece in zip(keys.split(sizes, dim=2), values.split(sizes, dim=2), strict=True):
        cache.append(*piece)
    return cache


def assert_same(one: SessionCache, other: SessionCache) -> None:
    """Two caches hold the same; scores and learned summaries may differ by rounding."""
    (ours, theirs), (mine, yours) = (one.view(), other.view()), (one.stats(), other.stats())
    torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.values, theirs.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.bias, theirs.bias)
    assert ours.next_position == theirs.next_position
    assert mine.scores == pytest.approx(yours.scores, abs=1e-5)
    assert replace(mine, scores=()) == replace(yours, scores=())
    assert [number for number, _ in one.kept_chunks()] == [number for number, _ in other.kept_chunks()]


def pieces(seed: int) -> list[int]:
    """Return random sizes that sum up to T."""
    cuts = sorted(random.Random(seed).sample(range(1, T), 5))
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, T], strict=True)]


def test_a_mean_summary_is_the_mean_of_unrotated_keys_and_of_values() -> None:
    keys, values = tokens(11)
    held = filled(Mean(2, 4, 3, 20), [11]).snapshot()
    for made, of in ((held.keys, keys), (held.values, values)):
        torch.testing.assert_close(made[:, :, 2], of[:, :, 2:5].mean(dim=2))
        assert made.shape[2] == 2 + 1 + 6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("sizes", [[T], [1] * T, [25, 15]], ids=["at once", "one by one", "two"])
def test_with_room_for_all_it_is_plain_attention(case: Case, sizes: list[int]) -> None:
    sizes = [T] if case.by_append else sizes
    view = filled(case.roomy(T), sizes).view()
    query = torch.randn(3, 2, 1, 8)
    keys, values = tokens(T)
    assert view.next_position == view.tokens == T
    seen = attend(rotate(query, torch.tensor([view.next_position]), SPEC.rope_base), view.keys, view.values)
    torch.testing.assert_close(seen, plain(query, keys, values), rtol=0, atol=0)


@pytest.mark.parametrize("case", PLACES, ids=lambda case: case.name)
@pytest.mark.parametrize("seed", range(4))
def test_kept_tokens_are_those_and_their_positions_close_the_gaps(case: Case, seed: int) -> None:
    assert case.small is not None and case.kept is not None
    view = filled(case.small, pieces(seed)).view()
    keys, values = tokens(T)
    kept = case.kept(T, pieces(seed)[-1])
    assert view.next_position == view.tokens == len(kept)
    # bit for bit what a computation from the unrotated keys gives: moving a token adds no error
    again = rotate(keys[:, :, kept], torch.arange(len(kept)), SPEC.rope_base)
    torch.testing.assert_close(view.keys, again, rtol=0, atol=0)
    torch.testing.assert_close(view.values, values[:, :, kept], rtol=0, atol=0)


@pytest.mark.parametrize("case", PLACES, ids=lambda case: case.name)
def test_only_relative_positions_matter(case: Case) -> None:
    assert case.small is not None and case.kept is not None
    view = filled(case.small, [T]).view()
    query = torch.randn(3, 2, 1, 8)
    keys, values = (part[:, :, case.kept(T, T)] for part in tokens(T))
    seen = attend(rotate(query, torch.tensor([view.next_position]), SPEC.rope_base), view.keys, view.values)
    for first in (0, 23, 5000):
        torch.testing.assert_close(seen, plain(query, keys, values, first), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", STEADY, ids=lambda case: case.name)
@pytest.mark.parametrize("sizes", [*map(pieces, range(4)), [1] * T], ids=["0", "1", "2", "3", "one by one"])
def test_at_once_is_the_same_as_in_pieces(case: Case, sizes: list[int]) -> None:
    policy = case.small or case.roomy(T)
    at_once, in_pieces = filled(policy, [T]), filled(policy, sizes)
    assert_same(in_pieces, at_once)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("views", [1, 2, 3])
def test_a_view_outlives_the_appends_that_it_promises(case: Case, views: int) -> None:
    cache = SessionCache(SPEC, case.small or case.roomy(200), views)
    held = []
    for step in range(12):
        cache.append(*tokens(7, seed=step))
        view = cache.view()
        held.append((view, view.keys.clone(), view.values.clone()))
        for old, keys, values in held[-views:]:
            torch.testing.assert_close(old.keys, keys, rtol=0, atol=0)
            torch.testing.assert_close(old.values, values, rtol=0, atol=0)


class Operations(TorchDispatchMode):
    """Counts what torch is asked for: unlike time, it is the same on every machine."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", DROPPING, ids=lambda case: case.name)
def test_memory_and_work_stay_flat_over_100_000_tokens(case: Case) -> None:
    assert case.small is not None
    cache = SessionCache(SPEC, case.small)
    shown: set[int] = set()

    def go_on(appends: int) -> None:
        for _ in range(appends):
            report = cache.view().observe_queries
            for layer in range(SPEC.layers if report else 0):
                assert report is not None
                report(layer, torch.ones(4, 2, 8))
            cache.append(*tokens(100, cache.stats().full_tokens))
            view = cache.view()
            shown.add(view.keys.untyped_storage().nbytes() + view.values.untyped_storage().nbytes())
            assert cache.stats().tokens <= case.small.max_tokens

    def state() -> tuple[int, int]:
        with Operations() as operations:
            go_on(50)
        return len(pickle.dumps(cache)), operations.count  # all that it holds, whatever it is called

    go_on(50)
    (young_bytes, young_work), _, (old_bytes, old_work) = state(), go_on(850), state()
    assert old_bytes == pytest.approx(young_bytes, abs=100)  # greater numbers take some bytes more
    assert old_work == pytest.approx(young_work, rel=0.05)
    assert max(shown) <= required_bytes(SPEC, case.small, views=1)
    stats = cache.stats()
    assert stats.full_tokens == 100_000
    assert stats.full_bytes == 100_000 * SPEC.bytes_per_token
    assert stats.bytes == stats.tokens * SPEC.bytes_per_token <= stats.allocated_bytes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_after_a_reset_it_is_as_new(case: Case) -> None:
    policy = case.small or case.roomy(T)
    cache = filled(policy, [T])
    cache.reset()
    assert cache.view().tokens == cache.view().next_position == cache.stats().full_tokens == 0
    cache.append(*tokens(5, seed=9))
    new = SessionCache(SPEC, policy)
    new.append(*tokens(5, seed=9))
    torch.testing.assert_close(cache.view().keys, new.view().keys, rtol=0, atol=0)
    assert cache.stats() == new.stats()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_snapshot_brings_back_what_was(case: Case) -> None:
    policy = case.small or case.roomy(2 * T)
    cache, other = filled(policy, pieces(1)), SessionCache(SPEC, policy)
    saved = cache.snapshot()
    more = tokens(13, seed=5)
    cache.append(*more)
    after = (cache.view().keys.clone(), cache.view().values.clone(), cache.stats())
    for target in (cache, other):
        target.restore(saved)
        target.append(*more)
        torch.testing.assert_close(target.view().keys, after[0], rtol=0, atol=0)
        torch.testing.assert_close(target.view().values, after[1], rtol=0, atol=0)
        assert target.stats() == after[2]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sessions_do_not_touch_each_other(case: Case) -> None:
    policy = case.small or case.roomy(200)
    caches = [SessionCache(SPEC, policy) for _ in range(2)]
    alone = [SessionCache(SPEC, policy) for _ in range(2)]
    for step in range(6):
        for which, cache in enumerate(caches):
            cache.append(*tokens(7, seed=10 * step + which))
    for which, cache in enumerate(alone):
        for step in range(6):
            cache.append(*tokens(7, seed=10 * step + which))
        torch.testing.assert_close(caches[which].view().keys, cache.view().keys, rtol=0, atol=0)
        torch.testing.assert_close(caches[which].view().values, cache.view().values, rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_newest_tokens_that_a_policy_promises_live_on(case: Case) -> None:
    policy = case.small or case.roomy(T)
    newest = min(policy.newest_tokens, pieces(3)[-1] if case.by_append else T)
    view = filled(policy, pieces(3)).view()
    assert view.tokens <= policy.max_tokens
    keys, values = (part[:, :, T - newest :] for part in tokens(T))
    positions = view.next_position + torch.arange(-newest, 0)
    torch.testing.assert_close(view.keys[:, :, -newest:], rotate(keys, positions, SPEC.rope_base), rtol=0, atol=0)
    torch.testing.assert_close(view.values[:, :, -newest:], values, rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("frequencies", [(), (0.7, 0.3, 0.01)], ids=["all", "partial"])
def test_a_reanchored_view_gives_the_same_attention(case: Case, frequencies: tuple[float, ...]) -> None:
    """The newest tokens stand at 0, 1, ..., what is older at negative positions; distances are what they were."""
    spec = replace(SPEC, inverse_frequencies=frequencies)
    cache = SessionCache(spec, case.small or case.roomy(T))
    for step, size in enumerate((19, 14, 7)):
        cache.append(*tokens(size, seed=step))
    view, query = cache.view(), torch.randn(3, 2, 3, 8)
    newest = min(7, cache.policy.newest_tokens)

    def attended(by: CacheView) -> Tensor:
        asked = rotate(query, by.next_position + torch.arange(3), frequencies=spec.frequencies)
        return attend(asked, by.keys, by.values)

    for own in (0, newest):
        again = view.reanchored(spec, own)
        assert again.next_position == own and again.tokens == view.tokens
        torch.testing.assert_close(attended(again), attended(view), rtol=1e-4, atol=1e-5)
        assert again.values is view.values and again.bias is view.bias
    at_front = rotate(tokens(7, seed=2)[0][:, :, -newest:], torch.arange(newest), frequencies=spec.frequencies)
    torch.testing.assert_close(again.keys[:, :, -newest:], at_front, rtol=1e-4, atol=1e-5)


def test_no_more_tokens_are_at_the_front_than_there_are() -> None:
    view = filled(Mean(0, 9, 3, 20), [5]).view()
    for newest in (-1, 6):
        with pytest.raises(ValueError, match=f"newest is {newest}, the view holds 5 tokens"):
            view.reanchored(SPEC, newest)


@pytest.mark.parametrize("lengths", [[3, 9, 1, 17, 5], [30, 2], [1]])
def test_newest_keeps_exactly_the_newest_append(lengths: list[int]) -> None:
    cache = SessionCache(SPEC, Newest(17))
    for step, length in enumerate(lengths):
        keys, values = tokens(length, seed=step)
        cache.append(keys, values)
        view, held = cache.view(), min(length, 17)
        assert view.tokens == view.next_position == held
        torch.testing.assert_close(
            view.keys, rotate(keys[:, :, -held:], torch.arange(held), SPEC.rope_base), rtol=0, atol=0
        )
        torch.testing.assert_close(view.values, values[:, :, -held:], rtol=0, atol=0)
    assert cache.stats().full_tokens == sum(lengths)
    assert cache.stats().chunks_dropped == sum(lengths) - held
    with pytest.raises(ValueError, match="newest: recent is 0"):
        Newest(0)
