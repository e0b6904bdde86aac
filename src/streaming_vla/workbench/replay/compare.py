"""The numbers of a replay, and how they compare with what the bag's robot did."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from streaming_vla.machines.events import Mode, Reason
from streaming_vla.machines.halting import measure
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.replay.replay import Replayed, ReplayedEpisode
from streaming_vla.workbench.replay.shadow import summarise_shadows
from streaming_vla.workbench.report.records import EpisodeRecord, RequestAt, StateAt
from streaming_vla.workbench.report.results import aggregate, halting
from streaming_vla.workbench.report.statistics import summarise

MS = 1000.0


def summarise_replays(
    replays: Sequence[Replayed], names: Sequence[str], threshold: float | None = None
) -> dict[str, Any]:
    """Return the numbers of all episodes of all bags, ready for JSON.

    Args:
        names: of the action's dimensions.
        threshold: of the saliency, where the monitor's mode reads one.

    Raises:
        ValueError: no bag holds an episode.
    """
    episodes = [episode for each in replays for episode in each.episodes]
    if not episodes:
        said = "; ".join(problem for each in replays for problem in each.problems)
        raise ValueError(
            "the bags hold no episode in which every camera and the robot's state were heard"
            + (f": {said}" if said else "")
        )
    records = [episode.record for episode in episodes]
    numbers = aggregate(records)
    for name in ("success", "success_rate", "success_interval_95", "episode_s", "actions_per_solved", "episode"):
        numbers.pop(name)  # a recording goes on as it did, whatever the replayed suite does
    bags = [
        {
            "bag": str(each.bag),
            "seconds": each.duration_s,
            "episodes": len(each.episodes),
            "latencies": each.latencies,
            "problems": each.problems,
        }
        for each in replays
    ]
    return {
        **numbers,
        "bags": bags,
        "kv_cache": _cache(episodes),
        "saliency": _saliency([value for episode in episodes for _, value in episode.judged], threshold),
        "live": _live(episodes),
        "action_error": action_error(episodes, names),
        "shadow": summarise_shadows([each.shadow for each in replays if each.shadow is not None]),
    }


def _saliency(values: Sequence[float], threshold: float | None) -> dict[str, Any]:
    """Return the summary of all saliencies, the threshold, and the share that is at or above it."""
    share = None if threshold is None or not values else float(np.mean(np.asarray(values) >= threshold))
    return {**asdict(summarise(values)), "threshold": threshold, "share_above": share}


def action_error(episodes: Sequence[ReplayedEpisode], names: Sequence[str]) -> dict[str, Any]:
    """Return mean |replayed - recorded| per dimension (action units), and the same per step of the horizon.

    An action is compared with the one that the robot was executing when it would have been played. Empty when the
    bags hold no actions of the policy's size.
    """
    errors: list[Vector] = []
    by_index: dict[int, list[Vector]] = defaultdict(list)
    for episode in episodes:
        done = episode.live.played()
        times = [time_s for time_s, _ in done]
        for time_s, index, values in played(episode):
            place = bisect_right(times, time_s - episode.record.begin_s) - 1
            if place >= 0 and done[place][1].shape == values.shape:
                error = np.abs(values - done[place][1])
                errors.append(error)
                by_index[index].append(error)
    if not errors:
        return {}
    return {
        "compared": len(errors),
        "mean": float(np.mean(errors)),
        "by_dimension": dict(zip(names, np.mean(errors, axis=0).tolist(), strict=True)),
        "by_horizon": {str(index): float(np.mean(by_index[index])) for index in sorted(by_index)},
    }


def played(episode: ReplayedEpisode) -> list[tuple[float, int, Vector]]:
    """Return begin (seconds of the run), index and values of every action that the replay executed."""
    values = {(action.context, action.index): action.values for action in episode.actions}
    found = []
    newest = (-1, -1)
    for at in episode.record.states:
        key = (at.state.context, at.state.index)
        if at.state.mode is Mode.PLAYING and key != newest and key in values:
            found.append((at.time_s, at.state.index, values[key]))
            newest = key
    return found


def decision_agreement(episodes: Sequence[ReplayedEpisode]) -> tuple[int, int]:
    """Return how many observations were asked for as when recorded, and of how many.

    The same is one with the same number and reason, at the same action or the one beside it.
    """
    agreed = total = 0
    for episode in episodes:
        ours = _decisions(episode.record.requests, episode.record.states)
        theirs = _decisions(episode.live.requests, episode.live.states)
        total += max(len(ours), len(theirs))
        for number, (reason, executed) in ours.items():
            other = theirs.get(number)
            agreed += other is not None and other[0] is reason and abs(other[1] - executed) <= 1
    return agreed, total


def _decisions(requests: Sequence[RequestAt], states: Sequence[StateAt]) -> dict[int, tuple[Reason, int]]:
    """Return reason, and actions executed until then, of each observation that was asked for, by its number."""
    times = [at.time_s for at in states]
    found = {}
    for at in requests:
        place = bisect_right(times, at.time_s) - 1
        found[at.sequence] = (at.reason, states[place].state.executed if place >= 0 else 0)
    return found


def _live(episodes: Sequence[ReplayedEpisode]) -> dict[str, Any]:
    """Return what the suite did when whole episodes were recorded; empty for bags of other robots."""
    told = [episode for episode in episodes if episode.live.states and episode.live.whole]
    if not told:
        return {}
    measured = [
        measure([(at.time_s, at.state) for at in episode.live.states], episode.record.control_period_s)
        for episode in told
    ]
    halts = [value for each in measured for value in each.halts_ms]
    replayed = [value for episode in told for value in halting(episode.record).halts_ms]
    agreed, total = decision_agreement(told)
    same, compared, error = same_observations(told)
    live_mean, replay_mean = summarise(halts).mean, summarise(replayed).mean
    return {
        "t_halt": asdict(summarise(halts)),
        "starved_s": sum(each.starved_ms for each in measured) / MS,
        "executed_actions": sum(episode.live.states[-1].state.executed for episode in told),
        "by_reason": _reasons([at.reason for episode in told for at in episode.live.requests]),
        "decision_agreement": agreed / total if total else None,
        "decisions": total,
        "same_observations": same,
        "same_contexts": compared,
        "action_max_error_same_observation": error,
        "halting_ratio_live_to_replay": _ratio(live_mean, replay_mean),
    }


def same_observations(episodes: Sequence[ReplayedEpisode]) -> tuple[int, int, float | None]:
    """Return the observations that are equal to the byte, the contexts that are too, and their actions' largest error.

    A prefill attends to the tokens of the observation before it, and these have attended to those before them. So a
    context is the same when every observation of the episode up to it is. Its flow begins from the action sent
    before it (the newest value of absolute dimensions), so that one must be of the same context and index.
    """
    equal, contexts = 0, set()
    worst = None
    for place, episode in enumerate(episodes):
        live = episode.live
        prefilled = live.prefilled or live.observed.keys()
        same = {number for number, name in episode.observed.items() if live.observed.get(number) == name}
        equal += len(same)
        different = (prefilled & live.observed.keys()) ^ episode.observed.keys() | episode.observed.keys() - same
        first_different = min(different, default=math.inf)
        ours = [(action.context, action.index) for action in episode.actions]
        theirs = list(live.actions)
        before = dict(zip(theirs, [None, *theirs], strict=False))
        for action, key, previous in zip(episode.actions, ours, [None, *ours], strict=False):
            if key[0] >= first_different or key not in live.actions:
                continue
            if key[1] == 0 and before[key] == previous:
                contexts.add((place, key[0]))
            if (place, key[0]) in contexts:
                error = float(np.abs(action.values - live.actions[key]).max())
                worst = error if worst is None else max(worst, error)
    return equal, len(contexts), worst


def _ratio(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    if second == 0.0:
        return 1.0 if first == 0.0 else None
    return first / second


def _reasons(reasons: Sequence[Reason]) -> dict[str, int]:
    counts = Counter(reasons)
    return {reason.name.lower(): counts[reason] for reason in Reason}


def _cache(episodes: Sequence[ReplayedEpisode]) -> dict[str, Any]:
    stats = [each for episode in episodes for each in episode.record.cache]
    if not stats:
        return {}
    last = [episode.record.cache[-1] for episode in episodes if episode.record.cache]
    return {
        "policy": stats[-1].policy,
        "bytes": asdict(summarise(each.bytes for each in stats)),
        "full_bytes": asdict(summarise(each.full_bytes for each in stats)),
        "chunks_kept": sum(each.chunks_kept for each in last),
        "chunks_dropped": sum(each.chunks_dropped for each in last),
        "chunks_evicted": sum(each.chunks_evicted for each in last),
    }


def records_of(replays: Sequence[Replayed]) -> list[EpisodeRecord]:
    """Return the records of every episode of every bag."""
    return [episode.record for each in replays for episode in each.episodes]
