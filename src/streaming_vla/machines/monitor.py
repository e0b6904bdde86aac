"""The saliency monitor's machine: conducts episodes and decides when to observe, and why.

- asked --context--> ready --its first action begins--> played --dry, early or silent for too long--> asked
- asked --request_timeout_s--> asked again;   ready, dry and not played for request_timeout_s --> asked

Early begins with m actions left of the execution horizon. From there on the mode decides at every action, until
with m + 1 actions left of what the context can give an observation is sent whatever the mode says.

Two timelines, as the generator's: an action lasts T, a flow step 0.3 T, an observation 2.2 T; lead_actions 1, so that
m is ceil(2.5) + 2 = 5. A context executes 10 of its 20 actions and was trained to begin 4 actions after its picture.
Mode always observes with 5 of the 10 left:

    time     executor begins   monitor
    0.0 T    5.0               -
    5.0 T    5.5               asks for observation 6
    7.2 T    -                 context 6 comes
    9.0 T    6.0               -
    14.0 T   6.5               asks for observation 7

A mode that never finds a reason lets the context go on until 6 of the 20 are left, the last chance:

    time     executor begins   monitor
    0.0 T    5.0               -
    14.0 T   5.14              asks for observation 6
    16.2 T   -                 context 6 comes
    18.0 T   6.0               -

Between picture and take-over the arm moves 4 actions on: context 6 begins where it is then (see the generator).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from streaming_vla.machines.action_history import ActionHistory
from streaming_vla.machines.counters import Counters
from streaming_vla.machines.episodes import LARGEST_EPISODE, episode_is_far_ahead, is_far_ahead
from streaming_vla.machines.events import (
    ContextReady,
    Episode,
    ExecutionState,
    Mode,
    ObserveRequest,
    Reason,
    SaliencyQuestion,
    SaliencyReply,
)
from streaming_vla.machines.going_on import given_up, longest_silence_s, lost_history
from streaming_vla.machines.hand_over import learned_delay, skipped_actions
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.stops import Level, Said
from streaming_vla.policies.layout import Vector
from streaming_vla.saliency.decision import NO_SALIENCY, EarlyDecision, Moment, Verdict

MonitorEffect = Episode | ObserveRequest | SaliencyQuestion | Said

ADOPTION_GAP = 1000  # sequences left out on adoption: far more than a lost monitor asked for without being answered
JUDGED_KEPT = 4096
SPARE = 1  # action; behind the trained horizon no overrun makes up for an observation that takes longer than usual
ROUNDING = 1e-6  # of an action; keeps ceil() from counting float noise as an action more


class Monitor:
    """One request at a time; start, empty queue and maximum silence always observe.

    Args:
        options: when to observe.
        last_episode: new episodes have numbers above it (a monitor that was restarted must not use one again).
        decision: decides in the place of the mode's rule; the mode must not be off.
        ended: newest number that is known to be over: a late state of it is not taken for one that runs.
    """

    def __init__(
        self, options: MonitorOptions, last_episode: int = 0, decision: EarlyDecision | None = None, ended: int = 0
    ) -> None:
        self.counters = Counters()
        self.request_latency = LatencyTracker()  # request to context, T_o with transport and waiting
        # context and saliency of the newest episode, for calibration
        self.judged: deque[tuple[int, float]] = deque(maxlen=JUDGED_KEPT)
        self._last_episode, self._ended = last_episode, ended
        self._far_ahead = 0  # the episode that the executor says it is in, where no monitor comes to it
        self._instruction = ""
        self._episode: Episode | None = None
        self._given_decision = decision
        self._options, self._decision = options, decision or options.decision()
        self._begin(0.0, 0)
        self.update(options)

    def _begin(self, now: float, first_sequence: int) -> None:
        self._decision.begin()
        self._next_sequence = first_sequence
        self._asked: ObserveRequest | None = None
        self._asked_s = now  # of the newest request, answered or not
        self._context: ContextReady | None = None  # newest
        self._context_s = now
        self._context_played = False  # an action of the newest context has begun
        self._state: ExecutionState | None = None
        self._heard_s = now  # when that came
        self._since = ActionHistory()
        self._question: SaliencyQuestion | None = None  # the predictor has it, and its answer is wanted
        self._question_s = now
        self._answer: tuple[int, float] | None = None  # context and saliency of an answer that is not used yet
        self._judged_at = (-1, -1)  # context and index of the newest action at which the mode has decided

    @property
    def episode(self) -> Episode | None:
        """The newest episode that this monitor conducts, active or over; None before the first."""
        return self._episode

    def update(self, options: MonitorOptions) -> None:
        """Take new options at once."""
        if self._given_decision is None and options.rule != self._options.rule:
            self._decision = options.decision()
            self._question = self._answer = None  # what the rule before asked for means something else
        self._options = options
        self.request_latency.warm_up = options.warm_up_contexts

    def on_instruction(self, instruction: str) -> None:
        """Remember the newest instruction; episodes that are started without one take it."""
        self._instruction = instruction.strip()

    def start_episode(self, now: float, instruction: str = "") -> list[MonitorEffect]:
        """Begin the next episode (the one before is over) and ask for its first observation.

        Raises:
            ValueError: no instruction is given and none was heard, or the executor would not take the episode's number.
        """
        text = instruction.strip() or self._instruction
        if not text:
            raise ValueError("no instruction: pass one to start_episode, or publish it on the topic 'instruction'")
        if self._far_ahead or self._last_episode >= LARGEST_EPISODE:
            raise ValueError(
                f"the executor is in episode {self._far_ahead or self._last_episode}, far ahead of every number that "
                "this node gives out, and would take no other: start the nodes of the robot again"
            )
        self._last_episode += 1
        self._episode = Episode(self._last_episode, active=True, instruction=text)
        self._begin(now, 0)
        self.judged.clear()
        return [self._episode, self._ask(self._episode, Reason.START, now)]

    def stop_episode(self, now: float) -> list[MonitorEffect]:
        """End the episode; nothing when none is active."""
        if self._episode is None or not self._episode.active:
            return []
        self._episode = Episode(self._episode.number, active=False, instruction=self._episode.instruction)
        self._begin(now, 0)
        return [self._episode]

    def on_execution_state(self, state: ExecutionState, now: float) -> list[MonitorEffect]:
        """Learn what the executor does; decide whether to observe."""
        far = episode_is_far_ahead(state.episode, self._last_episode)
        self._far_ahead = state.episode if far else 0
        if far or state.context > LARGEST_EPISODE:
            self.counters.count("state_far_ahead")
            return []
        self._last_episode = max(self._last_episode, state.episode)
        if self._episode is None:
            return self._adopt(state, now)
        if not self._runs(state.episode):
            self.counters.count("state_other_episode")
            return []
        effects = self._judge_executor(now)
        self._state, self._heard_s = state, now
        self._since.on_state(state)
        if self._context is not None and state.context == self._context.sequence:
            self._context_played = True
        return [*effects, *self._judge_executor(now), *self._decide(now)]

    def on_context(self, context: ContextReady, now: float) -> list[MonitorEffect]:
        """Learn that an observation was prefilled: the request for it is answered."""
        newest = -1 if self._context is None else self._context.sequence
        if episode_is_far_ahead(context.episode, self._last_episode) or is_far_ahead(
            context.sequence, max(newest, self._next_sequence)
        ):
            self.counters.count("context_far_ahead")
            return []
        self._last_episode = max(self._last_episode, context.episode)
        if not self._runs(context.episode):
            self.counters.count("context_other_episode")
            return []
        if self._context is not None and context.sequence <= self._context.sequence:
            self.counters.count("context_not_newer")
            return []
        if self._asked is not None and context.sequence == self._asked.sequence:
            self.request_latency.add(max(0.0, now - self._asked_s))  # ROS time may be set back
            self._asked = None
        else:
            self.counters.count("context_late")  # of a request that was given up; it may be played all the same
        known = max(newest, -1 if self._state is None else self._state.context)
        said = lost_history(context, known, self._options.continue_without_history)
        self.counters.count("history_lost", int(said is not None))
        if said is not None and said.level is Level.ERROR:
            return [said, *self.stop_episode(now)]
        self._context = context
        self._context_s = now
        self._context_played = False
        return [*([] if said is None else [said]), *self._decide(now)]

    def on_saliency(self, reply: SaliencyReply, now: float) -> list[MonitorEffect]:
        """Learn what the predictor says; one that cannot say lets the observation be sent."""
        asked = self._question
        if asked is None or (reply.episode, reply.context, reply.index) != (asked.episode, asked.context, asked.index):
            self.counters.count("saliency_late")
            return []
        self._question = None
        if not reply.accepted:
            self.counters.count("saliency_refused")
        self._answer = (reply.context, reply.saliency if reply.accepted else NO_SALIENCY)
        return self._decide(now)

    def on_nodes_back(self, now: float) -> list[MonitorEffect]:
        """A node was started again: what it was sent meanwhile is lost, so a robot that waits is helped at once."""
        episode = self._episode
        if episode is None or not episode.active or self._over() or not self._dry():
            return []
        self.counters.count("node_back")
        return [self._ask(episode, Reason.QUEUE_EMPTY, now)]

    def poll(self, now: float) -> list[MonitorEffect]:
        """Ask again, or after the maximum silence; give up an executor that is away for too long."""
        return [*self._judge_executor(now), *self._decide(now)]

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""
        if self._episode is None or not self._episode.active or self._over():
            return None
        away_s = self._executor_away_s()
        if self._asked is not None:
            return min(away_s, self._asked_s + self._options.request_timeout_s)
        silence_s = min(away_s, self._asked_s + self._options.max_silence_s)
        if self._dry() and self._context is not None and not self._context_played:
            return min(silence_s, self._context_s + self._options.request_timeout_s)
        return silence_s

    def _executor_away_s(self) -> float:
        """Return when an executor that is not heard from now on has been away for too long to move the robot again."""
        return math.inf if self._state is None else self._heard_s + longest_silence_s(self._state)

    def _judge_executor(self, now: float) -> list[MonitorEffect]:
        """Keep that the robot was stopped for good, for an executor that is started again knows nothing of it."""
        episode, state = self._episode, self._state
        if episode is None or not episode.active or episode.stopped or state is None or state.resumes:
            return []
        stopped = state.mode is Mode.ERROR
        if not stopped and now < self._executor_away_s():
            return []
        self.counters.count("episode_stopped")
        self._episode = replace(episode, stopped=True)
        return [self._episode] if stopped else [self._episode, given_up(now - self._heard_s)]

    def _decide(self, now: float) -> list[MonitorEffect]:
        episode = self._episode
        if episode is None or not episode.active or self._over():
            return []
        if self._asked is not None:
            reason = self._reason_again(self._asked, now)
            return [] if reason is None else [self._ask(episode, reason, now)]
        reason = self._reason(now)
        return self._early(episode, now) if reason is None else [self._ask(episode, reason, now)]

    def _reason(self, now: float) -> Reason | None:
        """Return why an observation must be sent now, or None; no request is outstanding."""
        if self._dry():
            if self._context is None or self._context_played:
                return Reason.QUEUE_EMPTY
            if now >= self._context_s + self._options.request_timeout_s:
                self.counters.count("context_not_played")
                return Reason.QUEUE_EMPTY
        return Reason.MAX_SILENCE if now >= self._asked_s + self._options.max_silence_s else None

    def _reason_again(self, asked: ObserveRequest, now: float) -> Reason | None:
        """Return why to ask again for what `asked` did not bring, or None while there is time."""
        if now < self._asked_s + self._options.request_timeout_s:
            return None
        self.counters.count("request_timeout")
        early = asked.reason in (Reason.EARLY, Reason.LAST_CHANCE)
        return Reason.QUEUE_EMPTY if early and self._dry() else asked.reason

    def _early(self, episode: Episode, now: float) -> list[MonitorEffect]:
        """Let the mode decide when few actions of the newest context are left."""
        state, context = self._state, self._context
        if state is None or context is None or state.mode is not Mode.PLAYING or state.context != context.sequence:
            return []
        early = self._early_actions(context, state)
        left = context.trained_horizon - self._step(context, state)
        # a context that began late has left steps out: it may end before its execution horizon does
        if self._options.mode == "off" or min(context.execution_horizon - state.index, left) > early:
            return []
        if self.request_latency.smoothed_s is None and not self._options.early_actions and self._given_decision is None:
            self.counters.count("sent_latency_unknown")  # nobody knows yet when it would be too late
            return [self._ask(episode, Reason.EARLY, now)]
        if self._options.last_chance and left <= early + SPARE < context.trained_horizon:
            self.counters.count("sent_last_chance")
            # mode always would observe at this action or the next anyway
            reason = Reason.EARLY if self._options.mode == "always" else Reason.LAST_CHANCE
            return [self._ask(episode, reason, now)]
        return self._judge(episode, context, state, now)

    def _judge(self, episode: Episode, context: ContextReady, state: ExecutionState, now: float) -> list[MonitorEffect]:
        """Send, suppress or ask the predictor, counted by the reason."""
        known = self._answer[1] if self._answer is not None and self._answer[0] == state.context else None
        if known is None and self._judged_at == (state.context, state.index):
            return []
        self._judged_at, self._answer = (state.context, state.index), None
        moment = Moment(state.context, *self._since.change(state.context, self._options.action_absolute), known)
        decision = self._decision.decide(moment)
        if decision.verdict is Verdict.ASK:
            return self._ask_predictor(episode, context, state, moment.change, now)
        if not math.isnan(decision.saliency):
            self.judged.append((state.context, decision.saliency))
        if decision.verdict is Verdict.SUPPRESS:
            self.counters.count(f"suppressed_{decision.reason}")
            return []
        self.counters.count(f"sent_{decision.reason}")
        return [self._ask(episode, Reason.EARLY, now, decision.saliency)]

    def _ask_predictor(
        self, episode: Episode, context: ContextReady, state: ExecutionState, change: Vector | None, now: float
    ) -> list[MonitorEffect]:
        """Ask the predictor, unless it has a question; that is about this context, for a request ends it.

        If every action's question took the place of the one before, a predictor slower than an action never answered.
        """
        if change is None:
            return []
        if self._question is not None:
            if now < self._question_s + self._options.request_timeout_s:
                self.counters.count("suppressed_unanswered")
                return []
            self.counters.count("saliency_superseded")
        step = self._step(context, state)
        self._question = SaliencyQuestion(episode.number, state.context, step, change, self._options.saliency_of)
        self._question_s = now
        return [self._question]

    def _step(self, context: ContextReady, state: ExecutionState) -> int:
        """Return which step of its flow the context that is played is at: the generator leaves some out."""
        observation_delay = self._since.observation_delay(context.sequence, state.executed - 1 - state.index)
        return state.index + skipped_actions(
            context, observation_delay, learned_delay(context, self._options.trained_delay)
        )

    def _early_actions(self, context: ContextReady, state: ExecutionState) -> int:
        """Return with how many actions left to observe: m = ceil((T_o + T_step) / T_e), and the generator's lead."""
        if self._options.early_actions:
            return self._options.early_actions
        lead = 1 + max(1, self._options.lead_actions)  # the one that begins and those behind it are settled
        needed_s = (self.request_latency.smoothed_s or 0.0) + context.flow_step_s
        return max(1, math.ceil(needed_s / self._options.control_period_s - ROUNDING)) + lead

    def _dry(self) -> bool:
        """True when the executor has nothing to execute, before the first action too."""
        state = self._state
        return state is not None and (state.starved or (state.mode is Mode.WAITING and state.queue_depth == 0))

    def _over(self) -> bool:
        """True when the executor takes no action before the next episode."""
        state = self._state
        return (self._episode is not None and self._episode.stopped) or (
            state is not None and (state.mode is Mode.IDLE or (state.mode is Mode.ERROR and not state.resumes))
        )

    def _runs(self, number: int) -> bool:
        return self._episode is not None and self._episode.active and number == self._episode.number

    def _ask(self, episode: Episode, reason: Reason, now: float, saliency: float = NO_SALIENCY) -> ObserveRequest:
        self.counters.count(f"request_{reason.name.lower()}")
        self._asked = ObserveRequest(episode.number, self._next_sequence, reason, saliency)
        self._since.on_picture(self._next_sequence)
        self._asked_s = now
        self._question = None  # what it asks about is decided
        self._next_sequence += 1
        return self._asked

    def _adopt(self, state: ExecutionState, now: float) -> list[MonitorEffect]:
        """Go on with the episode that the executor plays: a monitor before this one began it."""
        self._state = state
        if self._over() or state.episode <= self._ended:
            return []
        self.counters.count("episode_adopted")
        self._episode = Episode(state.episode, active=True, instruction=state.instruction)
        self._begin(now, state.context + ADOPTION_GAP)
        self._state, self._heard_s = state, now
        return [self._episode, *self._decide(now)]
