"""What has been heard of one robot so far, and the figures that it makes. No ROS; times are monotonic seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from streaming_vla.bringup import graph
from streaming_vla.machines.events import ExecutionState, Mode, ObserveRequest, Reason
from streaming_vla.machines.halting import Halting, measure

HAND_OVERS_KEPT = 2000
SAID_KEPT = 30
RATE_WINDOW_S = 6.0
PICTURES = "pictures."  # of the observer's figures, with the name of a camera behind it


@dataclass(frozen=True)
class Context:
    """The newest context; the fields are those of Context.msg."""

    prefill_s: float
    queued_s: float
    flow_step_s: float
    tokens: int


@dataclass(frozen=True)
class Cache:
    """The history of the robot; the fields are those of KvCacheStats.msg."""

    policy: str
    tokens: int
    bytes: int
    full_bytes: int
    chunks_kept: int
    chunks_dropped: int
    chunks_evicted: int


@dataclass(frozen=True)
class NodeSeen:
    """The newest diagnostics of a node.

    Args:
        heard_s: when they came.
        level: 0 well, 1 a warning, 2 an error.
        message: what is wrong, or its state.
        figures: by name, as text.
    """

    heard_s: float
    level: int
    message: str
    figures: Mapping[str, str]

    def number(self, name: str) -> float:
        """Return a figure; NaN when it is not there or not a number."""
        try:
            return float(self.figures[name])
        except (KeyError, ValueError):
            return math.nan


@dataclass(frozen=True)
class SaidLine:
    """A warning or an error of a node's log, and when it came; -inf: before anybody listened."""

    heard_s: float
    node: str
    error: bool
    text: str


@dataclass
class Seen:
    """Everything that the page shows; each `on_` method takes one message.

    Attributes:
        parameters: of the nodes, by node and name, as far as they have answered.
        age_s: of the observation behind the newest action when that began, since it was asked for; NaN: not known.
        saliency: the newest that was asked for or measured; NaN before.
    """

    state: ExecutionState | None = None
    state_s: float = -math.inf
    request: ObserveRequest | None = None
    saliency: float = math.nan
    context: Context | None = None
    cache: Cache | None = None
    age_s: float = math.nan
    nodes: dict[str, NodeSeen] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: deque[SaidLine] = field(default_factory=lambda: deque(maxlen=SAID_KEPT))
    _hand_overs: deque[tuple[float, ExecutionState]] = field(default_factory=lambda: deque(maxlen=HAND_OVERS_KEPT))
    _first: ExecutionState | None = None  # of the episode that was heard
    _acted: tuple[float, ExecutionState] | None = None  # when the newest action began
    _asked_s: dict[int, float] = field(default_factory=dict)
    _counts: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)  # pictures of each camera

    def on_state(self, state: ExecutionState, now: float) -> None:
        """Take what the executor does."""
        before = self.state
        if before is None or state.episode != before.episode:
            self._hand_overs.clear()
            self._acted, self._first, self.age_s = None, state, math.nan
            if self.request is None or self.request.episode != state.episode:
                self._asked_s.clear()
            before = None
        if before is None or state.hand_overs != before.hand_overs or state.mode is Mode.ERROR is not before.mode:
            self._hand_overs.append((now, state))
        if before is None or state.executed != before.executed:
            self._acted = (now, state)
        self.state, self.state_s = state, now
        self._asked_s = {number: at for number, at in self._asked_s.items() if number >= state.context}
        self.age_s = now - self._asked_s.get(state.context, math.nan)

    def on_request(self, request: ObserveRequest, now: float) -> None:
        """Take that an observation is asked for."""
        if self.request is not None and request.episode != self.request.episode:
            self._asked_s.clear()
        self.request = request
        self._asked_s[request.sequence] = now
        if not math.isnan(request.saliency):
            self.saliency = request.saliency

    def on_node(self, name: str, seen: NodeSeen) -> None:
        """Take the diagnostics of a node."""
        self.nodes[name] = seen
        for figure in seen.figures:
            if figure.startswith(PICTURES):
                counts = self._counts.setdefault(figure.removeprefix(PICTURES), deque())
                if counts and seen.number(figure) < counts[-1][1]:
                    counts.clear()  # the node was started again
                counts.append((seen.heard_s, seen.number(figure)))
                while counts[0][0] < seen.heard_s - RATE_WINDOW_S:
                    counts.popleft()

    def halting(self) -> Halting | None:
        """Return the halting of the episode since its first state that was heard; None before that."""
        first = self._first
        if self.state is None or first is None:
            return None
        states = [*self._hand_overs, *([self._acted] if self._acted else []), (self.state_s, self.state)]
        since = [
            (
                at_s,
                replace(
                    state,
                    executed=state.executed - first.executed,
                    hand_overs=state.hand_overs - first.hand_overs,
                    starved_s=state.starved_s - first.starved_s,
                ),
            )
            for at_s, state in sorted(states, key=lambda at: at[0])
        ]
        return measure(since, float(self.parameters.get("executor", {}).get("control_period_s", math.nan)))

    def camera_rates(self) -> dict[str, float]:
        """Return pictures per second that the observer gets of each camera; NaN until it has told twice."""
        rates = {}
        for camera, counts in self._counts.items():
            (first_s, first), (last_s, last) = counts[0], counts[-1]
            rates[camera] = (last - first) / (last_s - first_s) if last_s > first_s else math.nan
        return rates

    def whole(self) -> bool:
        """Return whether every node of a robot was heard, and what they say while an episode runs."""
        nodes = {node.name for node in graph.nodes(simulated=False)}
        rates = self.camera_rates()
        known = nodes <= self.nodes.keys() and {"executor", "saliency_monitor"} <= self.parameters.keys()
        if not known or self.state is None or not rates or any(map(math.isnan, rates.values())):
            return False
        return self.state.mode is Mode.IDLE or (self.context is not None and self.cache is not None)

    def threshold(self) -> float | None:
        """Return the saliency's threshold; None where the monitor's mode reads none, or is not known."""
        monitor = self.parameters.get("saliency_monitor", {})
        return monitor.get("saliency_threshold") if monitor.get("mode") in ("action_norm", "adaptive") else None

    def figure(self, node: str, name: str) -> float:
        """Return a figure of a node's diagnostics; NaN when there is none."""
        return self.nodes[node].number(name) if node in self.nodes else math.nan

    def reason(self) -> str:
        """Return why the newest observation was asked for."""
        return "" if self.request is None else Reason(self.request.reason).name.lower().replace("_", " ")
