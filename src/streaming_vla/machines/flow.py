"""The flow of one context as the generator follows it: what is granted, what has come, what was sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from streaming_vla.machines.events import ContextReady
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
        until: the granted steps end before it.
        waits_since_s: the oldest granted step that has not come is waited for since then.
        granted_alone_s: when the newest step was granted, if it alone was, else None.
    """

    sequence: int
    revision: int
    first: int
    position: Vector
    context: ContextReady | None = None
    index: int = 0
    came: deque[Vector] = field(default_factory=deque)
    until: int = 0
    waits_since_s: float = 0.0
    granted_alone_s: float | None = None

    @property
    def step(self) -> int:
        """The step whose action is sent next."""
        return self.first + self.index

    @property
    def next_step(self) -> int:
        """The step whose action comes next."""
        return self.step + len(self.came)

    @property
    def waits(self) -> bool:
        """Whether a granted action has not come yet."""
        return self.next_step < self.until

    @property
    def ready(self) -> bool:
        """Whether it can take over: its context is known and its first action is there."""
        return self.context is not None and bool(self.came)

    def begin(self, revision: int, first: int, position: Vector) -> None:
        """Begin anew at step `first`; what has come is of another beginning."""
        self.revision, self.first, self.position = revision, first, position
        self.index = self.until = 0
        self.came.clear()

    def go_on(self, revision: int, position: Vector) -> None:
        """Go on from another state behind the newest action that was sent; what has come does not follow it."""
        self.revision, self.position, self.until = revision, position, self.step
        self.came.clear()
