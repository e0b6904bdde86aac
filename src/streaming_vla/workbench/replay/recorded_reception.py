"""What the live observer had received when it took each observation.

A bag tells when a picture reached the recorder, not when it reached the observer beside it. Which picture and which
state the observer had is told by the observation itself: what is newer came after it.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.replay.recorded_times import RecordedEpisode

EARLIER_S = 0.02  # a picture that comes so long before the observer hears of a request may be handled after it
AFTER_S = 1e-6
SAME_STAMP_S = 1e-6  # seconds as a float: nanoseconds are rounded


class Reception:
    """Says when the observer receives pictures and states that came at about the time of an observation.

    Args:
        times: of the episode.
        ahead_s: leads from the virtual clock to the recorder's.
    """

    def __init__(self, times: RecordedEpisode, ahead_s: float) -> None:
        self._times = times
        self._ahead_s = ahead_s
        numbers = [number for number in times.seen if number in times.observed]
        self._numbers = sorted(numbers, key=lambda number: times.observed[number][1])
        self._ends_s = [times.observed[number][1] for number in self._numbers]
        self._newest_stamp_s = float("-inf")
        self._newest_state: Vector | None = None

    def frame(self, stamp_s: float, now_s: float) -> float:
        """Return in how many seconds the observer receives a picture that was taken at `stamp_s`."""
        number = self._number(now_s)
        if number is not None and stamp_s > self._times.seen[number].stamp_s + SAME_STAMP_S:
            return self._after_s(number, now_s)
        return 0.0

    def state(self, values: Vector, now_s: float) -> float:
        """Return in how many seconds the observer receives a robot state, [state_size]."""
        state = values.astype(np.float32)
        number = self._number(now_s)
        if number is not None and self._newest_state is not None:
            seen = self._times.seen[number].state
            if np.array_equal(self._newest_state, seen) and not np.array_equal(state, seen):
                return self._after_s(number, now_s)
        return 0.0

    def frame_received(self, stamp_s: float) -> None:
        """The observer has a picture that was taken at `stamp_s`."""
        self._newest_stamp_s = max(self._newest_stamp_s, stamp_s)

    def state_received(self, values: Vector) -> None:
        """The observer has a robot state."""
        self._newest_state = values.astype(np.float32)

    def complete(self, sequence: int) -> bool:
        """True when the observer has received what observation `sequence` shows."""
        seen = self._times.seen.get(sequence)
        if seen is None:
            return True
        same = abs(self._newest_stamp_s - seen.stamp_s) <= SAME_STAMP_S
        return same and self._newest_state is not None and np.array_equal(self._newest_state, seen.state)

    def _number(self, now_s: float) -> int | None:
        """Return the observation that is taken at about `now_s`, None for none."""
        time_s = now_s + self._ahead_s
        place = bisect_left(self._ends_s, time_s)
        if place == len(self._numbers):
            return None
        number = self._numbers[place]
        return number if time_s >= self._times.observed[number][0] - EARLIER_S else None

    def _after_s(self, number: int, now_s: float) -> float:
        return self._times.observed[number][1] + AFTER_S - (now_s + self._ahead_s)
