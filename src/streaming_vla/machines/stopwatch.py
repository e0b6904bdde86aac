"""Adds up time that is spent in a condition."""

from __future__ import annotations


class Stopwatch:
    """Seconds in a condition that comes and goes, on the caller's clock."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._since_s: float | None = None

    @property
    def running(self) -> bool:
        """True while the condition holds."""
        return self._since_s is not None

    def start(self, now: float) -> None:
        """The condition holds from `now`; nothing changes when it already does."""
        if self._since_s is None:
            self._since_s = now

    def stop(self, now: float) -> None:
        """The condition is over."""
        self._total_s = self.total_s(now)
        self._since_s = None

    def total_s(self, now: float) -> float:
        """Return the seconds up to `now`, those still running included."""
        return self._total_s + (now - self._since_s if self._since_s is not None else 0.0)
