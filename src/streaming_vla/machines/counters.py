"""Counters of what a machine dropped, refused, limited or repeated, by reason."""

from __future__ import annotations


class Counters:
    """Counts by reason; a reason is a short snake_case word, with `.name` behind it where it concerns one thing."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def count(self, reason: str, times: int = 1) -> None:
        """Add `times` to `reason`; a reason that was never counted is none."""
        if times:
            self._counts[reason] = self._counts.get(reason, 0) + times

    def __getitem__(self, reason: str) -> int:
        """Return how often `reason` was counted; 0 when never."""
        return self._counts.get(reason, 0)

    def as_dict(self) -> dict[str, int]:
        """Return a copy of all counts, sorted by reason."""
        return dict(sorted(self._counts.items()))
