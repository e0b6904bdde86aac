"""The fate of chunks that leave the recent window: kept word for word, summarised, dropped or evicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import accumulate, compress

import torch
from torch import Tensor

from kv_cache.checks import is_finite
from kv_cache.chunks import Chunks, State
from kv_cache.policies.base import CachePolicy
from kv_cache.slots import joined, pick
from kv_cache.view import Ledger

SCORES_SHOWN = 16
Sources = tuple[Tensor, ...]  # tokens [L, Hkv, T, d], one tensor after the other


@dataclass(frozen=True)
class Judgement:
    """What becomes of the tokens of a session.

    Args:
        ledger: after it.
        places: what lives on, in order, in pieces of the tokens of `keys`, of `values` and of `mass`.
        keys, values: tokens that were there, and summaries that were made; keys before rotation.
        mass: [tokens], attention received; empty when the policy does not read queries.
        state: of the policy.
    """

    ledger: Ledger
    places: list[range]
    keys: Sources
    values: Sources
    mass: Tensor
    state: State


def judge(
    policy: CachePolicy, grown: Ledger, keys: Sources, values: Sources, mass: Tensor, state: State, leaving: int
) -> Judgement:
    """Judge the `leaving` oldest chunks of the recent tokens.

    Args:
        grown: the ledger with the new tokens counted.
        keys, values: held and new tokens, keys before rotation.
        mass: [held + new], attention received; empty when the policy does not read queries.

    Raises:
        ValueError: the policy gives scores or summaries that are not finite.
    """
    sizes = policy.sizes
    first = grown.sinks + grown.memory
    last, recents = first + leaving * sizes.chunk, range(first + leaving * sizes.chunk, grown.tokens)
    left = replace(grown, recents=len(recents))
    if not sizes.summaries and not policy.scored:  # nothing can be kept: nobody needs to look
        after = replace(left, dropped=left.dropped + leaving)
        return Judgement(after, joined((range(first), recents)), keys, values, mass, state)
    number = grown.kept + grown.dropped
    chunks = _chunks(policy, [range(first, last)], keys, values, mass, number)
    scored, state = policy.score(chunks, state)
    scores = tuple(scored[0].tolist())
    if not all(map(math.isfinite, scores)):
        raise _damaged(policy)
    kept = [place for place, score in enumerate(scores) if score >= policy.least_score]
    own = [sizes.chunk if scores[place] >= policy.exact else 1 for place in kept]
    judged = replace(
        left,
        numbers=left.numbers + tuple(number + place for place in kept),
        scores=left.scores + tuple(scores[place] for place in kept),
        lengths=left.lengths + tuple(own),
        kept=left.kept + len(kept),
        dropped=left.dropped + leaving - len(kept),
        newest_scores=(left.newest_scores + scores)[-SCORES_SHOWN:] if policy.scored else (),
    )
    if 1 in own:  # what is dropped, or stays word for word, needs no summary
        made_keys, made_values, made_mass = _summaries(policy, chunks)
        keys, values, mass = (*keys, made_keys), (*values, made_values), torch.cat((mass, made_mass))
    begins = [
        grown.tokens + place if length == 1 else first + place * length for place, length in zip(kept, own, strict=True)
    ]
    spots = [range(begin, begin + length) for begin, length in zip(begins, own, strict=True)]
    return fit(policy, judged, spots, recents, keys, values, mass, state)


def fit(
    policy: CachePolicy,
    ledger: Ledger,
    newest: Sequence[range],
    recents: range,
    keys: Sources,
    values: Sources,
    mass: Tensor,
    state: State,
) -> Judgement:
    """Bring the chunks that are kept into the budget.

    The one of lowest utility, the oldest among equals, gives up its tokens for a summary; if that is not enough, it is
    evicted, and the next one follows.

    Args:
        ledger: of all chunks that are kept.
        newest: places of those that were kept just now, behind the ones that are held already.
        recents: places of the recent tokens.

    Raises:
        ValueError: the policy gives summaries that are not finite.
    """
    held = len(ledger.lengths) - len(newest)
    begins = list(accumulate(ledger.lengths[:held], initial=ledger.sinks))
    if ledger.memory <= policy.sizes.summaries:
        return Judgement(ledger, joined((range(begins[-1]), *newest, recents)), keys, values, mass, state)
    spots = [*map(range, begins, begins[1:]), *newest]
    utilities = policy.utilities(torch.tensor(ledger.scores), _received(policy, spots, mass)).tolist()
    lengths = _lengths(policy, list(zip(utilities, range(len(spots)), strict=True)), list(ledger.lengths), held)
    shortened = [place for place, length in enumerate(lengths) if length == 1 < len(spots[place])]
    if shortened:
        total = sum(part.shape[2] for part in keys)
        cut = _chunks(policy, [spots[place] for place in shortened], keys, values, mass, 0)
        made_keys, made_values, made_mass = _summaries(policy, cut)
        keys, values, mass = (*keys, made_keys), (*values, made_values), torch.cat((mass, made_mass))
        for summary, place in enumerate(shortened, start=total):
            spots[place] = range(summary, summary + 1)
    after = replace(
        ledger,
        numbers=tuple(compress(ledger.numbers, lengths)),
        scores=tuple(compress(ledger.scores, lengths)),
        lengths=tuple(compress(lengths, lengths)),
        evicted=ledger.evicted + lengths.count(0),
    )
    places = joined((range(ledger.sinks), *compress(spots, lengths), recents))
    return Judgement(after, places, keys, values, mass, state)


def _lengths(policy: CachePolicy, utilities: list[tuple[float, int]], lengths: list[int], held: int) -> list[int]:
    """Return how many tokens of each chunk stay, 0, 1 or all.

    The first `held` chunks are there, the others come one by one: what stays does not depend on how many come at once.

    Args:
        utilities: of all chunks, with their places.
        lengths: tokens of all chunks.
    """
    lowest, total = utilities[:held], sum(lengths[:held])
    heapify(lowest)
    for come in range(held, len(lengths) + 1):
        while total > policy.sizes.summaries:
            place = lowest[0][1]
            total -= max(1, lengths[place] - 1)
            lengths[place] = min(1, lengths[place] - 1)  # all, its summary, nothing
            if not lengths[place]:
                heappop(lowest)
        if come < len(lengths):
            heappush(lowest, utilities[come])
            total += lengths[come]
    return lengths


def _chunks(
    policy: CachePolicy, spots: list[range], keys: Sources, values: Sources, mass: Tensor, number: int
) -> Chunks:
    """Return whole chunks at places; `number` is that of the first one."""
    spots, chunk = joined(spots), policy.sizes.chunk
    cut_keys, cut_values = (pick(part, spots).unflatten(2, (-1, chunk)).unsqueeze(0) for part in (keys, values))
    count = cut_keys.shape[3]
    if policy.reads_queries:
        received = pick((mass,), spots, dim=0).view(1, count, chunk).sum(dim=-1)
    else:
        received = torch.zeros(1, count, device=mass.device)
    return Chunks(cut_keys, cut_values, torch.tensor([number], device=mass.device), None, received)


def _summaries(policy: CachePolicy, chunks: Chunks) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values [L, Hkv, n, d], and the mass [n] or, where queries are not read, [0]."""
    keys, values = (made[0] for made in policy.summarise(chunks))
    if not (is_finite(keys) and is_finite(values)):
        raise _damaged(policy)
    return keys, values, chunks.mass[0] if policy.reads_queries else chunks.mass[0, :0]


def _received(policy: CachePolicy, spots: list[range], mass: Tensor) -> Tensor:
    """Return the attention that the tokens at each spot have received, [spots], on the CPU."""
    if not policy.reads_queries:
        return mass.cpu()
    place = torch.tensor([place for spot in spots for place in spot])
    spot = torch.arange(len(spots)).repeat_interleave(torch.tensor([len(each) for each in spots]))
    return torch.zeros(len(spots), dtype=mass.dtype).index_add(0, spot, mass.cpu()[place])


def _damaged(policy: CachePolicy) -> ValueError:
    return ValueError(f"cache policy {policy.name}: scores or summaries are not finite; its weights are damaged")
