"""The generator's machine: turns contexts into a stream of actions, one flow step each.

- stream: one step at a time, asked for while fewer than `lead_actions` wait at the executor (back-pressure); a newer
  context takes over at the next action. Past the execution horizon the old context goes on if `overrun`.
- chunk: all steps of the execution horizon back to back, then all actions at once (the synchronous baseline).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.episodes import CurrentEpisode
from streaming_vla.machines.events import (
    Action,
    ContextReady,
    Episode,
    ExecutionState,
    FlowReply,
    FlowRequest,
    Mode,
    ObserveRequest,
)
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.hand_over import HandOver, left_out
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.policies.layout import ActionLayout, Vector

GeneratorEffect = FlowRequest | Action

ROUNDING = 1e-6  # of an action; keeps ceil() from counting float noise as an action more
LOST_AFTER_S = 0.5  # an action that an idle executor shows no sign of for so long did not arrive
MOST_LEAD = 6  # actions; what is sent cannot be changed any more, so a slow network must not push it further
STEPS_REMEMBERED = 256  # newest flow steps, whose spread says how many actions must be sent ahead
FEW_STEPS = 32  # with so many known the margin is twice as wide as in the end: what is rare has not been seen yet
STEPS_TO_LEARN = 7  # behind the cold first one; before so many are known, one action more is sent ahead
REQUESTS_KEPT = 64  # newest, whose times are remembered; no queue between picture and context is as long


@dataclass
class _Flow:
    """The flow of one context: its next action, the state to ask it from [A], and the steps that were left out."""

    context: ContextReady
    position: Vector
    left_out: int
    index: int = 0

    @property
    def step(self) -> int:
        """The next step of the flow."""
        return self.left_out + self.index

    @property
    def horizon(self) -> int:
        """Actions that the context can give at most."""
        return self.context.trained_horizon - self.left_out


class Generator:
    """At most one flow request in flight, at most `lead_actions` actions unplayed, indices without gaps."""

    def __init__(self, layout: ActionLayout, options: GeneratorOptions) -> None:
        self.counters = Counters()
        self.flow_latency = LatencyTracker(warm_up=1)  # asked to answered, transport and waiting included
        self._newest_steps_s: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._layout = layout
        self._options = options
        self._episode = CurrentEpisode()
        self._forget()

    def _forget(self) -> None:
        self._flow: _Flow | None = None
        self._next: ContextReady | None = None  # takes over at the next action
        self._newest_sequence = -1
        self._requested_s: dict[int, float] = {}  # when the picture of a sequence was asked for
        self._asked: FlowRequest | None = None
        self._asked_s = 0.0
        self._chunk: list[Action] = []
        self.hand_over = HandOver(self._layout)
        self._sent_s = 0.0
        self._executor_idle = False  # its newest state: nothing is played and nothing waits

    def update(self, options: GeneratorOptions) -> None:
        """Take new options; they hold from the next step on."""
        self._options = options

    def on_episode(self, episode: Episode, now: float) -> list[GeneratorEffect]:
        """Begin or end an episode; both forget everything of the one before."""
        if self._episode.renew(episode, self.counters):
            self._forget()
        return []

    def pending(self) -> Vector:
        """Return the sum of the actions that a picture taken now does not show yet, [A] (see HandOver.pending)."""
        return self.hand_over.pending()

    @property
    def lead_actions(self) -> int:
        """Actions that may be sent and not begun, at this moment."""
        if self._options.lead_actions:
            return self._options.lead_actions
        steps_s = self._newest_steps_s
        if len(steps_s) < STEPS_TO_LEARN:
            return 2
        longest_s, spread_s = max(steps_s), max(steps_s) - min(steps_s)
        needed_s = longest_s + spread_s * (1.0 + FEW_STEPS / len(steps_s))
        return min(MOST_LEAD, max(1, math.ceil(needed_s / self._options.control_period_s - ROUNDING)))

    def on_request(self, request: ObserveRequest, now: float) -> list[GeneratorEffect]:
        """Learn that a picture is taken now: for start "pending", and for the age of its context."""
        if not self._episode.runs(request.episode):
            self.counters.count("request_other_episode")
            return []
        self.hand_over.on_picture(request.sequence)
        self._requested_s[request.sequence] = now
        while len(self._requested_s) > REQUESTS_KEPT:
            del self._requested_s[next(iter(self._requested_s))]
        return []

    def on_context(self, context: ContextReady, now: float) -> list[GeneratorEffect]:
        """Take a newer context; it takes over at the next action that is asked for."""
        if not self._episode.runs(context.episode):
            self.counters.count("context_other_episode")
        elif context.sequence <= self._newest_sequence:
            self.counters.count("context_not_newer")
        elif not 1 <= context.execution_horizon <= context.trained_horizon:
            self.counters.count("context_bad_horizon")
        elif self._too_old(context, now):
            self.counters.count("context_too_old")
        else:
            self._newest_sequence = context.sequence
            if self._next is not None:
                self.counters.count("context_superseded")
            self._next = context
            return self._proceed(now)
        return []

    def on_execution_state(self, state: ExecutionState, now: float) -> list[GeneratorEffect]:
        """Learn which actions have begun; that makes room for the next one."""
        if not self._episode.runs(state.episode):
            self.counters.count("state_other_episode")
            return []
        self._executor_idle = state.mode is not Mode.PLAYING and state.queue_depth == 0
        cumulative = self._checked(state.cumulative_action, "state")
        self.hand_over.on_state(state, cumulative)
        if self.hand_over.last_sent is None and state.executed > 0 and cumulative is not None:
            # started in the middle of an episode: absolute dimensions go on from what the robot was told
            self.hand_over.last_sent = self._layout.start(cumulative)
        return self._proceed(now)

    def on_flow_reply(self, reply: FlowReply, now: float) -> list[GeneratorEffect]:
        """Send the action that a flow step gave; a reply that is late or no action ends the flow."""
        effects = self.poll(now)
        if effects:  # it has been given up, and the next context is asked already
            self.counters.count("flow_reply_unexpected")
            return effects
        asked = self._asked
        if asked is None or (reply.episode, reply.context, reply.index) != (asked.episode, asked.context, asked.index):
            self.counters.count("flow_reply_unexpected")
            return []
        self._asked = None
        if not reply.accepted:  # answered at once: it says nothing of how long a step takes
            self.counters.count("flow_refused")
            return self._end_flow(now)
        waited_s = max(0.0, now - self._asked_s)  # ROS time may be set back
        self.flow_latency.add(waited_s)
        if self.flow_latency.smoothed_s is not None:  # the cold first step would keep the lead long for hundreds
            self._newest_steps_s.append(waited_s)
        values = self._checked(reply.values, "flow")
        if values is None:
            return self._end_flow(now)
        if self._flow is None:
            self.counters.count("flow_ended")
            return self._proceed(now)
        return self._release(self._flow, values, now) + self._proceed(now)

    def poll(self, now: float) -> list[GeneratorEffect]:
        """Give up a flow step without a reply, and actions that never reached the executor."""
        if self._asked is not None and now >= self._asked_s + self._options.flow_step_timeout_s:
            self.counters.count("flow_timeout")
            self._asked = None
            return self._end_flow(now)
        outstanding = self.hand_over.outstanding
        if outstanding and self._executor_idle and now >= self._sent_s + LOST_AFTER_S:
            for _ in outstanding:
                self.counters.count("action_lost")
            outstanding.clear()
            return self._end_flow(now)  # the executor takes no later index of this context any more
        return []

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""
        times = []
        if self._asked is not None:
            times.append(self._asked_s + self._options.flow_step_timeout_s)
        if self.hand_over.outstanding and self._executor_idle:
            times.append(self._sent_s + LOST_AFTER_S)
        return min(times, default=None)

    def _proceed(self, now: float) -> list[GeneratorEffect]:
        """Ask for the next flow step if there is room for its action and a context to ask."""
        if self._asked is not None:
            return []
        chunk = self._options.release == "chunk"
        if not chunk and len(self.hand_over.outstanding) >= self.lead_actions:
            return []
        if self._next is not None and not self._chunk:
            following, self._next = self._next, None
            if self._too_old(following, now):  # it came in time, but nothing was begun meanwhile
                self.counters.count("context_too_old")
            else:
                self._flow = self._begun(following)
        flow = self._flow
        if flow is None:
            return []
        overrun = self._options.overrun and not chunk
        if flow.index >= (flow.horizon if overrun else flow.context.execution_horizon):
            return []
        self._asked = FlowRequest(flow.context.episode, flow.context.sequence, flow.step, flow.position)
        self._asked_s = now
        return [self._asked]

    def _begun(self, context: ContextReady) -> _Flow:
        """Return the flow of a context that takes over."""
        start, sequence = self._options.hand_over_start, context.sequence
        late = 0
        if start == "rezero" and self._options.release == "stream":
            late = left_out(context, self.hand_over.lacking(sequence), self._options.trained_delay)
            if late:
                self.counters.count("flow_begun_late")
        return _Flow(context, self.hand_over.start(start, sequence, late), late)

    def _too_old(self, context: ContextReady, now: float) -> bool:
        """True when the request was heard too long ago; a context whose request was not heard counts as new."""
        return now - self._requested_s.get(context.sequence, now) > self._options.max_context_age_s

    def _release(self, flow: _Flow, values: Vector, now: float) -> list[GeneratorEffect]:
        """Return the actions to send now: this one, or the whole chunk when it is complete."""
        context = flow.context
        values = self._layout.clip(values)
        if flow.index == 0:
            self.hand_over.begin(values)
        previous = self._chunk[-1].values if self._chunk else self.hand_over.last_sent
        values, limited = self.hand_over.bounded(values, previous, self._options.hand_over_jump)
        if limited:
            self.counters.count("jump_limited")
        if flow.index >= context.execution_horizon:
            self.counters.count("overrun")
        self._chunk.append(
            Action(
                episode=context.episode,
                context=context.sequence,
                index=flow.index,
                flow_time=flow.step / context.trained_horizon,
                values=values,
                more=flow.index + 1 < context.execution_horizon,
            )
        )
        flow.position = self._layout.advance(flow.position, values)
        flow.index += 1
        if self._options.release == "chunk" and flow.index < context.execution_horizon:
            return []
        actions, self._chunk = self._chunk, []
        for action in actions:
            self.hand_over.on_sent(action)
        self._sent_s = now
        return list(actions)

    def _end_flow(self, now: float) -> list[GeneratorEffect]:
        """Drop the flow (an index must not be skipped) and go on with a newer context if there is one."""
        self._flow = None
        for _ in self._chunk:
            self.counters.count("action_of_ended_flow")
        self._chunk = []
        return self._proceed(now)

    def _checked(self, values: Vector, source: str) -> Vector | None:
        """Return `values` as [A], or None (counted) when they are no action."""
        if np.shape(values) != (self._layout.size,):
            self.counters.count(f"{source}_wrong_shape")
            return None
        if not np.isfinite(values).all():
            self.counters.count(f"{source}_not_finite")
            return None
        return np.asarray(values, dtype=np.float64)
