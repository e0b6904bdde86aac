"""The clock of a simulated robot: how much simulated time is due, and how fast it passes in truth.

The robot does not wait for anybody, but the machine under it can be too slow. What is a little late is made up for;
what is later than that is lost: simulated time goes slower than was asked, and `achieved` says how fast it went.
"""

from __future__ import annotations

from collections import deque

LATE_S = 0.25  # of the wall clock; later than this is not made up for, so that time never races
_WINDOW_S = 5.0  # of the wall clock, that `achieved` looks back
_MARK_S = 0.1
SLOW = 0.95  # share of the asked factor below which the clock is slow


class SimulatedClock:
    """Simulated time that follows the wall clock as well as it can.

    Args:
        tick_s: simulated seconds of one tick.
        factor: simulated seconds per second of the wall clock.
        now_s: of the wall clock, monotonic.

    Attributes:
        ticks: that have passed.
        lost_s: seconds of the wall clock in which no simulated time passed, for the machine was too slow.

    Raises:
        ValueError: a tick or a factor that is not positive.
    """

    def __init__(self, tick_s: float, factor: float, now_s: float) -> None:
        if not tick_s > 0.0 or not factor > 0.0:
            raise ValueError(f"tick_s is {tick_s}, factor {factor}: expected positive numbers")
        self.tick_s = tick_s
        self.ticks = 0
        self.lost_s = 0.0
        self.factor = factor
        self.restart(now_s)

    def restart(self, now_s: float, factor: float | None = None) -> None:
        """Go on from here: what was due until now is forgotten, and so is how fast time has passed."""
        self.factor = self.factor if factor is None else factor
        self._next_s = now_s + self._period_s
        self._marks: deque[tuple[float, int]] = deque([(now_s, self.ticks)])

    @property
    def _period_s(self) -> float:
        return self.tick_s / self.factor

    @property
    def time_s(self) -> float:
        """Simulated seconds that have passed."""
        return self.ticks * self.tick_s

    def when(self, ticks: int = 1) -> float:
        """Return when the tick so many ticks from now is due, on the wall clock."""
        return self._next_s + (ticks - 1) * self._period_s

    def due(self, now_s: float) -> int:
        """Return how many ticks are due. What is later than LATE_S is lost, but for one tick."""
        behind_s = now_s - self._next_s
        if behind_s < 0.0:
            return 0
        if behind_s > LATE_S:
            self.lost_s += behind_s - LATE_S
            self._next_s = now_s - LATE_S
            behind_s = LATE_S
        return 1 + int(behind_s / self._period_s)

    def passed(self, now_s: float, ticks: int = 1) -> None:
        """Take note that `ticks` have passed."""
        self.ticks += ticks
        self._next_s += ticks * self._period_s
        if now_s - self._marks[-1][0] >= _MARK_S:
            self._marks.append((now_s, self.ticks))
            while len(self._marks) > 1 and now_s - self._marks[1][0] >= _WINDOW_S:
                self._marks.popleft()

    def achieved(self, now_s: float) -> float:
        """Return simulated seconds per second over the last seconds; the asked factor before anything is known."""
        begin_s, begin = self._marks[0]
        if now_s - begin_s < 1.0:
            return self.factor
        return (self.ticks - begin) * self.tick_s / (now_s - begin_s)

    def slow(self, now_s: float) -> str:
        """Return a sentence when simulated time passes slower than was asked, empty when it does not."""
        achieved = self.achieved(now_s)
        if achieved >= SLOW * self.factor:
            return ""
        return (
            f"the simulated clock runs at {achieved:.2f} of real time instead of {self.factor:g}: this machine is too "
            "slow; set smaller pictures, fewer pictures a second, or a smaller real_time_factor"
        )
