"""What became of every chunk of an episode, told by a cache's counts after each observation, live or recorded."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class Fate(enum.Enum):
    """Where the tokens of a chunk are at the end; the values are for readers."""

    KEPT = "kept as a summary"
    DROPPED = "dropped"
    EVICTED = "evicted"  # was a summary until the budget was used up
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
            held: numbers of the chunks that are held as summaries; None where nobody can tell: then the worst summary,
                the oldest among equals, was evicted.
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

    def fates(self) -> list[ChunkFate]:
        """Return the fate of every chunk that has left the window, the oldest first."""
        return [ChunkFate(number, score, self._fate(number)) for number, score in enumerate(self._scores)]

    def _fate(self, number: int) -> Fate:
        if number in self._held:
            return Fate.KEPT
        return Fate.EVICTED if number in self._ever_kept else Fate.DROPPED

    def _utility(self, number: int) -> float:
        score = self._scores[number]
        return 0.0 if score is None else score
