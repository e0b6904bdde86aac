"""How many actions wait at the executor where nobody says it: as few as reach it in time."""

from __future__ import annotations

from collections import deque

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.events import ExecutionState, Mode

LEAST, MOST = 1, 4  # actions
WITHOUT_PRIORITY = 2  # to begin with, on a machine that lets other work in front of the control loop
STRIKES = 3  # times that the executor starved beside an action that was on its way
WINDOW = 400  # actions, in which these count: 20 s at 20 Hz
CALM = 2400  # actions without one, and the lead may be shorter again


class OwnLead:
    """Grows when the executor starved though everything that it may have was sent: the way took longer than an action.

    Attributes:
        actions: that wait at the executor behind the one being played.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.actions = self._least = LEAST
        self._mode, self._playing = Mode.IDLE, (-1, -1)  # of the executor: as it said last
        self._played = 0
        self._strikes: deque[int] = deque(maxlen=STRIKES)
        self._changed = 0  # of `_played`, when it was changed or struck last

    def begin_without_priority(self) -> None:
        """The system permits no real-time priority."""
        self.actions = self._least = WITHOUT_PRIORITY

    def on_state(self, state: ExecutionState, all_sent: bool) -> None:
        """Learn what the executor does.

        Args:
            state: that it said.
            all_sent: as many actions are on their way to it as may wait there.
        """
        if all_sent and state.starved and state.mode is Mode.HOLD and self._mode is Mode.PLAYING:
            self.on_late()
        if state.mode is Mode.PLAYING and (state.context, state.index) != self._playing:
            self.on_played()
        self._mode, self._playing = state.mode, (state.context, state.index)

    def on_played(self) -> None:
        """An action has begun."""
        self._played += 1
        if self.actions > self._least and self._played - self._changed >= CALM:
            self._set(self.actions - 1)

    def on_late(self) -> None:
        """The executor starved while an action was on its way to it."""
        self._counters.count("action_late")
        self._strikes.append(self._played)
        self._changed = self._played
        if len(self._strikes) == STRIKES and self._played - self._strikes[0] <= WINDOW and self.actions < MOST:
            self._set(self.actions + 1)

    def _set(self, actions: int) -> None:
        self.actions, self._changed = actions, self._played
        self._strikes.clear()
