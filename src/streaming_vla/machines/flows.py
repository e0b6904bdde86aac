"""The flow that is played, the candidates that may take over from it, and how old their contexts are."""

from __future__ import annotations

from streaming_vla.machines.flow import Flow

CANDIDATES = 3  # newest observations whose contexts are to come
REQUESTS_KEPT = 64  # newest, whose times are remembered; no queue between picture and context is as long


class Flows:
    """The flows of one episode; `playing` is the one whose actions are sent."""

    def __init__(self) -> None:
        self.playing: Flow | None = None
        self._candidates: dict[int, Flow] = {}  # by observation, of contexts that are known and of some still to come
        self._requested_s: dict[int, float] = {}  # when the picture of an observation was asked for

    def on_request(self, sequence: int, now: float) -> None:
        """The picture of an observation is taken now."""
        self._requested_s[sequence] = now
        while len(self._requested_s) > REQUESTS_KEPT:
            del self._requested_s[next(iter(self._requested_s))]

    def age_s(self, sequence: int, now: float) -> float:
        """Return how long ago its request was heard, seconds; one whose request was not heard counts as new."""
        return now - self._requested_s.get(sequence, now)

    def candidates(self) -> list[Flow]:
        """Return those that may take over, in the order in which they were added."""
        return list(self._candidates.values())

    def candidate(self, sequence: int) -> Flow | None:
        """Return the candidate of an observation."""
        return self._candidates.get(sequence)

    def ready(self) -> Flow | None:
        """Return the newest candidate that can take over."""
        ready = (flow for flow in self.candidates() if flow.ready)
        return max(ready, key=lambda flow: flow.sequence, default=None)

    def find(self, sequence: int, revision: int) -> Flow | None:
        """Return the flow whose present beginning has this revision."""
        found = (flow for flow in self._all() if (flow.sequence, flow.revision) == (sequence, revision))
        return next(found, None)

    def overdue(self, now: float, timeout_s: float) -> Flow | None:
        """Return a flow of which the model has owed an action for too long."""
        return next((flow for flow in self._all() if flow.is_owed and now >= flow.waits_since_s + timeout_s), None)

    def deadline(self, timeout_s: float) -> float | None:
        """Return when a flow becomes overdue, seconds; None: no action is owed."""
        return min((flow.waits_since_s + timeout_s for flow in self._all() if flow.is_owed), default=None)

    def add(self, flow: Flow) -> None:
        """Add a candidate, in the place of the oldest context to come where there are too many."""
        self._candidates[flow.sequence] = flow
        to_come = sorted(number for number, each in self._candidates.items() if each.context is None)
        for number in to_come[:-CANDIDATES]:
            del self._candidates[number]

    def adopt(self, flow: Flow) -> None:
        """Play a candidate; older ones do not count any more."""
        self.playing = flow
        self.drop_before(flow.sequence)
        del self._candidates[flow.sequence]

    def drop(self, flow: Flow) -> None:
        """Let a flow go."""
        if flow is self.playing:
            self.playing = None
        if self._candidates.get(flow.sequence) is flow:
            del self._candidates[flow.sequence]

    def drop_before(self, sequence: int) -> list[Flow]:
        """Let the candidates of older observations go; return them."""
        old = [flow for flow in self.candidates() if flow.sequence < sequence]
        for flow in old:
            self.drop(flow)
        return old

    def _all(self) -> list[Flow]:
        return [*([] if self.playing is None else [self.playing]), *self.candidates()]
