"""What the arm has done since the picture of a context was taken, from the executor's states alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streaming_vla.policy.layout import Vector
from streaming_vla.runtime.events import ExecutionState, Mode

PICTURES_KEPT = 8  # newest requests; contexts that are older than all of them are never asked about


class SincePicture:
    """A picture that is taken when an action begins shows the arm before this action."""

    def __init__(self) -> None:
        self._newest: ExecutionState | None = None
        self._shown: Vector | None = None  # sum of what a picture taken now shows
        self._at_picture: dict[int, Vector | None] = {}

    def on_state(self, state: ExecutionState) -> None:
        """Follow the executor."""
        before = self._newest
        if state.mode is not Mode.PLAYING:
            self._shown = state.cumulative_action
        elif before is not None and state.executed > before.executed:
            self._shown = before.cumulative_action
        elif before is None and state.executed == 1:
            self._shown = np.zeros_like(state.cumulative_action)
        self._newest = state

    def on_picture(self, sequence: int) -> None:
        """The picture of observation `sequence` is taken now."""
        self._at_picture[sequence] = self._shown
        while len(self._at_picture) > PICTURES_KEPT:
            del self._at_picture[next(iter(self._at_picture))]

    def change(self, sequence: int, absolute: tuple[bool, ...]) -> tuple[Vector | None, npt.NDArray[np.bool_]]:
        """Return what was executed since the picture of `sequence`, [A], and which dimensions are sums, [A] bool.

        None instead of the change when the picture or the sum is not known.

        Args:
            absolute: True for dimensions whose newest value counts; empty: none.
        """
        if self._newest is None or self._shown is None:
            return None, np.zeros(0, dtype=bool)
        size = len(self._newest.cumulative_action)
        summed = ~np.asarray(absolute) if len(absolute) == size else np.ones(size, dtype=bool)
        if sequence not in self._at_picture:
            return None, summed
        at_picture = self._at_picture[sequence]
        if at_picture is None:  # before the first action of the episode nothing has moved
            at_picture = np.zeros(size)
        return np.where(summed, self._shown - at_picture, self._shown), summed
