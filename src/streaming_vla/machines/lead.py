"""How many actions must be granted ahead, from how long actions take to come."""

from __future__ import annotations

import math
from collections import deque

from streaming_vla.machines.latency import LatencyTracker

ROUNDING = 1e-6  # of an action; keeps ceil() from counting float noise as an action more
MOST_AHEAD = 12  # actions; more than that no way to a model may take
LATENCIES_REMEMBERED = 256  # newest, whose spread says how many actions must be granted ahead
FEW_LATENCIES = 128  # with so many known the margin is twice as wide as in the end: what is rare was not seen yet
LATENCIES_TO_LEARN = 7  # before so many are known, nothing is known
RESTED = 1.25  # times its work behind the one before it: an action that comes so late had not to wait for it
UNKNOWN_AHEAD = 6  # actions, then: what is granted too much costs the model's time, what comes too late stops the arm


class ActionsAhead:
    """Follows the time from the grant of a step to its action: the way there and back, waiting and the model's work.

    Steps that are granted ahead wait for those before them, which is no reason to grant more of them: so a step counts
    from the moment at which the model could begin it. Both moments are of this side; how long the model took is told
    by its actions.
    """

    def __init__(self) -> None:
        self.latency = LatencyTracker(warm_up=1)
        self._newest_s: deque[float] = deque(maxlen=LATENCIES_REMEMBERED)
        self._free_s = -math.inf  # when the model was free for the next step, had the grants no way to go
        self._came_s = -math.inf  # when the newest action came
        self._way_s: float | None = None  # there and back, of the newest action; None: not known yet

    def on_action(self, granted_s: float | None, work_s: float, now: float) -> None:
        """An action has come.

        Args:
            granted_s: when its step was granted, seconds; None: not to be counted, as of a context that did not exist.
            work_s: of the model, and waiting for it, seconds.
            now: seconds.
        """
        rested = now - self._came_s > RESTED * work_s  # between this action and the one before it
        self._came_s = now
        if granted_s is None or (self._way_s is None and not rested):
            self._free_s = -math.inf if self._way_s is None else now - self._way_s
            return
        begin_s = min(now, max(granted_s, self._free_s))  # ROS time may be set back
        latency_s = now - begin_s
        self._free_s, self._way_s = begin_s + work_s, max(0.0, latency_s - work_s)
        self.learn(latency_s)

    def learn(self, latency_s: float) -> None:
        """An action took so long to come, seconds."""
        self.latency.add(latency_s)
        if self.latency.smoothed_s is not None:  # the cold first step would keep the margin wide for hundreds
            self._newest_s.append(latency_s)

    def actions(self, control_period_s: float, least: int) -> int:
        """Return how many actions must be granted and not begun, so that none comes too late.

        As long as the longest of the newest latencies lasts, with its distance to the shortest as margin.

        Args:
            control_period_s: an action lasts so long, seconds.
            least: actions.
        """
        newest_s = self._newest_s
        if len(newest_s) < LATENCIES_TO_LEARN:
            return max(least, UNKNOWN_AHEAD)
        needed_s = max(newest_s) + self._spread_s * (1.0 + FEW_LATENCIES / len(newest_s))
        return max(least, min(MOST_AHEAD, math.ceil(needed_s / control_period_s - ROUNDING)))

    def in_stock(self, control_period_s: float) -> int:
        """Return how many actions that have come outlast the next one, should it take as long as the longest did."""
        return max(1, min(MOST_AHEAD, math.ceil(self._spread_s / control_period_s - ROUNDING)))

    @property
    def _spread_s(self) -> float:
        newest_s = self._newest_s
        return max(newest_s) - min(newest_s) if len(newest_s) >= LATENCIES_TO_LEARN else 0.0
