"""What the arm has done since the picture of a context was taken, from the executor's states alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streaming_vla.machines.events import ExecutionState, Mode
from streaming_vla.policies.layout import Vector

PICTURES_KEPT = 8  # newest requests; contexts that are older than all of them are never asked about
SUMS_KEPT = 128  # newest actions; no picture is as old that is still acted on


class ActionHistory:
    """Follows one episode. A picture that is taken when an action begins shows the arm before this action."""

    def __init__(self) -> None:
        self._sums: dict[int, Vector] = {}  # of the first so many actions of the episode
        self._shown: int | None = None  # actions that a picture taken now shows
        self._at_picture: dict[int, int | None] = {}

    def on_state(self, state: ExecutionState) -> None:
        """Follow the executor."""
        if state.executed < max(self._sums, default=0):  # an executor that is new in the episode
            self._sums.clear()
            self._at_picture.clear()
        self._sums[state.executed] = state.cumulative_action
        self._shown = state.executed - int(state.mode is Mode.PLAYING)
        if self._shown == 0 and 0 not in self._sums:
            self._sums[0] = np.zeros_like(state.cumulative_action)
        while len(self._sums) > SUMS_KEPT:
            del self._sums[min(self._sums)]

    def on_picture(self, sequence: int) -> None:
        """The picture of observation `sequence` is taken now; before the first state nothing has moved."""
        self._at_picture[sequence] = self._shown
        while len(self._at_picture) > PICTURES_KEPT:
            del self._at_picture[next(iter(self._at_picture))]

    def shown(self) -> Vector | None:
        """Return the sum that a picture taken now shows, [A], or None when it is not known."""
        return None if self._shown is None else self.after(self._shown)

    def at_picture(self, sequence: int) -> Vector | None:
        """Return the sum that the picture of `sequence` shows, [A], or None when it is not known."""
        return self.after(self._at_picture[sequence] or 0) if sequence in self._at_picture else None

    def after(self, actions: int) -> Vector | None:
        """Return the sum of the first `actions` of the episode, [A], of fewer where states were lost; None: of none."""
        known = max((number for number in self._sums if number <= actions), default=None)
        return None if known is None else self._sums[known]

    def observation_delay(self, sequence: int, actions: int) -> int:
        """Return how many of the first `actions` of the episode the picture of `sequence` lacks; 0: not known."""
        shown = self._at_picture.get(sequence)
        return 0 if shown is None else max(0, actions - shown)

    def change(self, sequence: int, absolute: tuple[bool, ...]) -> tuple[Vector | None, npt.NDArray[np.bool_]]:
        """Return what was executed since the picture of `sequence`, [A], and which dimensions are sums, [A] bool.

        None instead of the change when the picture or the sum is not known.

        Args:
            absolute: True for dimensions whose newest value counts; empty: none.
        """
        shown = self.shown()
        if shown is None:
            return None, np.zeros(0, dtype=bool)
        summed = ~np.asarray(absolute) if len(absolute) == len(shown) else np.ones(len(shown), dtype=bool)
        at_picture = self.at_picture(sequence)
        return (None if at_picture is None else np.where(summed, shown - at_picture, shown)), summed
