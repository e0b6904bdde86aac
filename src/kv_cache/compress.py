"""The fate of chunks that leave the recent window of one session: judged, summarised, dropped or evicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kv_cache.chunks import Chunks, State
from kv_cache.policies.base import CachePolicy
from kv_cache.slots import joined, pick
from kv_cache.view import Ledger

SCORES_SHOWN = 16


@dataclass(frozen=True)
class Judgement:
    """What becomes of the tokens of a session.

    Args:
        ledger: after it.
        places: what lives on, in order, in pieces of [held tokens | new tokens | summaries].
        keys, values: [L, Hkv, n, d], a summary of each chunk that left; keys before rotation.
        mass: [n], attention that the chunks have received.
        state: of the policy.
    """

    ledger: Ledger
    places: list[range]
    keys: Tensor
    values: Tensor
    mass: Tensor
    state: State


def judge(
    policy: CachePolicy,
    grown: Ledger,
    keys: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    mass: Tensor,
    state: State,
    leaving: int,
) -> Judgement:
    """Judge the `leaving` oldest chunks of the recent tokens.

    Args:
        grown: the ledger with the new tokens counted.
        keys, values: held and new tokens, each [L, Hkv, T, d], keys before rotation.
        mass: [held + new], attention received; empty when the policy does not read queries.

    Raises:
        ValueError: the policy gives scores or summaries that are not finite.
    """
    sizes = policy.sizes
    first = grown.sinks + len(grown.numbers)
    last = first + leaving * sizes.chunk
    left = replace(grown, recents=grown.recents - leaving * sizes.chunk)
    if not sizes.summaries and not policy.scored:  # nothing can be kept: nobody needs to look
        nothing = keys[0][:, :, :0]
        places = joined((range(first), range(last, grown.tokens)))
        return Judgement(replace(left, dropped=left.dropped + leaving), places, nothing, nothing, mass[:0], state)
    shape = (1, *keys[0].shape[:2], leaving, sizes.chunk, keys[0].shape[-1])
    chunk_places = [range(first, last)]
    received = mass[first:last] if policy.reads_queries else keys[0].new_zeros(last - first, dtype=torch.float32)
    number = grown.kept + grown.dropped
    chunks = Chunks(
        pick(keys, chunk_places).view(shape),
        pick(values, chunk_places).view(shape),
        first=torch.tensor([number], device=mass.device),
        count=torch.tensor([leaving], device=mass.device),
        mass=received.view(1, leaving, sizes.chunk).sum(dim=-1),
    )
    scored, state = policy.score(chunks, state)
    summary_keys, summary_values = policy.summarise(chunks)
    if not all(bool(torch.isfinite(made).all()) for made in (scored, summary_keys, summary_values)):
        raise ValueError(f"cache policy {policy.name}: scores or summaries are not finite; its weights are damaged")
    scores = tuple(scored[0].tolist())
    kept = [place for place, keep in enumerate((scored[0] >= policy.least_score).tolist()) if keep]
    judged = replace(
        left,
        numbers=left.numbers + tuple(number + place for place in kept),
        scores=left.scores + tuple(scores[place] for place in kept),
        kept=left.kept + len(kept),
        dropped=left.dropped + leaving - len(kept),
        newest_scores=(left.newest_scores + scores)[-SCORES_SHOWN:] if policy.scored else (),
    )
    summaries = [*range(grown.sinks, first), *(grown.tokens + place for place in kept)]
    here = torch.cat((mass, chunks.mass[0]))[summaries] if policy.reads_queries else mass
    ledger, stay = evict(policy, judged, here)
    places = around([summaries[place] for place in stay], grown.sinks, range(last, grown.tokens))
    return Judgement(ledger, places, summary_keys[0], summary_values[0], chunks.mass[0], state)


def around(summaries: Sequence[int], sinks: int, recents: range) -> list[range]:
    """Return the places of the sinks, of `summaries` and of `recents`, in pieces."""
    return joined((range(sinks), *(range(place, place + 1) for place in summaries), recents))


def evict(policy: CachePolicy, ledger: Ledger, mass: Tensor) -> tuple[Ledger, Sequence[int]]:
    """Remove the summaries that the budget has no room for, lowest utility first, oldest first among equals.

    Args:
        mass: [summaries of the ledger], attention received; anything when the policy does not read queries.

    Returns:
        The ledger after it, and which of its summaries stay, ascending.
    """
    count = len(ledger.numbers)
    surplus = count - policy.sizes.summaries
    if surplus <= 0:
        return ledger, range(count)
    utilities = policy.utilities(torch.tensor(ledger.scores), mass.cpu()).tolist()
    order = sorted(range(count), key=lambda place: (utilities[place], place))
    stay = sorted(order[surplus:])
    after = replace(
        ledger,
        numbers=tuple(ledger.numbers[place] for place in stay),
        scores=tuple(ledger.scores[place] for place in stay),
        evicted=ledger.evicted + surplus,
    )
    return after, stay
