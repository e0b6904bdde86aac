"""The generator's machine: asks for actions ahead and sends them one by one to the executor.

- The steps of a flow are granted as credits: so many that, with the measured time from a grant to its action, the
  executor never waits. An action is sent while fewer than `lead_actions` wait at the executor; the others stay here.
- A context is granted its first steps with the picture already, so that its first actions come with it. It takes over
  at the next action as soon as its first one is there; what the old context gave and was not sent is dropped.
- Past the execution horizon the old context goes on if `overrun`.
- release chunk: all steps of the execution horizon at once, and all actions together (the synchronous baseline).

A timeline, one action lasts T, a flow step and its way S < T, an observation 2 T (lead_actions 1):

    time        executor begins   generator
    0           0.5 (context 0)   grants 0.7, sends 0.6, which is there; the monitor asks for observation 1
    0           -                 hears of it: grants 1.0 to before 1.3 of the context to come
    T           0.6               sends 0.7, grants 0.8
    2 T         0.7               sends 0.8, grants 0.9
    2 T + a     -                 context 1 and its action 1.0 come: at the next room it takes over
    3 T         0.8               sends 1.0; 0.9 is dropped; grants on behind 1.2
    4 T         1.0               its picture was taken 4 actions ago: with a trained_delay of 4 no action was skipped,
                                  with 2 the context would have begun at its step 2, with the sum of two actions
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.episodes import CurrentEpisode
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
from streaming_vla.machines.hand_over import STARTS, HandOver, learned_delay, skipped_actions
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.machines.options import require_choice, require_count, require_period
from streaming_vla.policies.layout import ActionLayout, Vector

GeneratorEffect = GenerateRequest | Action

RELEASES = ("stream", "chunk")
ROUNDING = 1e-6  # of an action; keeps ceil() from counting float noise as an action more
LOST_AFTER_S = 0.5  # an action that an idle executor shows no sign of for so long did not arrive
MOST_AHEAD = 12  # actions; more than that no way to a model may take
LATENCIES_REMEMBERED = 256  # newest, whose spread says how many actions must be granted ahead
FEW_LATENCIES = 32  # with so many known the margin is twice as wide as in the end: what is rare was not seen yet
LATENCIES_TO_LEARN = 7  # before so many are known, one action more is granted ahead
REQUESTS_KEPT = 64  # newest, whose times are remembered; no queue between picture and context is as long
SPARE_STEPS = 2  # granted behind what a new context needs at first: it may take over some actions later than presumed
CANDIDATES = 3  # newest observations that may still become the next context
DELAYS_REMEMBERED = 10  # newest delays of contexts, whose longest is expected (RTC's buffer, arXiv 2506.07339)


@dataclass(frozen=True)
class GeneratorOptions:
    """How actions are generated.

    Args:
        release: "stream" or "chunk".
        overrun: stream only: go on with the old context up to its trained horizon while no newer one is ready.
        lead_actions: stream only: actions sent and not yet begun by the executor, at most; 0: as many as the longest
            of the newest flow steps lasts, with its distance to the shortest as margin (more while few are known).
        generate_timeout_s: a flow step without a reply for so long ends its flow.
        control_period_s: an action lasts so long (T_e), seconds.
        hand_over_start: what a new flow starts from: "rezero", "episode" or "pending" (see hand_over.py).
        trained_delay: start rezero: actions that the policy was trained to begin behind its picture, at most; a flow
            that begins later leaves out as many actions as it is late (see hand_over.py).
        hand_over_jump: largest change of a summed dimension from one action to the next after a hand-over, action
            units; 0 sets no bound.
        max_context_age_s: a context whose request was heard longer ago does not take over, seconds.

    Raises:
        ValueError: an option out of range.
    """

    release: str = "stream"
    overrun: bool = True
    lead_actions: int = 1
    generate_timeout_s: float = 1.0
    control_period_s: float = 0.05
    hand_over_start: str = "rezero"
    trained_delay: int = 4
    hand_over_jump: float = 0.0
    max_context_age_s: float = 5.0

    def __post_init__(self) -> None:
        require_choice("release", self.release, RELEASES)
        require_count("lead_actions", self.lead_actions, 0)
        require_period("generate_timeout_s", self.generate_timeout_s)
        require_period("control_period_s", self.control_period_s)
        require_period("max_context_age_s", self.max_context_age_s)
        require_choice("hand_over_start", self.hand_over_start, STARTS)
        require_count("trained_delay", self.trained_delay, 0)
        if not 0.0 <= self.hand_over_jump < math.inf:
            raise ValueError(
                f"hand_over_jump is {self.hand_over_jump}: give action units of at least 0, where 0 sets no bound"
            )


class Generator:
    """Indices without gaps; at most `lead_actions` actions unplayed at the executor; nothing is sent twice."""

    def __init__(self, layout: ActionLayout, options: GeneratorOptions) -> None:
        self.counters = Counters()
        self.latency = LatencyTracker(warm_up=1)  # from the grant of a step to its action, transport included
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES_REMEMBERED)
        self._delays: deque[int] = deque(maxlen=DELAYS_REMEMBERED)
        self._layout = layout
        self._options = options
        self._episode = CurrentEpisode()
        self._known: ContextReady | None = None  # the newest that was heard, for the horizons of those to come
        self._state: tuple[Vector, float] | None = None  # of the robot, and when it came
        self._forget()

    def _forget(self) -> None:
        self._flow: Flow | None = None  # whose actions are sent
        self._candidates: dict[int, Flow] = {}  # that may take over, by observation
        self._newest_sequence = -1  # of the contexts that were taken
        self._requested_s: dict[int, float] = {}  # when the picture of a sequence was asked for
        self._revision = 0
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
    def actions_ahead(self) -> int:
        """Actions that are granted and not begun, at this moment: so many that none comes too late."""
        latencies_s = self._latencies_s
        if len(latencies_s) < LATENCIES_TO_LEARN:
            return max(self._lead, 2)
        longest_s, spread_s = max(latencies_s), max(latencies_s) - min(latencies_s)
        needed_s = longest_s + spread_s * (1.0 + FEW_LATENCIES / len(latencies_s))
        needed = math.ceil(needed_s / self._options.control_period_s - ROUNDING)
        return max(self._lead, min(MOST_AHEAD, needed))

    def on_robot_state(self, values: Vector, now: float) -> list[GeneratorEffect]:
        """Take the robot's newest state, [state_size], in the policy's order; every request carries it."""
        if np.isfinite(values).all():
            self._state = (values, now)
        else:
            self.counters.count("state_not_finite")
        return []

    def on_request(self, request: ObserveRequest, now: float) -> list[GeneratorEffect]:
        """Learn that a picture is taken now, and grant its context the first steps."""
        if not self._episode.runs(request.episode):
            self.counters.count("request_other_episode")
            return []
        self.hand_over.on_picture(request.sequence)
        self._requested_s[request.sequence] = now
        while len(self._requested_s) > REQUESTS_KEPT:
            del self._requested_s[next(iter(self._requested_s))]
        if self._options.release != "stream" or request.sequence <= self._newest_sequence:
            return []
        flow = self._candidate(request.sequence)
        return [self._grant(flow, now, with_plan=True)]

    def on_context(self, context: ContextReady, now: float) -> list[GeneratorEffect]:
        """Take a newer context; it takes over at the next action that is sent."""
        if not self._episode.runs(context.episode):
            self.counters.count("context_other_episode")
        elif context.sequence <= self._newest_sequence:
            self.counters.count("context_not_newer")
        elif not 1 <= context.execution_horizon <= context.trained_horizon:
            self.counters.count("context_bad_horizon")
        elif self._too_old(context.sequence, now):
            self.counters.count("context_too_old")
            self._candidates.pop(context.sequence, None)
        else:
            self._newest_sequence = context.sequence
            self._known = context
            for sequence in [number for number in self._candidates if number < context.sequence]:
                if self._candidates.pop(sequence).context is not None:
                    self.counters.count("context_superseded")
            flow = self._candidates.get(context.sequence) or self._candidate(context.sequence)
            flow.context = context
            flow.waits_since_s = now
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

    def waited_since(self, action: GeneratedAction) -> float | None:
        """Return since when an action that has come was waited for, and for nothing before it; None: it was not."""
        flow = self._flow_of(action)
        return flow.waits_since_s if flow is not None and flow.waits else None

    def on_generated(self, action: GeneratedAction, now: float) -> list[GeneratorEffect]:
        """Take an action of a granted step; one that is out of order, or none, ends its flow."""
        effects = self.poll(now)
        flow = self._flow_of(action)
        if flow is None:
            self.counters.count("generated_unexpected")
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
        if flow.granted_alone_s is not None and flow.next_step + 1 == flow.until:
            self._learn(max(0.0, now - flow.granted_alone_s))  # ROS time may be set back
            flow.granted_alone_s = None
        flow.came.append(values)
        flow.waits_since_s = now
        return effects + self._proceed(now)

    def poll(self, now: float) -> list[GeneratorEffect]:
        """Give up a granted action that does not come, and actions that never reached the executor."""
        for flow in self._flows():
            if self._is_waited_for(flow) and now >= flow.waits_since_s + self._options.generate_timeout_s:
                self.counters.count("generate_timeout")
                return self._end(flow, now)
        outstanding = self.hand_over.outstanding
        if outstanding and self._executor_idle and now >= self._sent_s + LOST_AFTER_S:
            for _ in outstanding:
                self.counters.count("action_lost")
            outstanding.clear()
            # the executor takes no later index of this context any more
            return self._end(self._flow, now) if self._flow is not None else self._proceed(now)
        return []

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""
        timeout_s = self._options.generate_timeout_s
        times = [flow.waits_since_s + timeout_s for flow in self._flows() if self._is_waited_for(flow)]
        if self.hand_over.outstanding and self._executor_idle:
            times.append(self._sent_s + LOST_AFTER_S)
        return min(times, default=None)

    @property
    def _lead(self) -> int:
        return max(1, self._options.lead_actions)

    def _flows(self) -> Iterator[Flow]:
        if self._flow is not None:
            yield self._flow
        yield from list(self._candidates.values())

    def _flow_of(self, action: GeneratedAction) -> Flow | None:
        """Return the flow whose present beginning an action belongs to, or None."""
        if not self._episode.runs(action.episode):
            return None
        for flow in self._flows():
            if (flow.sequence, flow.revision) == (action.context, action.revision):
                return flow
        return None

    def _is_waited_for(self, flow: Flow) -> bool:
        """True while the model owes an action; of a context to come nobody knows when."""
        return flow.waits and flow.context is not None

    def _learn(self, latency_s: float) -> None:
        self.latency.add(latency_s)
        if self.latency.smoothed_s is not None:  # the cold first step would keep the window wide for hundreds
            self._latencies_s.append(latency_s)

    def _proceed(self, now: float) -> list[GeneratorEffect]:
        """Hand over, send what there is room for, and grant what has become necessary."""
        effects: list[GeneratorEffect] = []
        if self._options.release == "chunk":
            self._take_chunk(now)
            flow = self._flow
            while flow is not None and flow.came and not flow.waits:  # all of it is there
                effects += self._send(flow, now)
        else:
            while len(self.hand_over.outstanding) < self._lead:
                effects += self._take_over(now)
                if self._flow is None or not self._flow.came:
                    break
                effects += self._send(self._flow, now)
            effects += [self._grant(flow, now) for flow in list(self._candidates.values()) if self._renew(flow)]
        if self._flow is not None and self._wanted(self._flow) > self._flow.until:
            effects.append(self._grant(self._flow, now))
        return effects

    def _take_over(self, now: float) -> list[GeneratorEffect]:
        """Let the newest context that is ready take over; one that would begin at another step is asked again."""
        ready = max((s for s, flow in self._candidates.items() if flow.ready), default=None)
        if ready is None:
            return []
        flow = self._candidates[ready]
        if self._too_old(ready, now):  # it came in time, but nothing was begun meanwhile
            self.counters.count("context_too_old")
            del self._candidates[ready]
            return self._take_over(now)
        first, position = self._start(flow)
        behind = first - flow.first
        if not 0 <= behind < len(flow.came) or (behind == 0 and not _same(position, flow.position)):
            self.counters.count("flow_begun_again")
            flow.begin(self._next_revision(), first, position)
            return [self._grant(flow, now)]
        for _ in range(behind):
            flow.position = self._layout.advance(flow.position, flow.came.popleft())
        flow.first = first
        self._adopt(flow)
        return []

    def _take_chunk(self, now: float) -> None:
        """Release chunk: let a context take over when the chunk before it was sent."""
        if self._flow is not None and (self._flow.came or self._flow.waits):
            return
        for flow in list(self._candidates.values()):
            if flow.context is None:
                continue
            if self._too_old(flow.sequence, now):
                self.counters.count("context_too_old")
                del self._candidates[flow.sequence]
                continue
            flow.begin(self._next_revision(), *self._start(flow))
            self._adopt(flow)

    def _adopt(self, flow: Flow) -> None:
        """Go on with the actions of `flow`."""
        if flow.first:
            self.counters.count("flow_begun_late")
        self._delays.append(self.hand_over.observation_delay(flow.sequence))
        for _ in self._flow.came if self._flow is not None else ():
            self.counters.count("action_superseded")
        self._flow = flow
        self._candidates = {s: other for s, other in self._candidates.items() if s > flow.sequence}

    def _candidate(self, sequence: int) -> Flow:
        """Return a new flow of an observation that may take over."""
        flow = Flow(sequence, self._next_revision(), 0, self._layout.start())
        flow.first, flow.position = self._start(flow)
        self._candidates[sequence] = flow
        while len(self._candidates) > CANDIDATES:
            del self._candidates[min(self._candidates)]
        return flow

    def _start(self, flow: Flow) -> tuple[int, Vector]:
        """Return the step and the state, [A], from which a flow goes on that takes over with the next action."""
        start, context = self._options.hand_over_start, flow.context or self._known
        first = 0
        if start == "rezero" and self._options.release == "stream" and context is not None:
            delay = learned_delay(context, self._options.trained_delay)
            first = skipped_actions(context, self.hand_over.observation_delay(flow.sequence), delay)
        return first, self.hand_over.start(start, flow.sequence, first)

    def _renew(self, flow: Flow) -> bool:
        """Begin a flow anew that would begin otherwise by now; True when it must be granted.

        Some actions later than presumed it can take over all the same: there are spare steps.
        """
        if flow.came or flow.until == 0:
            return flow.until == 0
        first, position = self._start(flow)
        if flow.first < first <= flow.first + SPARE_STEPS or (first == flow.first and _same(position, flow.position)):
            return False
        flow.begin(self._next_revision(), first, position)
        return True

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision

    def _wanted(self, flow: Flow) -> int:
        """Return the step before which the grants of a flow must end by now."""
        chunk = self._options.release == "chunk"
        context = flow.context or self._known
        if context is None:
            return flow.step + 1
        last = context.trained_horizon
        if chunk or not self._options.overrun:
            last = min(last, flow.first + context.execution_horizon)
        if chunk or context.chunk:  # all of it exists
            return last
        ahead = self.actions_ahead
        if flow is self._flow:
            ahead -= len(self.hand_over.outstanding)
        else:
            ahead += SPARE_STEPS
        return min(last, flow.step + max(0, ahead))

    def _grant(self, flow: Flow, now: float, with_plan: bool = False) -> GenerateRequest:
        """Return the request that grants what a flow needs by now."""
        wanted = self._wanted(flow)
        alone = not flow.waits and wanted == flow.next_step + 1 and flow is self._flow
        if not flow.waits:
            flow.waits_since_s = now
        flow.until, flow.granted_alone_s = max(flow.until, wanted), now if alone else None
        position = flow.position
        for values in flow.came:
            position = self._layout.advance(position, values)
        planned, delay = (self._planned(), max(self._delays, default=0)) if with_plan else (None, 0)
        state, age_s = (None, math.nan) if self._state is None else (self._state[0], max(0.0, now - self._state[1]))
        return GenerateRequest(
            self._episode.number,
            flow.sequence,
            flow.revision,
            flow.next_step,
            position,
            flow.until,
            state,
            age_s,
            planned,
            delay,
        )

    def _planned(self) -> Vector:
        """Return the action being played, those sent behind it and those that have come, [n, A]."""
        came = [] if self._flow is None else list(self._flow.came)
        return np.array([*self.hand_over.planned(), *came]).reshape(-1, self._layout.size)

    def _send(self, flow: Flow, now: float) -> list[GeneratorEffect]:
        """Send the next action of a flow; where it had to be bounded, the flow goes on from what was sent."""
        context = flow.context
        assert context is not None, "only a context that is known takes over"
        generated = flow.came.popleft()
        values = self._layout.clip(generated)
        if flow.index == 0:
            self.hand_over.begin(values)
        values, limited = self.hand_over.bounded(values, self.hand_over.last_sent, self._options.hand_over_jump)
        if limited:
            self.counters.count("jump_limited")
        if flow.index >= context.execution_horizon:
            self.counters.count("overrun")
        action = Action(
            episode=context.episode,
            context=context.sequence,
            index=flow.index,
            flow_time=flow.step / context.trained_horizon,
            values=values,
            more=flow.index + 1 < context.execution_horizon,
        )
        flow.position = self._layout.advance(flow.position, values)
        flow.index += 1
        self.hand_over.on_sent(action)
        self._sent_s = now
        changed = not np.array_equal(values, generated)
        if changed and self._options.release == "stream" and not context.chunk:
            flow.go_on(self._next_revision(), flow.position)
        return [action]

    def _end(self, flow: Flow, now: float) -> list[GeneratorEffect]:
        """Drop a flow (an index must not be skipped) and go on with a newer context if there is one."""
        for _ in flow.came:
            self.counters.count("action_of_ended_flow")
        if flow is self._flow:
            self._flow = None
        else:
            self._candidates.pop(flow.sequence, None)
        return self._proceed(now)

    def _too_old(self, sequence: int, now: float) -> bool:
        """True when the request was heard too long ago; a context whose request was not heard counts as new."""
        return now - self._requested_s.get(sequence, now) > self._options.max_context_age_s

    def _checked(self, values: Vector, source: str) -> Vector | None:
        """Return `values` as [A], or None (counted) when they are no action."""
        if np.shape(values) != (self._layout.size,):
            self.counters.count(f"{source}_wrong_shape")
            return None
        if not np.isfinite(values).all():
            self.counters.count(f"{source}_not_finite")
            return None
        return np.asarray(values, dtype=np.float64)


def _same(position: Vector, other: Vector) -> bool:
    return bool(np.allclose(position, other, atol=1e-6))
