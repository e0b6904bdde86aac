"""The executor's queue: takes only the action that follows, plays none that waited too long.

An action follows when it is the next index of the same context, or index 0 of a newer one.
"""

from __future__ import annotations

from collections import deque

from streaming_vla.machines.episodes import is_far_ahead
from streaming_vla.machines.events import Action

MAX_QUEUE = 256  # actions; far above any horizon, bounds memory against a sender gone wild


class ActionQueue:
    """Actions in the order in which they are to be played, with their time of reception."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Action, float]] = deque()
        self._context = -1  # of the newest action that was accepted
        self._next_index: int | None = 0  # None: an accepted action was dropped, only a newer context may follow

    def __len__(self) -> int:
        return len(self._waiting)

    def refuse(self, action: Action) -> str | None:
        """Return why `action` does not follow, or None."""
        if len(self) >= MAX_QUEUE:
            return "queue_full"
        if action.context < self._context:
            return "late"
        if is_far_ahead(action.context, self._context):
            return "far_ahead"
        if action.context > self._context:
            return None if action.index == 0 else "gap"
        if self._next_index is None:
            return "after_flush"
        if action.index < self._next_index:
            return "duplicate"
        return None if action.index == self._next_index else "gap"

    def append(self, action: Action, now: float) -> None:
        """Take an action that `refuse` has nothing against."""
        self._context = action.context
        self._next_index = action.index + 1
        self._waiting.append((action, now))

    def pop(self) -> Action:
        """Return the next action and remove it."""
        return self._waiting.popleft()[0]

    def expires_s(self, max_age_s: float) -> float | None:
        """Return when the next action has waited for `max_age_s`; None when the queue is empty."""
        return self._waiting[0][1] + max_age_s if self._waiting else None

    def drop_old(self, now: float, max_age_s: float) -> list[str]:
        """Drop what has waited for `max_age_s`, and what builds on it; return a reason for each."""
        reasons: list[str] = []
        while (expires_s := self.expires_s(max_age_s)) is not None and now >= expires_s:
            self._waiting.popleft()
            reasons.append("too_old")
        while reasons and self._waiting and self._waiting[0][0].index > 0:
            self._waiting.popleft()
            reasons.append("after_too_old")
        if reasons and not self._waiting:
            self._next_index = None
        return reasons

    def flush(self) -> list[str]:
        """Drop everything; return a reason for each."""
        reasons = ["flushed"] * len(self)
        self._waiting.clear()
        self._next_index = None
        return reasons
