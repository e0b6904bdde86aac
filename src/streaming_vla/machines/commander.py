"""Makes the commands of one episode: within the limits, each from the one before."""

from __future__ import annotations

import numpy as np

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.events import Command, CommandKind
from streaming_vla.machines.limits import Limits
from streaming_vla.policies.layout import ActionLayout, Vector


class Commander:
    """Remembers what the robot was told last; counts what the limits changed.

    `cumulative`, [A], is the sum of the commands, or the newest value in absolute dimensions.
    """

    def __init__(self, layout: ActionLayout, counters: Counters) -> None:
        self._layout = layout
        self._counters = counters
        self._last = layout.start()
        self.cumulative = layout.start()

    def begin(self, measured: Vector) -> None:
        """Limit the first command from where the robot is, action units, [A]."""
        self._last = self._layout.start(measured)
        self.cumulative = self._last.copy()

    def play(self, values: Vector, limits: Limits, period_s: float) -> Command:
        """Return the command of an action, [A]."""
        return self._limited(CommandKind.PLAY, values, limits, period_s, 0.0)

    def hold(self, limits: Limits, period_s: float) -> Command:
        """Return the command that keeps the last commanded pose: no change, absolute dimensions as they are."""
        return self._limited(CommandKind.HOLD, self._layout.start(self._last), limits, period_s, 0.0)

    def decelerate(self, limits: Limits, period_s: float, progress: float) -> Command:
        """Return the command of a controlled stop that is done to `progress` in [0, 1]."""
        return self._limited(CommandKind.DECELERATE, self._layout.start(self._last), limits, period_s, progress)

    def told(self, values: Vector) -> None:
        """Limit the next command from these absolute values, action units, [A]: the robot was told them instead."""
        absolute = np.asarray(self._layout.absolute)
        self._last = np.where(absolute, values, self._last)
        self.cumulative = np.where(absolute, values, self.cumulative)

    def stop(self) -> Command:
        """Return the command that stops at once, whatever the limits of change."""
        self._last = self._layout.start(self._last)
        return Command(CommandKind.STOP, self._last.copy(), 1.0)

    def _limited(self, kind: CommandKind, values: Vector, limits: Limits, period_s: float, progress: float) -> Command:
        limited, hit = limits.apply(self._layout, values, self._last, period_s)
        for reason in hit:
            self._counters.count(reason)
        self._last = limited
        self.cumulative = self._layout.advance(self.cumulative, limited)
        return Command(kind, limited.copy(), progress)
