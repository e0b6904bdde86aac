"""The generator's machine: asks for actions ahead and sends them one by one to the executor.

- The steps of a flow are granted as credits: so many that, with the measured time from a grant to its action, the
  executor never waits. An action is sent while fewer than `lead_actions` wait at the executor; the others stay here.
- A context is granted its first steps with the picture already, so that its first actions come with it. It takes over
  at the next action as soon as its first one is there; what the old context gave and was not sent is dropped. Where
  actions take now and then much longer than usual, so many must have come that they outlast that; the old context goes
  on meanwhile, and an episode begins so much later.
- Past the execution horizon the old context goes on if `overrun`.
- An action that had to be bounded corrects the flow: a new revision goes on from what was sent.
- release chunk: all steps of the execution horizon at once, and all actions together (the synchronous baseline).

A timeline: an action lasts T, a flow step 0.3 T, an observation 2.2 T; lead_actions 1; 4.6 is step 6 of context 4:

    time     executor begins   generator
    0.0 T    4.5               grants 4.6
    0.0 T    -                 picture 5 is taken: grants 5.0 to 5.2
    0.3 T    -                 4.6 comes: it is sent
    1.0 T    4.6               grants 4.7
    1.3 T    -                 4.7 comes: it is sent
    2.0 T    4.7               grants 4.8
    2.2 T    -                 context 5 comes
    2.3 T    -                 4.8 comes: it is sent
    2.6 T    -                 5.0 comes
    2.9 T    -                 5.1 comes
    3.0 T    4.8               sends 5.0
    3.2 T    -                 5.2 comes
    4.0 T    5.0               sends 5.1
    5.0 T    5.1               sends 5.2
    6.0 T    5.2               grants 5.3
    6.3 T    -                 5.3 comes: it is sent

Four actions lie between picture 5 and 5.0: with a trained_delay of 2 the context would have begun with 5.2.
"""

from __future__ import annotations

import numpy as np

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.credits import SPARE_STEPS, Credits
from streaming_vla.machines.episodes import CurrentEpisode, is_far_ahead
from streaming_vla.machines.events import (
    Action,
    ContextReady,
    Episode,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    Mode,
    ObserveRequest,
)
from streaming_vla.machines.flow import Flow
from streaming_vla.machines.flows import Flows
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.hand_over import HandOver, learned_delay, skipped_actions
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.machines.own_lead import OwnLead
from streaming_vla.policies.layout import ActionLayout, Vector

GeneratorEffect = GenerateRequest | Action
LOST_AFTER_S = 0.5  # an action that an idle executor shows no sign of for so long did not arrive


class Generator:
    """Indices without gaps; at most `lead_actions` actions unplayed at the executor; nothing is sent twice."""

    def __init__(self, layout: ActionLayout, options: GeneratorOptions) -> None:
        self.counters = Counters()
        self._credits = Credits(layout)
        self.own_lead = OwnLead(self.counters)
        self._layout = layout
        self._options = options
        self._episode = CurrentEpisode()
        self._known: ContextReady | None = None  # the newest that was heard, for the horizons of those to come
        self._forget()

    def _forget(self) -> None:
        self._flows = Flows()
        self._newest_sequence = -1  # of the contexts that were taken
        self._revision = 0
        self.hand_over = HandOver(self._layout)
        self._sent_s = 0.0
        self._executor_idle = False  # its newest state: nothing is played and nothing waits

    def update(self, options: GeneratorOptions) -> None:
        """Take new options; they hold from the next step on."""
        self._options = options

    @property
    def latency(self) -> LatencyTracker:
        """From the grant of a step to its action, transport included."""
        return self._credits.ahead.latency

    def learn(self, latency_s: float) -> None:
        """Know from elsewhere how long an action may take to come, seconds (see `latency`)."""
        self._credits.ahead.learn(latency_s)

    @property
    def actions_ahead(self) -> int:
        """Actions that are granted and not begun, at this moment: so many that none comes too late."""
        return self._credits.ahead.actions(self._options.control_period_s, self.lead)

    def on_episode(self, episode: Episode, now: float) -> list[GeneratorEffect]:
        """Begin or end an episode; both forget everything of the one before."""
        if self._episode.renew(episode, self.counters):
            self._forget()
        return []

    def on_robot_state(self, values: Vector, now: float) -> list[GeneratorEffect]:
        """Take the robot's newest state, [state_size], in the policy's order; every request carries it."""
        if np.isfinite(values).all():
            self._credits.on_robot_state(values, now)
            self.hand_over.on_robot_state(now, self._options.control_period_s)
        else:
            self.counters.count("robot_state_not_finite")
        return []

    def on_request(self, request: ObserveRequest, now: float) -> list[GeneratorEffect]:
        """Learn that a picture is taken now, and grant its context the first steps."""
        if not self._episode.runs(request.episode):
            self.counters.count("request_other_episode")
            return []
        if is_far_ahead(request.sequence, self._newest_sequence):
            self.counters.count("request_far_ahead")
            return []
        self.hand_over.on_picture(request.sequence)
        self._flows.on_request(request.sequence, now)
        if self._options.release != "stream" or request.sequence <= self._newest_sequence:
            return []
        came = [] if self._flows.playing is None else self._flows.playing.came
        planned = np.array([*self.hand_over.planned(), *came]).reshape(-1, self._layout.size)
        return [self._grant(self._new_candidate(request.sequence), now, planned)]

    def on_context(self, context: ContextReady, now: float) -> list[GeneratorEffect]:
        """Take a newer context; it takes over at the next action that is sent."""
        flow = self._flows.candidate(context.sequence)
        if not self._episode.runs(context.episode):
            self.counters.count("context_other_episode")
        elif is_far_ahead(context.sequence, self._newest_sequence):
            self.counters.count("context_far_ahead")
        elif context.sequence <= self._newest_sequence:
            self.counters.count("context_not_newer")
        elif not 1 <= context.execution_horizon <= context.trained_horizon:
            self.counters.count("context_bad_horizon")
        elif self._is_too_old(context.sequence, now):
            if flow is not None:
                self._flows.drop(flow)
        else:
            self._newest_sequence = context.sequence
            self._known = context
            known = [old for old in self._flows.drop_before(context.sequence) if old.context is not None]
            self.counters.count("context_superseded", len(known))
            flow = flow or self._new_candidate(context.sequence, context)
            flow.context, flow.waits_since_s = context, now
            flow.end_before(self._credits.end(flow, context, self._last(context)))
            return self._proceed(now)
        return []

    def on_execution_state(self, state: ExecutionState, now: float) -> list[GeneratorEffect]:
        """Learn which actions have begun; that makes room for the next one."""
        if not self._episode.runs(state.episode):
            self.counters.count("state_other_episode")
            return []
        self._executor_idle = state.mode is not Mode.PLAYING and state.queue_depth == 0
        cumulative = self._checked(state.cumulative_action, "state")
        self.hand_over.on_state(state, cumulative, now)
        self.own_lead.on_state(state, len(self.hand_over.outstanding) >= self.lead)
        if self.hand_over.last_sent is None and state.executed > 0 and cumulative is not None:
            # started in the middle of an episode: absolute dimensions go on from what the robot was told
            self.hand_over.last_sent = self._layout.start(cumulative)
        return self._proceed(now)

    def on_generated(self, action: GeneratedAction, now: float) -> list[GeneratorEffect]:
        """Take an action of a granted step; one that is out of order, or none, ends its flow."""
        effects = self.poll(now)
        flow = self._flow_of(action)
        if flow is None:
            outdated = self._episode.runs(action.episode) and 1 <= action.revision <= self._revision
            self.counters.count("generated_outdated" if outdated else "generated_unexpected")
            return effects
        if not action.accepted:  # answered at once: it says nothing of how long a step takes
            self.counters.count("generate_refused")
            return effects + self._end(flow, now)
        if action.step != flow.next_step:
            self.counters.count("generated_out_of_order")
            return effects + self._end(flow, now)
        values = self._checked(action.values, "generated")
        if values is None:
            return effects + self._end(flow, now)
        self._credits.ahead.on_action(flow.take(values, now), action.compute_s + action.queued_s, now)
        return effects + self._proceed(now)

    def poll(self, now: float) -> list[GeneratorEffect]:
        """Give up a granted action that does not come, and actions that never reached the executor."""
        if (flow := self._flows.overdue(now, self._options.generate_timeout_s)) is not None:
            self.counters.count("generate_timeout")
            return self._end(flow, now)
        outstanding = self.hand_over.outstanding
        if outstanding and self._executor_idle and now >= self._sent_s + LOST_AFTER_S:
            self.counters.count("action_lost", len(outstanding))
            outstanding.clear()
            # the executor takes no later index of this context any more
            return self._proceed(now) if self._flows.playing is None else self._end(self._flows.playing, now)
        return []

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""
        lost_s = self._sent_s + LOST_AFTER_S if self.hand_over.outstanding and self._executor_idle else None
        owed_s = self._flows.deadline(self._options.generate_timeout_s)
        return min((due_s for due_s in (lost_s, owed_s) if due_s is not None), default=None)

    @property
    def lead(self) -> int:
        """Actions that wait at the executor behind the one being played."""
        return self._options.lead_actions or self.own_lead.actions

    def _flow_of(self, action: GeneratedAction) -> Flow | None:
        """Return the flow whose present beginning an action belongs to and which waits for it, or None."""
        flow = self._flows.find(action.context, action.revision) if self._episode.runs(action.episode) else None
        return flow if flow is not None and flow.granted else None

    def _proceed(self, now: float) -> list[GeneratorEffect]:
        """Hand over, send what there is room for, and grant what has become necessary."""
        effects: list[GeneratorEffect] = []
        if self._options.release == "chunk":
            flow = self._flows.playing
            while flow is not None and flow.came and not flow.granted:  # all of it is there
                effects.append(self._send(flow, now))
            self._take_chunk(now)
        else:
            while len(self.hand_over.outstanding) < self.lead:
                effects += self._take_over(now)
                flow = self._flows.playing
                if flow is None or not flow.came:
                    break
                effects.append(self._send(flow, now))
            effects += [self._grant(flow, now) for flow in self._flows.candidates() if self._must_begin(flow)]
        flow = self._flows.playing
        if flow is not None and self._wanted(flow) > flow.until:
            effects.append(self._grant(flow, now))
        return effects

    def _take_over(self, now: float) -> list[GeneratorEffect]:
        """Let the newest context that is ready take over; one that would begin at another step is asked again."""
        flow = self._flows.ready()
        if flow is None:
            return []
        if self._is_too_old(flow.sequence, now):  # it came in time, but nothing was begun meanwhile
            self._flows.drop(flow)
            return self._take_over(now)
        first, position = self._start(flow)
        behind = first - flow.first
        if len(flow.came) <= behind < len(flow.came) + len(flow.granted):
            return []  # the action that fits is on its way
        if not 0 <= behind < len(flow.came) or (behind == 0 and not self._is_near(flow, position)):
            self.counters.count("flow_begun_again")
            flow.begin(self._next_revision(), first, position)
            return [self._grant(flow, now)]
        if not self._lasts(flow, behind):
            return []
        for _ in range(behind):
            flow.position = self._layout.advance(flow.position, flow.came.popleft())
        flow.first = first
        self._adopt(flow)
        return []

    def _lasts(self, flow: Flow, behind: int) -> bool:
        """True when what has come of a flow outlasts a delay on the way, or the arm would stop for want of it."""
        playing, at_rest = self._flows.playing, self.hand_over.last_sent is None
        if not flow.granted or not (at_rest or (playing is not None and playing.came)):
            return True
        return len(flow.came) - behind >= self._credits.ahead.in_stock(self._options.control_period_s)

    def _take_chunk(self, now: float) -> None:
        """Release chunk: let a context take over when the chunk before it was sent."""
        playing = self._flows.playing
        if playing is not None and (playing.came or playing.granted):
            return
        for flow in self._flows.candidates():
            if flow.context is not None and self._is_too_old(flow.sequence, now):
                self._flows.drop(flow)
            elif flow.context is not None:
                flow.begin(self._next_revision(), *self._start(flow))
                self._adopt(flow)

    def _adopt(self, flow: Flow) -> None:
        """Go on with the actions of `flow`."""
        self.counters.count("flow_begun_late", int(flow.first > 0))
        self._credits.on_hand_over(self.hand_over.observation_delay(flow.sequence))
        if self._flows.playing is not None:
            self.counters.count("action_superseded", len(self._flows.playing.came))
        self._flows.adopt(flow)

    def _new_candidate(self, sequence: int, context: ContextReady | None = None) -> Flow:
        """Return a new flow of an observation that may take over."""
        flow = Flow(sequence, self._next_revision(), 0, self._layout.start(), context)
        flow.first, flow.position = self._start(flow)
        self._flows.add(flow)
        return flow

    def _start(self, flow: Flow) -> tuple[int, Vector]:
        """Return the step and the state, [A], from which a flow goes on that takes over with the next action."""
        start, context = self._options.hand_over_start, flow.context or self._known
        first = 0
        if start == "rezero" and self._options.release == "stream" and context is not None:
            delay = learned_delay(context, self._options.trained_delay)
            first = skipped_actions(context, self.hand_over.observation_delay(flow.sequence), delay)
        return first, self.hand_over.start(start, flow.sequence, first)

    def _must_begin(self, flow: Flow) -> bool:
        """Begin a flow anew that would begin otherwise by now; True when it must be granted.

        Some actions later than presumed it can take over all the same: there are spare steps.
        """
        if flow.came or not flow.granted:
            return not flow.came
        first, position = self._start(flow)
        late = first - flow.first
        spare = len(flow.granted) - 1 if self._is_chunk(flow) else SPARE_STEPS
        if 0 < late <= spare or (late == 0 and self._is_near(flow, position)):
            return False
        flow.begin(self._next_revision(), first, position)
        return True

    def _is_chunk(self, flow: Flow) -> bool:
        """True when all actions of a context exist, as far as is known."""
        context = flow.context or self._known
        return context is not None and context.chunk

    def _is_near(self, flow: Flow, position: Vector) -> bool:
        """True when a flow that has begun need not begin anew from `position`, [A]; a chunk's rows follow none."""
        return self._is_chunk(flow) or self.hand_over.is_near(position, flow.position)

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision

    def _wanted(self, flow: Flow) -> int:
        """Return the step before which the grants of a flow must end by now."""
        context, chunk = flow.context or self._known, self._options.release == "chunk"
        last = None if context is None else self._last(context)
        outstanding = len(self.hand_over.outstanding) if flow is self._flows.playing else -SPARE_STEPS
        ahead = last if chunk and last is not None else self.actions_ahead - outstanding
        return self._credits.until(flow, context, last, ahead)

    def _last(self, context: ContextReady) -> int | None:
        """Return how many actions a context may give, None: as many as it has."""
        goes_on = self._options.overrun and self._options.release == "stream"
        return None if goes_on else context.execution_horizon

    def _grant(self, flow: Flow, now: float, planned: Vector | None = None) -> GenerateRequest:
        """Return the request that grants what a flow needs by now."""
        wanted = self._wanted(flow)
        playing, sent = flow is self._flows.playing, self.hand_over.sent()
        if not playing:  # its steps are for the moments that they were meant for when it began
            flow.before = sent if flow.before is None else flow.before
            sent = flow.before
        pending = self.hand_over.behind_robot(sent)
        return self._credits.grant(self._episode.number, flow, wanted, now, playing, pending, sent, planned)

    def _send(self, flow: Flow, now: float) -> Action:
        """Return the next action of a flow; where it had to be bounded, the flow goes on from what was sent."""
        generated = flow.came.popleft()
        values = self._layout.clip(generated)
        if flow.index == 0:
            self.hand_over.begin(values)
        values, limited = self.hand_over.bounded(values, self.hand_over.last_sent, self._options.hand_over_jump)
        action = flow.next_action(values, self._layout.advance(flow.position, values))
        self.counters.count("jump_limited", int(limited))
        self.counters.count("overrun", int(flow.is_overrun))
        self.hand_over.on_sent(action)
        self._sent_s = now
        if not np.array_equal(values, generated) and not self._is_chunk(flow):
            self.counters.count("action_superseded", len(flow.came))
            flow.go_on(self._next_revision(), flow.position)
        return action

    def _end(self, flow: Flow, now: float) -> list[GeneratorEffect]:
        """Drop a flow (an index must not be skipped) and go on with a newer context if there is one."""
        self.counters.count("action_of_ended_flow", len(flow.came))
        self._flows.drop(flow)
        return self._proceed(now)

    def _is_too_old(self, sequence: int, now: float) -> bool:
        """True, and counted, when the picture of a context was asked for too long ago."""
        old = self._flows.age_s(sequence, now) > self._options.max_context_age_s
        if old:
            self.counters.count("context_too_old")
        return old

    def _checked(self, values: Vector, source: str) -> Vector | None:
        """Return `values` as [A], or None (counted) when they are no action."""
        if np.shape(values) != (self._layout.size,):
            self.counters.count(f"{source}_wrong_shape")
            return None
        if not np.isfinite(values).all():
            self.counters.count(f"{source}_not_finite")
            return None
        return np.asarray(values, dtype=np.float64)
