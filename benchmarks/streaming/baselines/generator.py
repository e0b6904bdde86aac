"""The chunk generator's machine: keeps the queue of a strategy and sends its actions one by one to the executor.

It stands in the place of the generator: the monitor decides when to observe, the executor plays. The queue lives
on the robot. It grants all rows of a chunk with the picture; to the monitor a context is ready when they have come.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from baselines.events import Arrival, Planned
from baselines.strategy import Ahead, Shift, Strategy, check_count
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
from streaming_vla.policies.layout import ActionLayout, Vector

ChunkEffect = GenerateRequest | Action | ContextReady

LEAD = 1
ROUNDING = 1e-6  # of a tick
DELAYS_REMEMBERED = 10  # newest delays, whose longest is expected (RTC's buffer)


@dataclass(frozen=True)
class ChunkGeneratorOptions:
    """How the queue is fed and emptied.

    Args:
        horizon: H, actions of a chunk.
        lead_actions: actions sent and not yet begun by the executor, at most.
        tick_s: where nothing is played an action begins so long after the tick before, or a multiple of it, as in a
            loop that sleeps between; 0: at once.

    Raises:
        ValueError: an option out of range.
    """

    horizon: int
    lead_actions: int = LEAD
    tick_s: float = 0.0

    def __post_init__(self) -> None:
        check_count("horizon", self.horizon, 1)
        check_count("lead_actions", self.lead_actions, 1)


@dataclass
class _Asked:
    """A chunk that was asked for: the step of the episode that its row 0 belongs to, and the rows that have come."""

    first: int
    rows: list[Vector] = field(default_factory=list)


class ChunkGenerator:
    """Asks for a chunk with every picture; contexts count up in what it sends, indices without gaps.

    Attributes:
        begun: actions of the episode that the executor has begun.
        shift: after which actions the newest picture's chunk is going to begin; None: it begins now.
    """

    def __init__(self, layout: ActionLayout, strategy: Strategy, options: ChunkGeneratorOptions) -> None:
        self.counters = Counters()
        self._layout = layout
        self._strategy = strategy
        self._options = options
        self._episode = CurrentEpisode()
        self._delays: deque[int] = deque(maxlen=DELAYS_REMEMBERED)  # actions between picture and chunk
        self._forget()

    @property
    def waiting(self) -> int:
        """Actions that wait, here or at the executor."""
        return len(self._queue) + len(self._outstanding)

    def _forget(self) -> None:
        self._strategy.begin()
        self._queue: deque[Planned] = deque()
        self._history: list[Vector] = []  # every action sent in this episode
        self._asked: dict[int, _Asked] = {}  # by observation
        self.shift: Shift | None = None
        self._sent = (-1, -1)  # context and index of the newest action
        self._outstanding: deque[tuple[int, int]] = deque()
        self.begun = 0
        self._playing = False
        self._tick_s = 0.0  # at which the newest action has begun
        self._polled_s = 0.0

    def on_episode(self, episode: Episode, now: float) -> list[ChunkEffect]:
        """Begin or end an episode; both forget everything of the one before."""
        if self._episode.renew(episode, self.counters):
            self._forget()
            self._tick_s = now
        return []

    def on_request(self, request: ObserveRequest, now: float) -> list[ChunkEffect]:
        """A picture is taken now: ask for its chunk."""
        if not self._episode.runs(request.episode):
            self.counters.count("request_other_episode")
            return []
        # row 0 belongs to the action that begins with the picture, or to the next one when nothing is played
        first = self.begun - int(self._playing)
        self._asked[request.sequence] = _Asked(first)
        sent = self._history[first:]
        queued = list(self._queue)
        kept = len(sent) + sum(self._strategy.within(planned) for planned in queued)
        actions = np.array([*sent, *(planned.values for planned in queued)]).reshape(-1, self._layout.size)
        ahead = Ahead(actions, kept, max(self._delays, default=0), self._options.horizon)
        self.shift = self._strategy.shift(ahead)
        return [
            GenerateRequest(
                request.episode,
                request.sequence,
                0,
                0,
                self._layout.start(),
                self._options.horizon,
                planned=self._strategy.planned(ahead),
                delay=ahead.delay,
            )
        ]

    def on_context(self, context: ContextReady, now: float) -> list[ChunkEffect]:
        """Nothing: its rows come behind it."""
        return []

    def on_robot_state(self, values: Vector, now: float) -> list[ChunkEffect]:
        """Nothing: rows that exist do not depend on it."""
        return []

    def on_generated(self, action: GeneratedAction, now: float) -> list[ChunkEffect]:
        """Take a row; a chunk that is complete is merged into the queue unless it is older than what is queued."""
        if not self._episode.runs(action.episode):
            self.counters.count("row_other_episode")
            return []
        asked = self._asked.get(action.context)
        if asked is None:
            self.counters.count("row_unexpected")
            return []
        fits = np.shape(action.values) == (self._layout.size,) and np.isfinite(action.values).all()
        if not action.accepted or action.step != len(asked.rows) or not fits:
            self.counters.count("row_no_action" if action.accepted else "row_refused")
            del self._asked[action.context]
            return []
        asked.rows.append(self._layout.clip(action.values))
        return self._merge(action.context, asked, now) if len(asked.rows) == self._options.horizon else []

    def _merge(self, context: int, asked: _Asked, now: float) -> list[ChunkEffect]:
        # what was asked for before is older than what is queued from now on
        self._asked = {number: each for number, each in self._asked.items() if number > context}
        passed = len(self._history) - asked.first
        self._delays.append(passed)
        plan = self._strategy.merge(
            Arrival(context, np.array(asked.rows), passed, tuple(self._queue), len(self._history))
        )
        new = sum(planned.context == context for planned in plan.actions)
        if not new:
            self.counters.count("chunk_too_late")
            return []
        self._queue = deque(plan.actions)
        return [ContextReady(self._episode.number, context, plan.horizon, new), *self._send(now)]

    def on_execution_state(self, state: ExecutionState, now: float) -> list[ChunkEffect]:
        """Learn which actions have begun; that makes room for the next one."""
        if not self._episode.runs(state.episode):
            self.counters.count("state_other_episode")
            return []
        while self._outstanding and self._outstanding[0] <= (state.context, state.index):
            self._outstanding.popleft()
            self.begun += 1
            self._tick_s = now
        self._playing = state.mode is Mode.PLAYING
        return self._send(now)

    def poll(self, now: float) -> list[ChunkEffect]:
        """Send what has waited for a tick."""
        return self._send(now)

    def deadline(self) -> float | None:
        """Return the tick that an action waits for, or None."""
        return self._next_tick_s(self._polled_s) if self._waits() else None

    def _waits(self) -> bool:
        """True where an action may begin at a tick only."""
        return bool(self._options.tick_s and self._queue and not self._outstanding and not self._playing)

    def _next_tick_s(self, now: float) -> float:
        ticks = math.ceil((now - self._tick_s) / self._options.tick_s - ROUNDING)
        return self._tick_s + ticks * self._options.tick_s

    def _send(self, now: float) -> list[ChunkEffect]:
        """Send as many actions as there is room for at the executor."""
        effects: list[ChunkEffect] = []
        self._polled_s = now
        if self._waits() and self._next_tick_s(now) > now + ROUNDING * self._options.tick_s:
            return effects
        while self._queue and len(self._outstanding) < self._options.lead_actions:
            planned = self._queue.popleft()
            context, index = self._sent
            self._sent = (planned.context, index + 1 if planned.context == context else 0)
            more = bool(self._queue) and self._queue[0].context == planned.context
            flow_time = min(1.0, planned.index / self._options.horizon)
            effects.append(Action(self._episode.number, *self._sent, flow_time, planned.values, more))
            self._outstanding.append(self._sent)
            self._history.append(planned.values)
        return effects
