"""What a cache held at the end of an episode, and whether the cue of a memory task is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streaming_vla.sim.memory_episode import MemoryEpisode
from streaming_vla.workbench.evaluation.chunk_log import ChunkFate, Fate
from streaming_vla.workbench.evaluation.closed_loop_runner import ClosedLoopRunner


@dataclass(frozen=True)
class MemoryOutcome:
    """The cache at the end of an episode.

    Args:
        observations: that it was given.
        tokens, bytes: held, tokens that wait for their chunk to fill included.
        allocated_bytes: reserved, with the copy that keeps the older context readable.
        full_tokens: what a full cache would hold.
        kept, dropped, evicted: chunks.
        cue: class of the cue of a memory task; None in every other task.
        cue_held: something is held of every part of the cue (of every blink), as it was or in a summary; parts that no
            observation has seen do not count.
    """

    observations: int
    tokens: int
    bytes: int
    allocated_bytes: int
    full_tokens: int
    kept: int
    dropped: int
    evicted: int
    cue: int | None = None
    cue_held: bool = False


def span_of(number: int, sinks: int, chunk: int, block: int) -> tuple[int, int]:
    """Return the first and the last observation, of `block` tokens, that a chunk has tokens of."""
    first = sinks + number * chunk
    return first // block, (first + chunk - 1) // block


def held_observations(runner: ClosedLoopRunner, block: int) -> set[int]:
    """Return the observations of which something is held, as it was or in a summary."""
    sizes, stats = runner.cache.policy.sizes, runner.cache.stats()
    judged = stats.chunks_kept + stats.chunks_dropped
    held = set(range(-(-sizes.sinks // block)))
    held |= set(range((sizes.sinks + judged * sizes.chunk) // block, len(runner.looks)))
    for number, _ in runner.cache.kept_chunks():
        first, last = span_of(number, sizes.sinks, sizes.chunk, block)
        held |= set(range(first, last + 1))
    return held


def outcome_of(runner: ClosedLoopRunner, block: int, memory: MemoryEpisode | None) -> MemoryOutcome:
    """Return what the runner's cache holds now.

    Args:
        block: tokens of an observation.
        memory: the episode of a memory task.
    """
    stats = runner.cache.stats()
    cue_held = False
    if memory is not None:
        held = held_observations(runner, block)
        seen = [
            {number for number, step in enumerate(runner.looks) if begin <= step < end}
            for begin, end in memory.cue_parts
        ]
        cue_held = all(looks & held for looks in seen if looks)
    return MemoryOutcome(
        len(runner.looks),
        stats.tokens,
        stats.bytes,
        stats.allocated_bytes,
        stats.full_tokens,
        stats.chunks_kept,
        stats.chunks_dropped,
        stats.chunks_evicted,
        None if memory is None else memory.answer,
        cue_held,
    )


def fates_by_observation(
    fates: Sequence[ChunkFate], observations: int, sinks: int, chunk: int, block: int
) -> list[tuple[Fate, float | None]]:
    """Return fate and best score of every observation: of several chunks the one that lives on counts."""
    order = (Fate.WINDOW, Fate.DROPPED, Fate.EVICTED, Fate.KEPT, Fate.EXACT)
    found: list[tuple[Fate, float | None]] = [(Fate.WINDOW, None)] * observations
    for each in fates:
        first, last = span_of(each.number, sinks, chunk, block)
        for place in range(first, min(last + 1, observations)):
            fate, score = found[place]
            better = max(fate, each.fate, key=order.index)
            scores = [value for value in (score, each.score) if value is not None]
            found[place] = better, max(scores, default=None)
    return found
