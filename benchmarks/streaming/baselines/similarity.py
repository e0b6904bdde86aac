"""The similarity filter of LeRobot's asynchronous scheme: an observation like the one before is not worth a chunk."""

from __future__ import annotations

from collections.abc import Callable

from streaming_vla.saliency.decision import Decision, Moment, Verdict


class Similarity:
    """Suppresses an early observation while the robot is near where it was seen last.

    What must be sent (an empty queue) never comes here: LeRobot's "must go".

    Args:
        moved: returns the Euclidean distance of the robot's state to that of the newest observation.
        threshold: a smaller distance is similar, in the units of the state.

    Raises:
        ValueError: a negative threshold.
    """

    def __init__(self, moved: Callable[[], float], threshold: float) -> None:
        if not threshold >= 0.0:
            raise ValueError(f"similarity threshold is {threshold}, expected at least 0")
        self._moved, self._threshold = moved, threshold

    def begin(self) -> None:
        """Nothing is remembered here."""

    def decide(self, moment: Moment) -> Decision:
        """Compare the distance with the threshold."""
        moved = self._moved()
        if moved < self._threshold:
            return Decision(Verdict.SUPPRESS, "similar", moved)
        return Decision(Verdict.SEND, "moved", moved)
