"""Credits: which steps of a flow the model may do by now, and the requests that say so."""

from __future__ import annotations

import math
from collections import deque

from streaming_vla.machines.events import ContextReady, GenerateRequest
from streaming_vla.machines.flow import Flow
from streaming_vla.machines.lead import ActionsAhead
from streaming_vla.policies.layout import ActionLayout, Vector

SPARE_STEPS = 2  # granted behind what a new context needs at first: it may take over some actions later than presumed
DELAYS_REMEMBERED = 10  # newest delays of contexts, whose longest is expected (RTC's buffer, arXiv 2506.07339)


class Credits:
    """Knows what lasts longer than an episode: how long actions take to come, and where the robot is."""

    def __init__(self, layout: ActionLayout) -> None:
        self.ahead = ActionsAhead()
        self._layout = layout
        self._delays: deque[int] = deque(maxlen=DELAYS_REMEMBERED)
        self._state: tuple[Vector, float] | None = None  # of the robot, and when it came

    def on_robot_state(self, values: Vector, now: float) -> None:
        """Take the robot's newest state, [state_size]; every request carries it."""
        self._state = (values, now)

    def on_hand_over(self, observation_delay: int) -> None:
        """A context has taken over so many actions behind its picture."""
        self._delays.append(observation_delay)

    def until(self, flow: Flow, context: ContextReady | None, last: int | None, ahead: int) -> int:
        """Return the step before which the grants of a flow must end by now.

        Args:
            flow: of which `step` counts.
            context: its own, or one like it; None: nothing is known of its horizons.
            last: actions that it may give at most, None: as many as it has.
            ahead: actions that must be granted and not sent.
        """
        if context is None:  # the model does those that there are
            return flow.step + max(1, ahead)
        end = self.end(flow, context, last)
        return end if context.chunk else min(end, flow.step + max(0, ahead))  # all rows of a chunk exist

    def end(self, flow: Flow, context: ContextReady, last: int | None) -> int:
        """Return the step before which a flow ends; see `until`."""
        return context.trained_horizon if last is None else min(context.trained_horizon, flow.first + last)

    def grant(
        self,
        episode: int,
        flow: Flow,
        until: int,
        now: float,
        counts: bool,
        pending: Vector,
        sent: Vector,
        planned: Vector | None,
    ) -> GenerateRequest:
        """Return the request that grants the steps of a flow up to before `until`, and note them.

        Args:
            episode: number.
            flow: which steps are granted is written into it.
            until: not below the steps that are granted already.
            now: seconds.
            counts: the time until its actions come says how many must be granted ahead.
            pending: [A], sum of the actions that the robot's state lacks, of those behind which the flow goes on.
            sent: [A], sum of all of these in the episode.
            planned: [n, A], see GenerateRequest.
        """
        if not flow.granted:
            flow.waits_since_s = now
        flow.granted.extend([now if counts else None] * (until - flow.until))
        position = flow.position
        for values in flow.came:
            position = self._layout.advance(position, values)
            pending, sent = self._layout.advance(pending, values), self._layout.advance(sent, values)
        state, age_s = (None, math.nan) if self._state is None else (self._state[0], max(0.0, now - self._state[1]))
        delay = 0 if planned is None else max(self._delays, default=0)
        numbers = (episode, flow.sequence, flow.revision, flow.next_step)
        return GenerateRequest(*numbers, position, flow.until, state, age_s, pending, sent, planned, delay)
