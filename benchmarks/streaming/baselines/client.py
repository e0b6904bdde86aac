"""LeRobot's asynchronous client, what it is apart from its queue: a loop that acts and observes at its ticks only."""

from __future__ import annotations

import math

import numpy as np

from baselines.generator import ROUNDING, ChunkGenerator
from streaming_vla.machines.events import ContextReady, Mode, Reason
from streaming_vla.machines.monitor import Monitor, MonitorEffect
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.saliency.decision import EarlyDecision, Moment, Verdict


class ClientMonitor(Monitor):
    """Observes at every tick at which at most a share of a chunk is queued, whatever is on its way already.

    The server computes one chunk at a time, of the newest observation that has come meanwhile. As there, an observation
    of a time step that was observed already is left out unless it must go: the queue is empty, and a chunk has come
    since the last one that had to.

    Args:
        options: of the monitor; its control period is the tick.
        source: the client's queue.
        most_queued: it observes when at most so many actions are queued.
        decision: leaves out what is similar; None: nothing.
    """

    def __init__(
        self, options: MonitorOptions, source: ChunkGenerator, most_queued: int, decision: EarlyDecision | None
    ) -> None:
        super().__init__(options)
        self._source, self._most_queued, self._similar = source, most_queued, decision

    def _begin(self, now: float, first_sequence: int) -> None:
        super()._begin(now, first_sequence)
        self._tick_s, self._executed, self._observed, self._must_go = now, 0, -1, False

    def on_context(self, context: ContextReady, now: float) -> list[MonitorEffect]:
        """A chunk has come."""
        self._must_go = True
        return super().on_context(context, now)

    def deadline(self) -> float | None:
        """Return the next tick at which no action begins, or None."""
        due_s = super().deadline()
        return due_s if due_s is None or self._plays() else self._tick_s + self._options.control_period_s

    def _decide(self, now: float) -> list[MonitorEffect]:
        episode = self._episode
        if episode is None or not episode.active or self._over() or not self._ticks(now):
            return []
        if self._source.waiting > self._most_queued:
            return []
        must_go = self._must_go and not self._source.waiting
        if now >= self._asked_s + self._options.request_timeout_s:
            self.counters.count("request_timeout")
            must_go = True
        if not must_go and (self._source.begun <= self._observed or self._is_similar()):
            return []
        self._observed, self._must_go = self._source.begun, self._must_go and not must_go
        return [self._ask(episode, Reason.QUEUE_EMPTY if must_go else Reason.EARLY, now)]

    def _is_similar(self) -> bool:
        moment = Moment(-1, None, np.zeros(0, dtype=bool))
        return self._similar is not None and self._similar.decide(moment).verdict is Verdict.SUPPRESS

    def _plays(self) -> bool:
        return self._state is not None and self._state.mode is Mode.PLAYING

    def _ticks(self, now: float) -> bool:
        """True once per tick: where an action begins, or a period after the tick before."""
        if self._state is not None and self._plays():
            if self._state.executed == self._executed:
                return False
            self._tick_s, self._executed = now, self._state.executed
            return True
        periods = math.floor((now - self._tick_s) / self._options.control_period_s + ROUNDING)
        self._tick_s += periods * self._options.control_period_s
        return periods > 0
