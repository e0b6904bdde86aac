"""What the training data say of the actions that a robot gets: limits, and where they begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.lerobot.normalisation import Statistics, Values, limits_of, tells_range

WIDE = 1e3  # limits of which nothing is known


@dataclass(frozen=True)
class ActionData:
    """The data behind actions as the robot gets them, in action units.

    Statistics of relative actions are those of differences to the state. The robot gets their targets, which lie where
    the state's data do.

    Args:
        actions: statistics of what the network says, [A]; empty: not known.
        state: statistics of the robot's state, [S]; empty: not known.
        relative: [A], True for each action that is a difference to the state.
    """

    actions: Statistics
    state: Statistics
    relative: npt.NDArray[np.bool_]

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """[A], True for each action of which the data tell a range."""
        return np.where(self.relative, tells_range(self.state), tells_range(self.actions))

    def limits(self, widened: float = 0.1) -> tuple[Values, Values]:
        """Return smallest and largest values [A] as `limits_of` does; -WIDE and WIDE where nothing is known."""
        wide = np.full(len(self.relative), WIDE)
        of_actions = limits_of(self.actions, widened) if tells_range(self.actions) else (-wide, wide)
        of_state = limits_of(self.state, widened) if tells_range(self.state) else (-wide, wide)
        low, high = (
            np.where(self.relative, self._as_actions(state), action)
            for action, state in zip(of_actions, of_state, strict=True)
        )
        return low, high

    def mean(self) -> Values:
        """Return the mean [A], where nothing tells it the middle between the limits."""
        low, high = self.limits()
        middle = (low + high) / 2.0
        state = self._as_actions(self.state["mean"]) if "mean" in self.state else middle
        return np.where(self.relative, state, self.actions.get("mean", middle))

    def _as_actions(self, state: Values) -> Values:
        """Return what the state has for each action; 0 behind its end, where no action is relative."""
        return np.pad(state, (0, max(0, len(self.relative) - len(state))))[: len(self.relative)]


def relative_dimensions(count: int, names: Sequence[str] | None, excluded: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which of `count` relative actions are: all but those whose name has an excluded one as a part.

    Args:
        names: of the actions; those without a name are relative, as they were in training.
    """
    parts = [name.lower() for name in excluded if name]
    named = [not any(part in name.lower() for part in parts) for name in (names or ())[:count]]
    return np.array([*named, *[True] * (count - len(named))], dtype=bool)
