"""The clock of a node's deadlines: the process's own, or one that a simulation publishes and that may slow down.

A published clock comes in ticks. Between two of them time goes on at the pace of the ticks before, a little further
than the next tick at most: when the simulation stands still, so does everything that follows its clock.
"""

from __future__ import annotations

import math

# A longer step, or one back, is another clock or the same one begun anew: nobody knows how much time has passed. It
# counts as so much, which makes what was heard before it old. Of a process that did not run a long step is none.
JUMP_S = 1.0
FASTEST = 2.0  # a simulation runs ahead of the process's clock
MOST_STEPS_AHEAD = 2.0
SMOOTHING = 0.2  # of the pace, weight of the newest tick


class FollowedClock:
    """Seconds that never go back, whichever clock is followed and however it jumps.

    Args:
        now_s: of the process, monotonic.
    """

    def __init__(self, now_s: float) -> None:
        self._time_s = self._newest_s = now_s  # at the newest tick, and as it was read last
        self._heard_s = now_s  # when that tick was noticed
        self._told_s: float | None = None  # what it said
        self._step_s = 0.0
        self._pace = 1.0  # of the published clock, in seconds of the process

    def read(self, told_s: float | None, now_s: float) -> float:
        """Return the time.

        Args:
            told_s: newest tick of the published clock; None: there is none, the process's own time passes.
            now_s: of the process, monotonic.
        """
        if told_s is None:
            self._time_s = self._newest_s + (now_s - self._heard_s if self._told_s is None else 0.0)
            self._told_s, self._heard_s, self._newest_s = None, now_s, self._time_s
            return self._newest_s
        if told_s != self._told_s:
            self._tick(told_s, now_s)
        ahead_s = min((now_s - self._heard_s) * self._pace, MOST_STEPS_AHEAD * self._step_s)
        self._newest_s = max(self._newest_s, self._time_s + ahead_s)
        return self._newest_s

    def until(self, time_s: float, now_s: float) -> float:
        """Return in how many of the process's seconds it will be `time_s`; infinity: not before the next tick."""
        if self._told_s is None or time_s <= self._newest_s:
            return time_s - self._newest_s
        ahead_s = time_s - self._time_s
        if ahead_s > MOST_STEPS_AHEAD * self._step_s:
            return math.inf
        return ahead_s / self._pace - (now_s - self._heard_s)

    def _tick(self, told_s: float, now_s: float) -> None:
        first, before_s = self._told_s is None, self._told_s or 0.0
        step_s = 0.0 if first else told_s - before_s
        passed_s = max(1e-6, now_s - self._heard_s)
        if 0.0 < step_s <= max(JUMP_S, FASTEST * passed_s):
            self._time_s += step_s
            pace = min(1.0, step_s / passed_s)
            self._pace += SMOOTHING * (pace - self._pace)
            self._step_s = step_s
        else:
            self._time_s, self._step_s = self._newest_s + (0.0 if first else JUMP_S), 0.0
        self._told_s, self._heard_s = told_s, now_s
