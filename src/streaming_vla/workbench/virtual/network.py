"""The network of a virtual run: how long messages travel between robot and model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.machines.events import Action, ExecutionState, ObserveRequest
from streaming_vla.workbench.virtual.clock import Clock

ON_THE_ROBOT = (ObserveRequest, Action, ExecutionState)  # from one node of the robot to another: there at once


class Network:
    """What a latency profile says, on a clock. The same seed draws the same latencies.

    Every kind of message has a channel, which keeps its order; what is sent on it at one instant travels together.

    Args:
        profile: latencies.
        clock: of the run.
        seed: of the draws.
    """

    def __init__(self, profile: LatencyProfile, clock: Clock, seed: int) -> None:
        self._profile, self._clock = profile, clock
        self._random = np.random.default_rng((seed, 2))  # 0 and 1 are those of the engine's pace
        self._newest: dict[type, tuple[float, float]] = {}  # of each channel: sent, arrives

    def send(self, message: object, receiver: str, event: Callable[[], None]) -> None:
        """Let `event` happen when `message` has reached the node `receiver`."""
        if isinstance(message, ON_THE_ROBOT):
            self._clock.after(0.0, event)  # behind what its sender has said before
            return
        now = self._clock.now
        sent_s, arrival_s = self._newest.get(type(message), (-math.inf, -math.inf))
        if sent_s != now:
            arrival_s = max(arrival_s, now + self._profile.transport_s(self._random, now))
            self._newest[type(message)] = (now, arrival_s)
        self._clock.after(arrival_s - now, event)
