"""The hardware of a virtual run: how long each piece of work takes, what waits for what, and the network."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.machines.events import Action, ExecutionState
from streaming_vla.machines.latency import LatencyTracker

Done = Callable[[float, float], None]
"""Called with begin and end of the work, seconds."""

FLOW, PLAN, PREFILL = 0, 1, 2  # priorities: a flow step goes before a plan and the next slice of a prefill


class Clock:
    """Events in the order of their time; those of one time in the order in which they were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let `event` happen `delay_s` seconds from now."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), event))

    def due_s(self) -> float:
        """Return when the next event happens; infinity when there is none."""
        return self._events[0][0] if self._events else math.inf

    def happen(self) -> None:
        """Let the next event happen; its time must have come."""
        heapq.heappop(self._events)[2]()


@dataclass
class _Work:
    """Work in slices: how long each of the rest takes, seconds."""

    slices_s: list[float]
    done: Done
    begin_s: float = math.nan


class Hardware:
    """What a latency profile says, on a clock. The same seed draws the same latencies.

    Work of one kind is done in turn. Without `prefill_slices` prefill and flow steps run beside each other.

    Args:
        profile: latencies.
        clock: of the run.
        seed: of the draws; each kind of latency has its own stream.
    """

    def __init__(self, profile: LatencyProfile, clock: Clock, seed: int) -> None:
        self._profile = profile
        self._clock = clock
        self._random = {
            kind: np.random.default_rng((seed, index))
            for index, kind in enumerate(("observe", "flow_step", "transport"))
        }
        self._lines: dict[int, list[tuple[int, int, _Work]]] = {FLOW: [], PREFILL: []}
        self._lines[PLAN] = self._lines[FLOW]
        if profile.prefill_slices:
            self._lines[PREFILL] = self._lines[FLOW]
        self._busy: set[int] = set()  # id of the lines that work
        self._order = itertools.count()
        self._arrivals_s: dict[str, float] = {}
        self.flow_latency = LatencyTracker()  # of one flow step, waiting left out

    def ask(self, sequence: int, event: Callable[[], None]) -> None:
        """Let a request for an observation reach the observer; both are on the robot, so it does at once."""
        event()

    def observation(self, sequence: int, done: Done) -> None:
        """Carry the observation to the model and prefill it; its encoding is part of T_o."""
        self.send("observation", lambda: self.prefill(done))

    def context(self, sequence: int, to_generator: Callable[[], None], to_monitor: Callable[[], None]) -> None:
        """Carry a context from the model to the robot."""

        def arrive() -> None:
            to_generator()
            to_monitor()

        self.send("context", arrive)

    def flow_step_s(self, sequence: int) -> float | None:
        """Return the smoothed time of a flow step that context `sequence` carries; None before the first step."""
        return self.flow_latency.smoothed_s

    def flow_step(self, context: int, index: int, done: Done) -> None:
        """Carry the request for a flow step to the model and do it."""
        self.send("flow request", lambda: self.flow_steps(1, done))

    def flow_reply(self, context: int, index: int, event: Callable[[], None]) -> None:
        """Carry the answer to a flow step to the robot."""
        self.send("flow reply", event)

    def action(self, action: Action, event: Callable[[], None]) -> None:
        """Let an action reach the executor; generator and executor are on the robot, so it does at once."""
        event()

    def state(self, receiver: str, state: ExecutionState, event: Callable[[], None]) -> None:
        """Let the executor's state reach `receiver`, generator or monitor, on the robot too."""
        event()

    def prefill(self, done: Done) -> None:
        """Observe: picture, encoding and prefill."""
        total_s = self._profile.observe.draw_s(self._random["observe"])
        slices = max(1, self._profile.prefill_slices)
        self._submit(PREFILL, _Work([total_s / slices] * slices, done))

    def flow_steps(self, steps: int, done: Done) -> None:
        """Do flow steps one after the other."""
        slices_s = [self._profile.flow_step.draw_s(self._random["flow_step"]) for _ in range(steps)]
        for each_s in slices_s:
            self.flow_latency.add(each_s)
        self._submit(FLOW, _Work(slices_s, done))

    def plan(self, done: Done) -> None:
        """Plan a context: one pass, as long as that of a flow step."""
        self._submit(PLAN, _Work([self._profile.flow_step.draw_s(self._random["flow_step"])], done))

    def send(self, channel: str, event: Callable[[], None]) -> None:
        """Let `event` happen when a message has travelled between robot and model; a channel keeps its order."""
        arrival_s = self._clock.now + self._profile.transport_s(self._random["transport"])
        arrival_s = max(arrival_s, self._arrivals_s.get(channel, 0.0))
        self._arrivals_s[channel] = arrival_s
        self._clock.after(arrival_s - self._clock.now, event)

    def _submit(self, kind: int, work: _Work) -> None:
        heapq.heappush(self._lines[kind], (kind, next(self._order), work))
        self._next(self._lines[kind])

    def _next(self, line: list[tuple[int, int, _Work]]) -> None:
        if id(line) in self._busy or not line:
            return
        self._busy.add(id(line))
        kind, order, work = heapq.heappop(line)
        if math.isnan(work.begin_s):
            work.begin_s = self._clock.now
        self._clock.after(work.slices_s.pop(), lambda: self._slice_done(line, kind, order, work))

    def _slice_done(self, line: list[tuple[int, int, _Work]], kind: int, order: int, work: _Work) -> None:
        self._busy.discard(id(line))
        if work.slices_s:
            heapq.heappush(line, (kind, order, work))
        else:
            work.done(work.begin_s, self._clock.now)
        self._next(line)
