"""The chunk generator's machine: keeps the queue of a strategy and sends its actions one by one to the executor.

It stands in the place of the generator: the monitor decides when to observe, the executor plays. The queue lives
on the robot. To the monitor a context is ready when its chunk is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.episodes import CurrentEpisode
from streaming_vla.machines.events import Action, ContextReady, Episode, ExecutionState, Mode, ObserveRequest
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.policies.layout import ActionLayout, Vector
from streaming_vla.workbench.virtual.baselines.events import Arrival, ChunkReply, ChunkRequest, Planned
from streaming_vla.workbench.virtual.baselines.strategy import Ahead, Strategy, check_count

ChunkEffect = ChunkRequest | Action | ContextReady

LEAD = GeneratorOptions().lead_actions
DELAYS_REMEMBERED = 10  # newest delays, whose longest is expected (RTC's buffer)


@dataclass(frozen=True)
class ChunkGeneratorOptions:
    """How the queue is fed and emptied.

    Args:
        horizon: H, actions of a chunk.
        lead_actions: actions sent and not yet begun by the executor, at most.

    Raises:
        ValueError: an option out of range.
    """

    horizon: int
    lead_actions: int = LEAD

    def __post_init__(self) -> None:
        check_count("horizon", self.horizon, 1)
        check_count("lead_actions", self.lead_actions, 1)


class ChunkGenerator:
    """Asks for a chunk with every picture; contexts count up in what it sends, indices without gaps."""

    def __init__(self, layout: ActionLayout, strategy: Strategy, options: ChunkGeneratorOptions) -> None:
        self.counters = Counters()
        self._layout = layout
        self._strategy = strategy
        self._options = options
        self._episode = CurrentEpisode()
        self._delays: deque[int] = deque(maxlen=DELAYS_REMEMBERED)  # actions between picture and chunk
        self._forget()

    def _forget(self) -> None:
        self._strategy.begin()
        self._queue: deque[Planned] = deque()
        self._history: list[Vector] = []  # every action sent in this episode
        self._first_step: dict[int, int] = {}  # step of row 0 of the chunk, by observation
        self._newest = -1  # observation whose chunk was merged last
        self._sent = (-1, -1)  # context and index of the newest action
        self._outstanding: deque[tuple[int, int]] = deque()
        self._begun = 0  # actions that the executor has begun
        self._playing = False

    def on_episode(self, episode: Episode, now: float) -> list[ChunkEffect]:
        """Begin or end an episode; both forget everything of the one before."""
        if self._episode.renew(episode, self.counters):
            self._forget()
        return []

    def on_request(self, request: ObserveRequest, now: float) -> list[ChunkEffect]:
        """A picture is taken now: ask for its chunk."""
        if not self._episode.runs(request.episode):
            self.counters.count("request_other_episode")
            return []
        # row 0 belongs to the action that begins with the picture, or to the next one when nothing is played
        first = self._begun - int(self._playing)
        self._first_step[request.sequence] = first
        sent = self._history[first:]
        queued = list(self._queue)
        kept = len(sent) + sum(self._strategy.within(planned) for planned in queued)
        actions = np.array([*sent, *(planned.values for planned in queued)]).reshape(-1, self._layout.size)
        ahead = Ahead(actions, kept, max(self._delays, default=0), self._options.horizon)
        guide, shift = self._strategy.guide(ahead), self._strategy.shift(ahead)
        return [ChunkRequest(request.episode, request.sequence, self._strategy.steps, guide, shift)]

    def on_context(self, context: ContextReady, now: float) -> list[ChunkEffect]:
        """Nothing: the chunk comes with it."""
        return []

    def on_chunk_reply(self, reply: ChunkReply, now: float) -> list[ChunkEffect]:
        """Merge a chunk into the queue; one that is older than what is queued is dropped."""
        if not self._episode.runs(reply.episode):
            self.counters.count("chunk_other_episode")
            return []
        first = self._first_step.pop(reply.context, None)
        if not reply.accepted or first is None or reply.context <= self._newest:
            self.counters.count("chunk_refused" if not reply.accepted else "chunk_unexpected")
            return []
        shape = (self._options.horizon, self._layout.size)
        if np.shape(reply.values) != shape or not np.isfinite(reply.values).all():
            self.counters.count("chunk_no_actions")
            return []
        passed = len(self._history) - first
        self._delays.append(passed)
        chunk = np.array([self._layout.clip(row) for row in reply.values])
        plan = self._strategy.merge(Arrival(reply.context, chunk, passed, tuple(self._queue), len(self._history)))
        new = sum(planned.context == reply.context for planned in plan.actions)
        if not new:
            self.counters.count("chunk_too_late")
            return []
        self._newest = reply.context
        self._queue = deque(plan.actions)
        return [ContextReady(reply.episode, reply.context, plan.horizon, new), *self._send()]

    def on_execution_state(self, state: ExecutionState, now: float) -> list[ChunkEffect]:
        """Learn which actions have begun; that makes room for the next one."""
        if not self._episode.runs(state.episode):
            self.counters.count("state_other_episode")
            return []
        while self._outstanding and self._outstanding[0] <= (state.context, state.index):
            self._outstanding.popleft()
            self._begun += 1
        self._playing = state.mode is Mode.PLAYING
        return self._send()

    def poll(self, now: float) -> list[ChunkEffect]:
        """Nothing is due by time alone."""
        return []

    def deadline(self) -> float | None:
        """Return None: nothing is due by time alone."""
        return None

    def _send(self) -> list[ChunkEffect]:
        """Send as many actions as there is room for at the executor."""
        effects: list[ChunkEffect] = []
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
