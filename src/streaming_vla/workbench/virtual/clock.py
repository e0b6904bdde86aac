"""The clock of a virtual run: events in the order of their time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable


class Clock:
    """Events in the order of their time; those of one time in the order in which they were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let `event` happen `delay_s` seconds from now."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), event))

    def due_s(self) -> float:
        """Return when the next event happens; infinity when there is none."""
        return self._events[0][0] if self._events else math.inf

    def happen(self) -> None:
        """Let the next event happen; its time must have come."""
        heapq.heappop(self._events)[2]()
