"""Hand-over from one context to the next: what the new flow starts from, and a bound on the jump of the actions.

With E the sum of what was executed, P of what is sent and not begun, and O of what had been executed when the
picture of the new context was taken, the flow's state at hand-over is

- rezero: 0, the flow knows only its own actions. Policies learn it with windows that begin some actions after their
  picture. If it begins later than any of them, the flow begins as many actions later, with their sum;
- episode: E + P, sums count from the start of the episode (StreamingVLA, arXiv 2603.28565, with the pending
  actions that its released code leaves out);
- pending: E + P - O, sums count from the picture.

Absolute dimensions always go on from the newest value.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np

from streaming_vla.machines.action_history import ActionHistory
from streaming_vla.machines.events import Action, ContextReady, ExecutionState, Mode
from streaming_vla.policies.layout import ActionLayout, Vector

NEAR = 0.02  # of its range; a flow need not begin anew because an absolute dimension has moved on by so little


class Horizons(Protocol):
    """What is needed to know of a context, or of a policy."""

    @property
    def trained_horizon(self) -> int:
        """Actions that a context has."""

    @property
    def execution_horizon(self) -> int:
        """Actions that are meant to be executed."""

    @property
    def chunk(self) -> bool:
        """True where each belongs to a fixed time."""


def skipped_actions(context: Horizons, observation_delay: int, trained_delay: int) -> int:
    """Return how many actions of a context are skipped, so that the next is the one for now.

    Of a flow at most two thirds of the overrun: the rest is left for the context after this one to come late. A chunk's
    rows belong to fixed times, so of a chunk all that are over, but the last.

    Args:
        observation_delay: actions between its picture and the moment at which it takes over.
        trained_delay: so many of them the policy has learned to begin behind its picture.
    """
    late = max(0, observation_delay - trained_delay)
    if context.chunk:
        return min(late, context.trained_horizon - 1)
    return min(late, 2 * (context.trained_horizon - context.execution_horizon) // 3)


def learned_delay(context: ContextReady, option: int) -> int:
    """Return how many actions behind its picture a context may begin; an option below 0 leaves it to the policy."""
    return context.trained_delay if context.chunk or option < 0 else option


class HandOver:
    """Follows the sums of one episode and joins the actions of two contexts.

    `count`, `largest_jump` and `mean_jump` (largest change over the summed dimensions, action units, before it is
    bounded) say how the hand-overs went.
    """

    def __init__(self, layout: ActionLayout) -> None:
        self._layout = layout
        self._summed = ~np.asarray(layout.absolute)
        span = np.asarray(layout.high) - np.asarray(layout.low)
        self._near = np.where(~self._summed & np.isfinite(span), NEAR * span, 1e-4)
        self._since = ActionHistory()
        self._executed = layout.start()  # E, the action being played included
        self._begun = 0  # actions of E
        self._begun_s = 0.0  # when the newest of them began
        self._robot: Vector | None = None  # what of E the robot's newest state shows
        self._playing: Action | None = None
        self.outstanding: deque[Action] = deque()  # sent, not begun
        self.last_sent: Vector | None = None
        self._bridging = False
        self.count = 0
        self.largest_jump = 0.0
        self._jumps = 0.0

    @property
    def mean_jump(self) -> float:
        """Mean jump at a hand-over, action units; 0 before the first."""
        return self._jumps / self.count if self.count else 0.0

    def on_sent(self, action: Action) -> None:
        """An action leaves for the executor."""
        self.outstanding.append(action)
        self.last_sent = action.values

    def on_state(self, state: ExecutionState, cumulative: Vector | None, now: float) -> None:
        """Learn which action is played; `cumulative` [A] is the state's sum, None when it is no such thing."""
        if state.executed != self._begun:
            self._begun_s = now
        while self.outstanding and (self.outstanding[0].context, self.outstanding[0].index) <= (
            state.context,
            state.index,
        ):
            self._playing = self.outstanding.popleft()
        if state.mode is not Mode.PLAYING:
            self._playing = None
        if cumulative is not None:
            self._executed, self._begun = cumulative, state.executed
            self._since.on_state(state)

    def on_robot_state(self, now: float, control_period_s: float) -> None:
        """The robot has said where it is: it shows what was executed until `now`."""
        self._robot = self._executed
        if self._playing is not None:
            left = 1.0 - min(1.0, max(0.0, now - self._begun_s) / control_period_s)
            self._robot = np.where(self._summed, self._executed - left * self._playing.values, self._executed)

    def on_picture(self, sequence: int) -> None:
        """The picture of observation `sequence` is taken now."""
        self._since.on_picture(sequence)

    def observation_delay(self, sequence: int) -> int:
        """Return how many of the actions before the next one the picture of `sequence` lacks; 0: not known."""
        return self._since.observation_delay(sequence, self._begun + len(self.outstanding))

    def start(self, kind: str, sequence: int, skipped_actions: int = 0) -> Vector:
        """Return the flow's state, [A], from which the context of observation `sequence` goes on.

        Args:
            skipped_actions: kind rezero: actions that the flow skips; those in their place are executed already, or
                sent.
        """
        fresh = self._layout.start(self.last_sent)
        if kind == "rezero" and not skipped_actions:
            return fresh
        total = self.sent()
        if kind == "rezero":
            total = total - self.sent(skipped_actions)
        elif kind == "pending":
            # an observation that nobody told of counts from now: its pending actions are unknown
            shown = self._since.at_picture(sequence)
            total = total - (total if shown is None else shown)
        return np.where(self._summed, total, fresh)

    def is_near(self, position: Vector, other: Vector) -> bool:
        """True when a flow that has begun from `other` [A] need not begin anew from `position` [A]."""
        return bool(np.all(np.abs(position - other) <= self._near))

    def planned(self) -> list[Vector]:
        """Return the action being played and those sent behind it: a picture of now shows none of them."""
        playing = [] if self._playing is None else [self._playing.values]
        return [*playing, *(action.values for action in self.outstanding)]

    def pending(self) -> Vector:
        """Return the sum of the action that begins now and of those sent behind it, [A]: a picture of now lacks them.

        Absolute dimensions have their newest value.
        """
        shown = self._since.shown()
        return self._lacking(self.sent(), self._executed if shown is None else shown)

    def behind_robot(self, sent: Vector) -> Vector:
        """Return what the robot's newest state lacks of a sum of the episode's actions, [A].

        Absolute dimensions have their newest value.
        """
        return sent if self._robot is None else self._lacking(sent, self._robot)

    def _lacking(self, total: Vector, shown: Vector) -> Vector:
        """Return what the sum `shown` lacks of `total`, [A]; absolute dimensions have their newest value."""
        return np.where(self._summed, total - shown, total)

    def sent(self, without: int = 0) -> Vector:
        """Return the sum of all actions of the episode that were sent, E + P, without the newest; [A]."""
        sent = len(self.outstanding) - without
        total = self._executed if sent >= 0 else self._since.after(self._begun + sent)
        if total is None:
            return self._executed  # this generator was not there yet: nobody knows
        for action in list(self.outstanding)[: max(0, sent)]:
            total = self._layout.advance(total, action.values)
        return total

    def begin(self, first: Vector) -> None:
        """A new context takes over with the action `first`, [A]."""
        if self.last_sent is None:
            return
        jump = float(np.max(np.abs(first - self.last_sent)[self._summed], initial=0.0))
        self.count += 1
        self._jumps += jump
        self.largest_jump = max(self.largest_jump, jump)
        self._bridging = True

    def bounded(self, values: Vector, previous: Vector | None, bound: float) -> tuple[Vector, bool]:
        """Return `values` [A] within `bound` of `previous` in the summed dimensions, and whether that changed it.

        The bound holds from a hand-over until the flow's own action lies within it, so that the jump is spread
        instead of being put off by one action. A bound of 0 sets none.
        """
        if not self._bridging or bound == 0.0 or previous is None:
            self._bridging = False
            return values, False
        near = np.clip(values, previous - bound, previous + bound)
        limited = np.where(self._summed, near, values)
        self._bridging = bool(np.any(limited != values))
        return limited, self._bridging
