"""The saliency monitor's machine: conducts episodes and decides when to observe, and why.

- asked --context--> ready --its first action begins--> played --dry, early or silent for too long--> asked
- asked --request_timeout_s--> asked again;   ready, dry and not played for request_timeout_s --> asked
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from streaming_vla.runtime.counters import Counters
from streaming_vla.runtime.events import ContextReady, Episode, ExecutionState, Mode, ObserveRequest, Reason
from streaming_vla.runtime.latency import LatencyTracker
from streaming_vla.runtime.options import require_choice, require_count, require_period
from streaming_vla.saliency.decision import Always, EarlyDecision, Never

MonitorEffect = Episode | ObserveRequest

MODES = ("off", "always")
ADOPTION_GAP = 1000  # sequences left out on adoption: far more than a lost monitor asked for without being answered
ROUNDING = 1e-6  # of an action; keeps ceil() from counting float noise as an action more


@dataclass(frozen=True)
class MonitorOptions:
    """When to observe.

    Args:
        mode: "off" (only when the queue is dry) or "always" (early, before it is).
        early_actions: observe early with so many actions left, the one that begins included; 0: as many as
            the measured latencies need for a hand-over at the execution horizon.
        lead_actions: actions that the generator sends ahead.
        control_period_s: an action lasts so long (T_e), seconds.
        max_silence_s: observe at the latest so long after the last request, seconds.
        request_timeout_s: ask again when nothing came of a request for so long, seconds.
        warm_up_contexts: first contexts whose latency is left out.

    Raises:
        ValueError: an option out of range.
    """

    mode: str = "always"
    early_actions: int = 0
    lead_actions: int = 1
    control_period_s: float = 0.05
    max_silence_s: float = 2.0
    request_timeout_s: float = 2.0
    warm_up_contexts: int = 2

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, MODES)
        require_count("early_actions", self.early_actions, 0)
        require_count("lead_actions", self.lead_actions, 1)
        require_period("control_period_s", self.control_period_s)
        require_period("max_silence_s", self.max_silence_s)
        require_period("request_timeout_s", self.request_timeout_s)
        require_count("warm_up_contexts", self.warm_up_contexts, 0)


class Monitor:
    """One request at a time; start, empty queue and maximum silence always observe.

    Args:
        options: when to observe.
        last_episode: new episodes have numbers above it (a monitor that was restarted must not use one again).
    """

    def __init__(self, options: MonitorOptions, last_episode: int = 0) -> None:
        self.counters = Counters()
        self.request_latency = LatencyTracker()  # request to context, T_o with transport and waiting
        self._last_episode = last_episode
        self._instruction = ""
        self._episode: Episode | None = None
        self.update(options)
        self._begin(0.0, 0)

    def _begin(self, now: float, first_sequence: int) -> None:
        self._next_sequence = first_sequence
        self._asked: ObserveRequest | None = None
        self._asked_s = now  # of the newest request, answered or not
        self._context: ContextReady | None = None  # newest
        self._context_s = now
        self._context_played = False  # an action of the newest context has begun
        self._state: ExecutionState | None = None

    @property
    def episode(self) -> Episode | None:
        """The newest episode that this monitor conducts, active or over; None before the first."""
        return self._episode

    def update(self, options: MonitorOptions) -> None:
        """Take new options at once."""
        self._options = options
        self._decision: EarlyDecision = Always() if options.mode == "always" else Never()
        self.request_latency.warm_up = options.warm_up_contexts

    def on_instruction(self, instruction: str) -> None:
        """Remember the newest instruction; episodes that are started without one take it."""
        self._instruction = instruction.strip()

    def start_episode(self, now: float, instruction: str = "") -> list[MonitorEffect]:
        """Begin the next episode (the one before is over) and ask for its first observation.

        Raises:
            ValueError: no instruction is given and none was heard.
        """
        text = instruction.strip() or self._instruction
        if not text:
            raise ValueError("no instruction: pass one to start_episode, or publish it on the topic 'instruction'")
        self._last_episode += 1
        self._episode = Episode(self._last_episode, active=True, instruction=text)
        self._begin(now, 0)
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
        self._last_episode = max(self._last_episode, state.episode)
        if self._episode is None:
            return self._adopt(state, now)
        if not self._runs(state.episode):
            self.counters.count("state_other_episode")
            return []
        self._state = state
        if self._context is not None and state.context == self._context.sequence:
            self._context_played = True
        return self._decide(now)

    def on_context(self, context: ContextReady, now: float) -> list[MonitorEffect]:
        """Learn that an observation was prefilled: the request for it is answered."""
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
        self._context = context
        self._context_s = now
        self._context_played = False
        return self._decide(now)

    def poll(self, now: float) -> list[MonitorEffect]:
        """Ask again, or after the maximum silence."""
        return self._decide(now)

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""
        if self._episode is None or not self._episode.active or self._over():
            return None
        if self._asked is not None:
            return self._asked_s + self._options.request_timeout_s
        silence_s = self._asked_s + self._options.max_silence_s
        if self._dry() and self._context is not None and not self._context_played:
            return min(silence_s, self._context_s + self._options.request_timeout_s)
        return silence_s

    def _decide(self, now: float) -> list[MonitorEffect]:
        episode = self._episode
        if episode is None or not episode.active or self._over():
            return []
        reason = self._reason(now) if self._asked is None else self._reason_again(self._asked, now)
        return [] if reason is None else [self._ask(episode, reason, now)]

    def _reason(self, now: float) -> Reason | None:
        """Return why to observe now, or None; no request is outstanding."""
        if self._dry():
            if self._context is None or self._context_played:
                return Reason.QUEUE_EMPTY
            if now >= self._context_s + self._options.request_timeout_s:
                self.counters.count("context_not_played")
                return Reason.QUEUE_EMPTY
        if now >= self._asked_s + self._options.max_silence_s:
            return Reason.MAX_SILENCE
        return Reason.EARLY if self._early(now) else None

    def _reason_again(self, asked: ObserveRequest, now: float) -> Reason | None:
        """Return why to ask again for what `asked` did not bring, or None while there is time."""
        if now < self._asked_s + self._options.request_timeout_s:
            return None
        self.counters.count("request_timeout")
        return Reason.QUEUE_EMPTY if asked.reason is Reason.EARLY and self._dry() else asked.reason

    def _early(self, now: float) -> bool:
        """True when few actions of the newest context are left and it does no harm to observe."""
        state, context = self._state, self._context
        if state is None or context is None or state.mode is not Mode.PLAYING or state.context != context.sequence:
            return False
        left = context.execution_horizon - state.index
        return left <= self._early_actions(context) and bool(self._decision.decide(left, now))

    def _early_actions(self, context: ContextReady) -> int:
        """Return with how many actions left to observe: m = ceil((T_o + T_step) / T_e), and the generator's lead."""
        if self._options.early_actions:
            return self._options.early_actions
        needed_s = (self.request_latency.smoothed_s or 0.0) + context.flow_step_s
        return max(1, math.ceil(needed_s / self._options.control_period_s - ROUNDING)) + self._options.lead_actions

    def _dry(self) -> bool:
        """True when the executor has nothing to execute, before the first action too."""
        state = self._state
        return state is not None and (state.starved or (state.mode is Mode.WAITING and state.queue_depth == 0))

    def _over(self) -> bool:
        """True when the executor takes no action before the next episode."""
        return self._state is not None and self._state.mode in (Mode.IDLE, Mode.ERROR)

    def _runs(self, number: int) -> bool:
        return self._episode is not None and self._episode.active and number == self._episode.number

    def _ask(self, episode: Episode, reason: Reason, now: float) -> ObserveRequest:
        self.counters.count(f"request_{reason.name.lower()}")
        self._asked = ObserveRequest(episode.number, self._next_sequence, reason)
        self._asked_s = now
        self._next_sequence += 1
        return self._asked

    def _adopt(self, state: ExecutionState, now: float) -> list[MonitorEffect]:
        """Go on with the episode that the executor plays: a monitor before this one began it."""
        self._state = state
        if self._over():
            return []
        self.counters.count("episode_adopted")
        self._episode = Episode(state.episode, active=True, instruction=state.instruction)
        self._begin(now, state.context + ADOPTION_GAP)
        self._state = state
        return [self._episode, *self._decide(now)]
