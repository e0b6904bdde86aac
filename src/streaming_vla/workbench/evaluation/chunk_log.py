"""What became of every chunk of an episode, told by a cache's counts after each observation, live or recorded."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kv_cache.policies.base import Sizes


class Fate(enum.Enum):
    """Where the tokens of a chunk are at the end; the values are for readers."""

    EXACT = "kept word for word"
    KEPT = "kept as a summary"
    DROPPED = "dropped"
    EVICTED = "evicted"  # was kept until the budget was used up
    WINDOW = "in the window"


@dataclass(frozen=True)
class ChunkFate:
    """One chunk.

    Args:
        number: since the episode began.
        score: that it was judged by; None where nothing is scored.
    """

    number: int
    score: float | None
    fate: Fate


class Counts(Protocol):
    """What CacheStats, KvCacheStats.msg and records of them have in common."""

    @property
    def tokens(self) -> int: ...
    @property
    def full_tokens(self) -> int: ...
    @property
    def chunks_kept(self) -> int: ...
    @property
    def chunks_dropped(self) -> int: ...
    @property
    def chunks_evicted(self) -> int: ...


def held_exactly(told: Counts, sizes: Sizes) -> int:
    """Return how many chunks a cache holds word for word: as many tokens are held beyond one for each chunk."""
    sinks, held = min(sizes.sinks, told.full_tokens), told.chunks_kept - told.chunks_evicted
    recents = told.full_tokens - sinks - sizes.chunk * (told.chunks_kept + told.chunks_dropped)
    return (told.tokens - sinks - recents - held) // (sizes.chunk - 1) if sizes.chunk > 1 else 0


class ChunkLog:
    """Follows the counts of CacheStats or KvCacheStats.msg; call `add` after every observation, without a gap."""

    def __init__(self) -> None:
        self._scores: list[float | None] = []
        self._ever_kept: set[int] = set()
        self._held: set[int] = set()
        self._evicted = 0

    def add(
        self,
        kept: int,
        dropped: int,
        evicted: int,
        scores: Sequence[float],
        held: Iterable[int] | None = None,
    ) -> None:
        """Take the counts after an observation.

        Args:
            kept, dropped, evicted: chunks since the episode began.
            scores: of the newest chunks, newest last; empty where nothing is scored.
            held: numbers of the chunks that are held; None where nobody can tell: then the worst of them, the oldest
                among equals, was evicted.
        """
        first, new = len(self._scores), kept + dropped - len(self._scores)
        self._scores += list(scores[-new:]) if 0 < new <= len(scores) else [None] * new
        best = sorted(range(first, first + new), key=self._utility, reverse=True)
        newly_kept = set(best[: kept - len(self._ever_kept)])
        self._ever_kept |= newly_kept
        if held is not None:
            self._held = set(held)
        else:
            self._held |= newly_kept
            for _ in range(evicted - self._evicted):
                self._held.remove(min(self._held, key=lambda number: (self._utility(number), number)))
        self._evicted = evicted

    def fates(self, exact: int = 0) -> list[ChunkFate]:
        """Return the fate of every chunk that has left the window, the oldest first.

        Args:
            exact: how many are held word for word: the best of those that are held, the newest among equals.
        """
        ascending = sorted(self._held, key=lambda number: (self._utility(number), number))
        whole = set(ascending[len(ascending) - exact :])
        return [ChunkFate(number, score, self._fate(number, whole)) for number, score in enumerate(self._scores)]

    def _fate(self, number: int, whole: set[int]) -> Fate:
        if number in self._held:
            return Fate.EXACT if number in whole else Fate.KEPT
        return Fate.EVICTED if number in self._ever_kept else Fate.DROPPED

    def _utility(self, number: int) -> float:
        score = self._scores[number]
        return 0.0 if score is None else score
