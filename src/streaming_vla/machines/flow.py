"""The flow of one context as the generator follows it: what is granted, what has come, what was sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from streaming_vla.machines.events import Action, ContextReady
from streaming_vla.policies.layout import Vector


@dataclass
class Flow:
    """A flow that begins at step `first`.

    Args:
        sequence: of the observation.
        revision: of its newest beginning.
        first: step of its first action: so many actions were skipped.
        position: [A], the flow's state behind the actions that were sent.
        context: None while the observation is still on its way.
        index: of the next action to be sent, from 0.
        came: [A] each, actions that have come and were not sent.
        granted: of each step that is granted and has not come: when, seconds; None where that says nothing.
        waits_since_s: the oldest granted step that has not come is waited for since then.
        before: [A], sum of the episode's actions that were sent when it began; None: nothing of it is granted yet.
    """

    sequence: int
    revision: int
    first: int
    position: Vector
    context: ContextReady | None = None
    index: int = 0
    came: deque[Vector] = field(default_factory=deque)
    granted: deque[float | None] = field(default_factory=deque)
    waits_since_s: float = 0.0
    before: Vector | None = None

    @property
    def step(self) -> int:
        """The step whose action is sent next."""
        return self.first + self.index

    @property
    def next_step(self) -> int:
        """The step whose action comes next."""
        return self.step + len(self.came)

    @property
    def until(self) -> int:
        """The granted steps end before it."""
        return self.next_step + len(self.granted)

    @property
    def ready(self) -> bool:
        """Whether it can take over: its context is known and its first action is there."""
        return self.context is not None and bool(self.came)

    @property
    def is_owed(self) -> bool:
        """True while the model owes an action; when one of a context to come does nobody knows."""
        return bool(self.granted) and self.context is not None

    @property
    def is_overrun(self) -> bool:
        """True when its newest action lies beyond the execution horizon."""
        return self.context is not None and self.index > self.context.execution_horizon

    def take(self, values: Vector, now: float) -> float | None:
        """Take the action of the next step; return when it was granted."""
        self.came.append(values)
        self.waits_since_s = now
        return self.granted.popleft()

    def next_action(self, values: Vector, position: Vector) -> Action:
        """Return the next action to be sent, with these values [A]; behind it the flow's state is `position`, [A]."""
        context = self.context
        assert context is not None, "only a context that is known takes over"
        action = Action(
            episode=context.episode,
            context=context.sequence,
            index=self.index,
            flow_time=self.step / context.trained_horizon,
            values=values,
            more=self.index + 1 < context.execution_horizon,
        )
        self.position = position
        self.index += 1
        return action

    def end_before(self, step: int) -> None:
        """There are no actions from `step` on: what was granted of them will not come, or is not wanted."""
        while self.until > step and (self.granted or self.came):
            (self.granted or self.came).pop()

    def begin(self, revision: int, first: int, position: Vector) -> None:
        """Begin anew at step `first`; what has come is of another beginning."""
        self.index = 0
        self._turn_to(revision, first, position)

    def go_on(self, revision: int, position: Vector) -> None:
        """Go on from another state behind the newest action that was sent; what has come does not follow it."""
        self._turn_to(revision, self.first, position)

    def _turn_to(self, revision: int, first: int, position: Vector) -> None:
        self.revision, self.first, self.position, self.before = revision, first, position, None
        self.came.clear()
        self.granted.clear()
