"""What becomes of chunks: against a plain list of tokens, and the properties that a gated cache must have."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import GATE, LSTM_GATE, SPEC, SUMMARISING, Case, T, attend, plain, tokens, wild_gate
from torch import Tensor

from kv_cache import Attention, Expected, Full, Gate, GateConfig, Gated, Mean, Random, SessionCache, rotate
from kv_cache.chunks import Chunks
from kv_cache.policies import Chunked
from kv_cache.policies.expected import mean_rotation
from kv_cache.spec import CacheSpec

torch.set_num_threads(1)
SIZES = st.lists(st.integers(1, 13), min_size=1, max_size=9)


@dataclass
class Token:
    """One token of the plain list: place in the session's line, key before rotation and value [L, Hkv, d]."""

    place: float
    key: Tensor
    value: Tensor


def by_hand(policy: Chunked, keys: Tensor, values: Tensor) -> tuple[list[Token], list[int]]:
    """Do token by token what the policy is meant to do; return the tokens held and the numbers of kept chunks."""
    sinks: list[Token] = []
    held: list[tuple[float, int, list[Token], Token]] = []  # score, number, what is held and the summary of a chunk
    recent: list[Token] = []
    state, number, chunk = policy.start(SPEC, 1, torch.device("cpu")), 0, policy.chunk
    for place in range(keys.shape[2]):
        token = Token(place, keys[:, :, place], values[:, :, place])
        if len(sinks) < policy.sinks:
            sinks.append(token)
            continue
        recent.append(token)
        if len(recent) < policy.recent + chunk:
            continue
        out, recent = recent[:chunk], recent[chunk:]
        shown_keys = torch.stack([each.key for each in out], dim=2)[None, :, :, None]
        shown_values = torch.stack([each.value for each in out], dim=2)[None, :, :, None]
        shown = Chunks(shown_keys, shown_values, torch.tensor([number]), torch.tensor([1]), torch.zeros(1, 1))
        scores, state = policy.score(shown, state)
        key, value = policy.summarise(shown)
        score, summary = scores.item(), Token(0.0, key[0, :, :, 0], value[0, :, :, 0])
        if score >= policy.least_score:
            held.append((score, number, out if score >= policy.exact else [summary], summary))
        number += 1
        while sum(len(own) for _, _, own, _ in held) > policy.sizes.summaries:
            worst = min(held, key=lambda each: each[:2])
            if len(worst[2]) > 1:
                worst[2][:] = [worst[3]]
            else:
                held.remove(worst)
    for order, (_, _, own, _) in enumerate(held):
        for place, token in enumerate(own):
            token.place = policy.sinks + order * chunk + (place if len(own) > 1 else (chunk - 1) / 2)
    for order, token in enumerate(recent):
        token.place = len(sinks) + len(held) * chunk + order
    return [*sinks, *(token for each in held for token in each[2]), *recent], [each[1] for each in held]


def fed(policy: Chunked | Full, sizes: list[int], seed: int = 0, spec: CacheSpec = SPEC) -> SessionCache:
    """Return a cache that was given tokens(sum(sizes)) in pieces."""
    cache = SessionCache(spec, policy)
    keys, values = tokens(sum(sizes), seed, spec)
    for piece in zip(keys.split(sizes, dim=2), values.split(sizes, dim=2), strict=True):
        cache.append(*piece)
    return cache


WITHOUT_QUERIES = [case for case in SUMMARISING if not isinstance(case.small, Attention)]


@pytest.mark.parametrize("case", WITHOUT_QUERIES, ids=lambda case: case.name)
@settings(max_examples=12)
@given(sizes=SIZES, seed=st.integers(0, 3))
def test_it_holds_what_a_plain_list_would(case: Case, sizes: list[int], seed: int) -> None:
    assert isinstance(case.small, Chunked)
    cache = fed(case.small, sizes, seed)
    wanted, numbers = by_hand(case.small, *tokens(sum(sizes), seed))
    view = cache.view()
    assert [number for number, _ in cache.kept_chunks()] == numbers
    assert view.tokens == len(wanted)
    places = torch.tensor([token.place for token in wanted], dtype=torch.float64)
    keys = torch.stack([token.key for token in wanted], dim=2)
    torch.testing.assert_close(view.keys, rotate(keys, places, SPEC.rope_base), rtol=1e-5, atol=1e-5)
    values = torch.stack([token.value for token in wanted], dim=2)
    torch.testing.assert_close(view.values, values, rtol=1e-5, atol=1e-5)
    assert view.next_position == wanted[-1].place + 1


def test_every_token_stands_right_while_positions_run_far_ahead_of_slots() -> None:
    policy = Mean(2, 7, 20, 60)
    cache = SessionCache(SPEC, policy)
    assert policy.sizes.max_positions > 10 * policy.max_tokens
    for count in (*range(30, 930, 30), 0, 30):  # the summaries fill the budget, then the session begins again
        if count == 0:
            cache.reset()
            continue
        keys, values = tokens(960, seed=1)
        cache.append(keys[:, :, count - 30 : count], values[:, :, count - 30 : count])
        wanted, numbers = by_hand(policy, keys[:, :, :count], values[:, :, :count])
        assert [number for number, _ in cache.kept_chunks()] == numbers
        places = torch.tensor([token.place for token in wanted], dtype=torch.float64)
        turned = rotate(torch.stack([token.key for token in wanted], dim=2), places, SPEC.rope_base)
        torch.testing.assert_close(cache.view().keys, turned, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gate", [GATE, LSTM_GATE], ids=["mean", "attention"])
def test_chunks_of_one_and_threshold_zero_are_a_full_cache(gate: Gate) -> None:
    full = fed(Full(T), [T])
    gated = fed(Gated(3, 5, 1, T, gate=gate, threshold=0.0), [9, 20, 11])
    assert gated.stats().chunks_kept == T - 8
    torch.testing.assert_close(gated.view().keys, full.view().keys, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gated.view().values, full.view().values, rtol=1e-5, atol=1e-5)
    assert gated.view().next_position == T


def test_thresholds_at_the_ends_keep_all_and_nothing() -> None:
    policy = Gated(2, 7, 3, 40, gate=GATE, threshold=0.0)
    everything, window = fed(policy, [T]), fed(replace(policy, threshold=1.1), [T])
    chunks = (T - 2 - 7) // 3
    assert (everything.stats().chunks_kept, everything.stats().chunks_dropped) == (chunks, 0)
    assert (window.stats().chunks_kept, window.stats().chunks_dropped) == (0, chunks)
    rest = T - 2 - 3 * chunks
    keys = tokens(T)[0][:, :, [0, 1, *range(T - rest, T)]]
    torch.testing.assert_close(window.view().keys, rotate(keys, torch.arange(2 + rest), SPEC.rope_base))


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.4])
def test_tokens_are_sinks_and_window_and_waiting_and_kept_chunks(threshold: float) -> None:
    stats = fed(Gated(2, 7, 3, 40, gate=GATE, threshold=threshold), [T]).stats()
    judged = stats.chunks_kept + stats.chunks_dropped
    assert judged == (T - 2 - 7) // 3
    assert stats.tokens == 2 + (T - 2 - 3 * judged) + stats.chunks_kept
    assert 0 < stats.chunks_kept < judged
    assert len(stats.scores) == judged
    assert sum(score >= threshold for score in stats.scores) == stats.chunks_kept
    assert stats.flops_saved == (T - stats.tokens) * 4 * 3 * 4 * 8


def test_no_token_counts_twice() -> None:
    """Sum of values: with the mean, every token is in a summary or in the window, and nothing is in both."""
    cache = fed(Mean(2, 7, 3, 40), [T])
    view, chunks = cache.view(), cache.stats().chunks_kept
    weight = torch.ones(view.tokens)
    weight[2 : 2 + chunks] = 3.0
    total = (view.values * weight[:, None]).sum(dim=2)
    torch.testing.assert_close(total, tokens(T)[1].sum(dim=2), rtol=1e-4, atol=1e-4)


def test_the_lowest_score_is_evicted_first() -> None:
    policy = Gated(0, 4, 2, 8, gate=GATE, threshold=0.0)
    cache = fed(policy, [T])
    scores = cache.stats().scores
    roomy = fed(replace(policy, budget=100), [T]).kept_chunks()
    best = sorted(sorted(roomy, key=lambda each: each[1])[-3:])
    assert [number for number, _ in cache.kept_chunks()] == [number for number, _ in best]
    assert cache.stats().chunks_evicted == len(roomy) - 3
    assert len(scores) == 16  # the newest ones only


def test_without_scores_the_oldest_summary_goes() -> None:
    kept = fed(Mean(0, 4, 2, 8), [T]).kept_chunks()
    assert [number for number, _ in kept] == [15, 16, 17]


def test_random_keeps_its_rate_and_can_be_repeated() -> None:
    one, other = (fed(Random(0, 4, 2, 4000, keep_rate=0.25, seed=seed), [4000]) for seed in (0, 1))
    for cache in (one, other):
        assert cache.stats().chunks_kept == pytest.approx(0.25 * 1998, rel=0.1)
    assert one.kept_chunks() == fed(Random(0, 4, 2, 4000, keep_rate=0.25), [1000] * 4).kept_chunks()
    assert one.kept_chunks() != other.kept_chunks()


def test_attention_keeps_what_was_looked_at() -> None:
    policy = Attention(0, 6, 2, 10)
    cache = SessionCache(SPEC, policy)
    keys, values = tokens(T)
    wanted = 4 * keys[:, :, 8:9]  # queries look for token 8, which is in chunk 4
    for start in range(0, T, 4):
        view = cache.view()
        assert view.observe_queries is not None
        for layer in range(SPEC.layers):
            # turned back to where the token stands, so that the product is as large as it can be
            query = rotate(wanted[layer].repeat_interleave(2, 0), torch.tensor([-4]), SPEC.rope_base)
            view.observe_queries(layer, query)
        cache.append(keys[:, :, start : start + 4], values[:, :, start : start + 4])
    assert 4 in [number for number, _ in cache.kept_chunks()]
    assert cache.stats().chunks_evicted > 0


def test_expected_attention_is_the_formula() -> None:
    """One head, one layer, by the definition: E[exp(q.k / sqrt d)] |v| for Gaussian queries, estimated by sampling."""
    spec = CacheSpec(layers=1, kv_heads=1, head_dim=4)
    policy = Expected(0, 6, 1, 100)
    cache = SessionCache(spec, policy)
    torch.manual_seed(3)
    queries = torch.randn(1, 4000, 4) * 0.5 + torch.tensor([0.8, -0.3, 0.1, 0.4])
    observe = cache.view().observe_queries
    assert observe is not None
    observe(0, queries)
    keys, values = torch.randn(1, 1, 30, 4), torch.randn(1, 1, 30, 4)
    cache.append(keys, values)
    ahead = torch.arange(512, dtype=torch.float64) + 7
    angles = ahead[:, None] * torch.tensor([1.0, 0.01])
    cos, sin = angles.cos().mean(0), angles.sin().mean(0)
    mean_rotation = torch.zeros(4, 4)
    for pair in range(2):
        a, b = pair, pair + 2
        mean_rotation[a, a] = mean_rotation[b, b] = cos[pair]
        mean_rotation[a, b], mean_rotation[b, a] = -sin[pair], sin[pair]
    turned = queries[0] @ mean_rotation.T
    for number, score in cache.kept_chunks():
        logits = turned @ keys[0, 0, number] / 2.0
        wanted = math.log(float(logits.exp().mean() * values[0, 0, number].norm()))
        assert score == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("frequencies", [SPEC.frequencies, (0.0, 2 * math.pi, 100.0)], ids=["rotary", "odd ones"])
def test_the_mean_rotation_is_the_mean_of_the_rotations(frequencies: tuple[float, ...]) -> None:
    behind, used = torch.arange(9, 2, -1), torch.tensor(frequencies, dtype=torch.float64)
    turned = (behind[:, None, None] + torch.arange(512)[:, None]) * used
    cos, sin = mean_rotation(behind, used)
    torch.testing.assert_close(cos, turned.cos().mean(dim=1).float(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(sin, turned.sin().mean(dim=1).float(), rtol=1e-6, atol=1e-9)


def test_a_chunk_goes_down_a_step_at_a_time() -> None:
    """All are kept word for word at first; the budget turns the oldest into summaries, then it drops them."""
    lengths = []
    for count in (12, 15, 18, 24, T):
        cache = fed(Mean(0, 6, 3, 18, exact=0.0), [count])
        held = cache.snapshot().ledger
        lengths.append(held.lengths)
        assert cache.stats().tokens == sum(held.lengths) + held.recents <= 18
        assert cache.stats().chunks_kept - cache.stats().chunks_evicted == len(held.numbers)
    assert lengths == [(3, 3), (3, 3, 3), (1, 3, 3, 3), (1, 3, 3, 3), (1, 3, 3, 3)] and held.numbers == (7, 8, 9, 10)
    exact = tokens(T)[1][:, :, 24:33]
    torch.testing.assert_close(cache.view().values[:, :, 1:10], exact, rtol=0, atol=0)
    less = cache.retuned(Mean(0, 6, 3, 13, exact=0.0))
    assert less.snapshot().ledger.lengths == (1, 3) and less.stats().chunks_evicted == 9
    with pytest.raises(
        ValueError, match=r"exact is 0\.0, but the budget leaves 2 tokens for older chunks: to keep one of 3"
    ):
        Mean(0, 6, 3, 10, exact=0.0)


def test_log_count_is_a_bias_on_summaries_only() -> None:
    view = fed(Mean(2, 7, 3, 40, log_count=True), [T]).view()
    assert view.bias is not None
    assert view.bias.tolist() == pytest.approx([0, 0] + [math.log(3)] * 10 + [0] * (view.tokens - 12))
    assert fed(Mean(2, 7, 3, 40), [T]).view().bias is None


def test_a_new_budget_takes_effect_at_once_and_old_views_stay() -> None:
    policy = Gated(2, 7, 3, 40, gate=GATE, threshold=0.0)
    cache = fed(policy, [T])
    view = cache.view()
    before = view.keys.clone()
    small = cache.retuned(replace(policy, budget=14))
    assert small.kept_chunks() == tuple(sorted(sorted(cache.kept_chunks(), key=lambda each: each[1])[-3:]))
    assert small.view().tokens == cache.view().tokens - small.stats().chunks_evicted
    for each in (cache, small):
        each.append(*tokens(9, seed=4))
    torch.testing.assert_close(view.keys, before, rtol=0, atol=0)
    newest = rotate(tokens(9, seed=4)[0][:, :, -7:], small.view().next_position + torch.arange(-7, 0), SPEC.rope_base)
    torch.testing.assert_close(small.view().keys[:, :, -7:], newest, rtol=0, atol=0)
    wide = small.retuned(replace(policy, budget=60))
    assert wide.view().tokens == small.view().tokens
    wide.append(*tokens(30, seed=5))
    later = wide.kept_chunks()[len(small.kept_chunks()) :]
    threshold = sorted(score for _, score in later)[len(later) // 2]
    strict = small.retuned(replace(policy, budget=60, threshold=threshold))
    strict.append(*tokens(30, seed=5))
    wanted = (*small.kept_chunks(), *(chunk for chunk in later if chunk[1] >= threshold))
    assert len(later) == 10 and strict.kept_chunks() == wanted
    for change in ({"chunk": 2}, {"log_count": True}, {"gate": wild_gate("lstm")}, {"gate": wild_gate(seed=7)}):
        with pytest.raises(ValueError, match="more than budget and threshold"):
            cache.retuned(replace(policy, **change))


@pytest.mark.parametrize("way", ["snapshot", "retuned"])
@pytest.mark.parametrize(
    "policy", [Gated(2, 7, 3, 20, gate=GATE), Attention(2, 7, 3, 20), Expected(2, 7, 3, 20)], ids=lambda each: each.name
)
def test_what_a_policy_remembers_goes_along(policy: Chunked, way: str) -> None:
    """The gate's state, the attention received and the moments of the queries decide about what comes later."""

    def feed(cache: SessionCache, seeds: range) -> None:
        for seed in seeds:
            report = cache.view().observe_queries
            for layer in range(SPEC.layers if report else 0):
                assert report is not None
                report(layer, torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(seed)) * 3.0)
            cache.append(*tokens(5, seed))

    cache = SessionCache(SPEC, policy)
    feed(cache, range(8))
    other = SessionCache(SPEC, policy)
    if way == "snapshot":
        other.restore(cache.snapshot())
    else:
        other = cache.retuned(replace(policy, budget=30)).retuned(policy)
    for each in (cache, other):
        feed(each, range(8, 16))
    assert cache.kept_chunks() == other.kept_chunks()
    assert cache.stats() == other.stats()
    torch.testing.assert_close(cache.view().keys, other.view().keys, rtol=0, atol=0)
    torch.testing.assert_close(cache.snapshot().mass, other.snapshot().mass, rtol=0, atol=0)


def test_ten_hours_do_not_move_positions_away() -> None:
    policy = Gated(2, 7, 3, 20, gate=GATE)
    cache = fed(policy, [30] * 60)
    assert cache.view().next_position <= policy.sizes.max_positions == 2 + 9 * 3 + 7 + 2
    query = torch.randn(3, 2, 1, 8)
    view = cache.view()
    wanted, _ = by_hand(policy, *tokens(1800))
    places = torch.tensor([token.place for token in wanted], dtype=torch.float64)
    far = rotate(torch.stack([token.key for token in wanted], dim=2), places + 5000, SPEC.rope_base)
    seen = attend(rotate(query, torch.tensor([view.next_position]), SPEC.rope_base), view.keys, view.values)
    again = attend(rotate(query, torch.tensor([view.next_position + 5000]), SPEC.rope_base), far, view.values)
    torch.testing.assert_close(seen, again, rtol=1e-4, atol=1e-4)


BAD = [
    ({"chunk": 0}, "chunk is 0, it must be at least 1 token"),
    ({"sinks": -1}, "sinks is -1"),
    ({"recent": -3}, "recent is -3"),
    ({"budget": 10}, r"budget is 10 tokens, below the 11 of the window \(sinks \+ recent \+ chunk - 1\)"),
    ({"threshold": -0.1}, "threshold is -0.1"),
    ({"threshold": math.nan}, "threshold is nan"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD, ids=[str(change) for change, _ in BAD])
def test_a_wrong_number_is_one_clear_sentence(change: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Gated(**{"sinks": 2, "recent": 7, "chunk": 3, "budget": 14, "gate": GATE, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keep_rate is 2"):
        Random(0, 4, 2, 10, keep_rate=2)


def test_a_gate_of_another_model_is_refused() -> None:
    other = wild_gate(spec=replace(SPEC, kv_heads=4))
    with pytest.raises(ValueError, match=r"for 3 layers of 4 x 8 numbers, the cache has 3 layers of 2 x 8"):
        SessionCache(SPEC, Gated(2, 7, 3, 14, gate=other))
    with pytest.raises(ValueError, match="cell is 'rnn', choose one of gru, lstm"):
        GateConfig.of(SPEC, cell="rnn")


def test_a_damaged_gate_leaves_the_session_intact() -> None:
    gate = wild_gate(seed=5)
    cache = fed(Gated(2, 7, 3, 14, gate=gate), [11])
    before = (cache.view().keys.clone(), cache.stats())
    with torch.no_grad():
        gate.head.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="scores or summaries are not finite; its weights are damaged"):
        cache.append(*tokens(9))
    torch.testing.assert_close(cache.view().keys, before[0], rtol=0, atol=0)
    assert cache.stats() == before[1]


def test_queries_for_an_outdated_view_or_of_another_shape_are_refused() -> None:
    cache = fed(Attention(2, 7, 3, 14), [11])
    view = cache.view()
    assert view.observe_queries is not None
    for layer, queries in ((3, torch.zeros(4, 1, 8)), (0, torch.zeros(2, 1, 8)), (0, torch.zeros(4, 8))):
        with pytest.raises(ValueError, match="expected a layer below 3 and shape"):
            view.observe_queries(layer, queries)
    with pytest.raises(ValueError, match="the queries of layer 1 are not finite"):
        view.observe_queries(1, torch.full((4, 1, 8), math.nan))
    for _ in range(4):  # a prefill that is given up and begins again
        view.observe_queries(1, torch.ones(4, 1, 8))
    assert float(cache.snapshot().mass.sum()) == pytest.approx(1 / 3)
    cache.append(*tokens(2))
    with pytest.raises(ValueError, match="the view is outdated"):
        view.observe_queries(0, torch.zeros(4, 1, 8))
    cache.append(*tokens(9))


def test_the_session_does_not_keep_a_graph_of_gradients() -> None:
    gate = wild_gate(seed=6)
    cache = fed(Gated(2, 7, 3, 14, gate=gate), [11])
    cache.append(tokens(9)[0].requires_grad_(), tokens(9)[1])
    assert not cache.view().keys.requires_grad
    assert all(not part.requires_grad for part in cache.snapshot().state)


def test_an_unused_window_is_plain_attention() -> None:
    query = torch.randn(3, 2, 1, 8)
    view = fed(Gated(2, T, 3, T + 9, gate=GATE), [13, 27]).view()
    seen = attend(rotate(query, torch.tensor([T]), SPEC.rope_base), view.keys, view.values)
    torch.testing.assert_close(seen, plain(query, *tokens(T)), rtol=0, atol=0)
