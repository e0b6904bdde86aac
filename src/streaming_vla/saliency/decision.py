"""When an observation may be taken early; the rules without a model, and what one with a model has to offer."""

from __future__ import annotations

from typing import Protocol


class EarlyDecision(Protocol):
    """Decides about an early observation; the must-send rules are not its business."""

    def decide(self, actions_left: int, now: float) -> bool | None:
        """Return whether to observe now, while actions are still to be executed.

        Args:
            actions_left: actions of the context that are not done, the one being played included.
            now: seconds on the caller's clock.

        Returns:
            None when it is not known yet; the question comes again with the next action.
        """
        ...


class Never:
    """Observe only when nothing is left to execute (sequential control)."""

    def decide(self, actions_left: int, now: float) -> bool:
        """Return False."""
        return False


class Always:
    """Observe early every time."""

    def decide(self, actions_left: int, now: float) -> bool:
        """Return True."""
        return True
