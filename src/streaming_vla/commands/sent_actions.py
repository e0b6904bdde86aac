"""The suite's own `action` messages as what the robot did: which of them was played when.

An action is sent before it is played. The executor's state says which one is played; without it the messages are
played as the executor would, one each period, those of a newer context in place of what an older one still has waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.commands.finite import finite

ACTION = "streaming_vla_interfaces/msg/Action"
EXECUTION_STATE = "streaming_vla_interfaces/msg/ExecutionState"
PLAYING = (2,)  # modes of ExecutionState in which an action is executed
HOLDING = (3, 4)  # modes in which the robot keeps or slowly ends what it did
KEPT = 4096  # actions of which the values are remembered
Vector = npt.NDArray[np.float64]


class SentActions:
    """Keeps the actions that were sent, and says which one a step plays.

    Args:
        size: numbers of an action.
        absolute: of each, whether a hold keeps it; a change is zero in a hold.

    Attributes:
        timed: the executor's state says what is played.
    """

    def __init__(self, size: int, absolute: Sequence[bool]) -> None:
        self._size, self._absolute = size, np.asarray(absolute)
        self._values: dict[tuple[int, int, int], Vector] = {}
        self._waiting: deque[tuple[int, int, Vector]] = deque()  # context, index, values
        self._episode: int | None = None
        self.timed = False
        self._playing: Vector | None = None

    @property
    def waiting(self) -> int:
        """Actions that have not been played, where nothing tells when they were."""
        return len(self._waiting)

    def take(self, message: Any) -> None:
        """Take an Action.

        Raises:
            ValueError: it has another number of values, or one that is not finite.
        """
        values = np.array(message.values, dtype=np.float64)
        if len(values) != self._size:
            raise ValueError(f"the action has {len(values)} numbers, expected {self._size}: set action_names")
        finite(values, "the action")
        if message.episode != self._episode:
            self._waiting.clear()
            self._episode = message.episode
        if self._waiting and message.context > self._waiting[-1][0]:
            self._waiting.clear()  # as at a hand-over
        if not self._waiting or message.context == self._waiting[-1][0]:
            self._waiting.append((message.context, message.index, values))
        self._values[message.episode, message.context, message.index] = values
        while len(self._values) > KEPT:
            self._values.pop(next(iter(self._values)))

    def take_state(self, message: Any) -> bool:
        """Take an ExecutionState; True when it tells what the robot does.

        Raises:
            ValueError: it plays an action that is not in the recording.
        """
        self.timed = True
        if getattr(message, "dry_run", False):  # somebody else told the robot what to do
            self._playing = None
            return False
        if message.mode in PLAYING:
            key = (message.episode, message.context, message.index)
            if key not in self._values:
                self._playing = None
                raise ValueError(f"action {message.index} of context {message.context} was played, but is not recorded")
            self._playing = self._values[key]
            return True
        if message.mode in HOLDING and self._playing is not None:
            self._playing = np.where(self._absolute, self._playing, 0.0)
            return True
        self._playing = None
        return False

    def known(self) -> bool:
        """True when there is an action to play."""
        return self._playing is not None or (not self.timed and bool(self._waiting))

    def action(self, now_s: float) -> Vector | None:
        """Return the action [A] of the step that ends at `now_s`; None when there is none."""
        if not self.timed:
            if self._waiting:
                self._playing = self._waiting.popleft()[2]
            elif self._playing is not None:  # the executor holds
                self._playing = np.where(self._absolute, self._playing, 0.0)
        return self._playing

    def forget(self) -> None:
        """Forget what was played, not what was sent: an action comes before its episode's first step."""
        self._waiting.clear()
        self._playing = None
