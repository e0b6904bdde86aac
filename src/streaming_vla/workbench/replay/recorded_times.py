"""When things happened while the suite was recorded, from the spans and stamps in its bag.

A recorder on a busy machine receives late. So a message counts from when it was published, plus the least time that
any of its topic has travelled to the recorder, which also takes the distance between two machines' clocks out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streaming_vla.bags.errors import BagError
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.topics import RawMessage
from streaming_vla.machines.events import Mode
from streaming_vla.policies.layout import Vector

NS = 1e-9
STEADY_NS = 1_500_000_000  # a topic whose delays differ by more was latched, or its clock is not the recorder's
CAUSE_S = 0.1  # who acts so long after a state was said has another reason
TOPICS = ("spans", "observe_request", "observation", "context", "generate", "action", "execution_state")
Interval = tuple[float, float]
"""Begin and end, seconds."""


@dataclass(frozen=True)
class Seen:
    """What an observation shows: stamp of its newest picture (seconds, camera's clock) and robot state, float32."""

    stamp_s: float
    state: Vector


@dataclass
class RecordedEpisode:
    """One episode; seconds of the recorder's clock.

    Args:
        asked: the monitor decided to observe, by sequence.
        observed: the observer heard of it, and the pictures were encoded.
        seen: what was observed.
        prefilled: work of the model.
        heard: the monitor heard of the context.
        flow_step_s: smoothed time of a flow step that the context carried, seconds.
        granted: the generator granted steps of a flow.
        generated: the generator granted a step and had its action, by (context, step).
        flow_steps: work of the model, by (context, step); step -1 is the denoising of a whole chunk.
        sent: the generator sent an action, by (context, index).
        begun: the executor began an action, by (context, index), in the order of time.
        waited_for: of these, actions that a waiting or holding executor began when they came.
    """

    asked: dict[int, float] = field(default_factory=dict)
    observed: dict[int, Interval] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)
    prefilled: dict[int, Interval] = field(default_factory=dict)
    heard: dict[int, float] = field(default_factory=dict)
    flow_step_s: dict[int, float] = field(default_factory=dict)
    granted: list[float] = field(default_factory=list)
    generated: dict[tuple[int, int], Interval] = field(default_factory=dict)
    flow_steps: dict[tuple[int, int], Interval] = field(default_factory=dict)
    sent: dict[tuple[int, int], float] = field(default_factory=dict)
    begun: dict[tuple[int, int], float] = field(default_factory=dict)
    waited_for: set[tuple[int, int]] = field(default_factory=set)
    _states: list[tuple[float, tuple[int, int, Mode]]] = field(default_factory=list)

    def caused(self, receiver: str) -> dict[tuple[int, int, Mode], Interval]:
        """Return the states that made generator or monitor act: when each was said, and when it was acted upon."""
        if receiver == "monitor":
            acted, others = list(self.asked.values()), []
        else:  # it also acts on what it is told of pictures, contexts and actions
            acted = [*self.sent.values(), *self.granted]
            others = [heard_s for heard_s, _ in self.observed.values()]
            others += [end_s for _, end_s in self.generated.values()]
            others += self.heard.values()
        states = sorted(self._states, key=lambda each: each[0])
        times, others = [time_s for time_s, _ in states], sorted(others)
        found: dict[tuple[int, int, Mode], Interval] = {}
        for act_s in sorted(acted):
            place, other = bisect_right(times, act_s) - 1, bisect_right(others, act_s) - 1
            if other >= 0 and place >= 0 and others[other] > times[place]:
                continue
            if place >= 0 and act_s - times[place] <= CAUSE_S:
                found.setdefault(states[place][1], (times[place], act_s))
        return found

    @property
    def whole(self) -> bool:
        """True when the bag was there at the begin of the episode, whose first sequence is 0."""
        known = {*self.asked, *self.observed, *self.seen, *self.prefilled, *self.heard}
        return min(known, default=0) == 0

    def unanswered(self, sequence: int) -> bool:
        """True when the observer was asked and sent no observation: pictures were missing, or the episode ended."""
        return bool(self.seen) and sequence in self.asked and sequence not in self.seen

    def taken(self, sequence: int) -> Interval | None:
        """Return when a context was prefilled and when the robot had it; None: it was not recorded."""
        if sequence not in self.prefilled or sequence not in self.heard:
            return None
        return self.prefilled[sequence][1], self.heard[sequence]

    def take(self, topic: str, message: Any, shift_s: float) -> None:
        """Take a message of the bag; `shift_s` leads from its stamps to the recorder's clock."""
        if topic == "spans":
            self._take_span(message, shift_s)
            return
        stamp_s = _seconds(message.header.stamp)
        if topic == "observe_request":
            self.asked[message.sequence] = stamp_s + shift_s
        elif topic == "observation":
            self.seen[message.sequence] = Seen(stamp_s, np.array(message.state, dtype=np.float32))
        elif topic == "context":
            self.flow_step_s[message.sequence] = float(message.flow_step_s)
        elif topic == "generate":
            self.granted.append(stamp_s + shift_s)
        elif topic == "action":
            self.sent[message.context, message.index] = stamp_s + shift_s
        elif topic == "execution_state":
            self._take_state(message, stamp_s + shift_s)

    def _take_span(self, message: Any, shift_s: float) -> None:
        work = (_seconds(message.begin) + shift_s, _seconds(message.end) + shift_s)
        number, action = message.sequence, (message.sequence, message.index)
        if message.stage == "observe":
            self.observed[number] = work
        elif message.stage == "prefill":
            self.prefilled[number] = work
        elif message.stage == "request":
            self.heard[number] = work[1]
        elif message.stage == "generate":
            self.generated[action] = work
        elif message.stage == "flow_step":
            self.flow_steps[action] = work

    def _take_state(self, message: Any, time_s: float) -> None:
        mode = Mode(message.mode)
        key = (message.context, message.index)
        changed = not self._states or self._states[-1][1] != (*key, mode)
        if mode is Mode.PLAYING and key not in self.begun:
            self.begun[key] = time_s
            if not self._states or self._states[-1][1][2] is not Mode.PLAYING:
                self.waited_for.add(key)
        if changed:
            self._states.append((time_s, (*key, mode)))


@dataclass
class RecordedTimes:
    """Of a whole bag.

    Args:
        episodes: by number.
        least_ns: least time from publication to recording, by topic; without topics that cannot be trusted.
    """

    episodes: dict[int, RecordedEpisode]
    least_ns: Mapping[str, int]

    def retime(self, message: RawMessage) -> RawMessage:
        """Return `message` with the time at which it was received if the recorder had not been busy."""
        least_ns = self.least_ns.get(message.topic)
        return message if least_ns is None else replace(message, time_ns=message.published_ns + least_ns)


def read_times(bag: Bag, names: Mapping[str, str], others: tuple[str, ...]) -> RecordedTimes | None:
    """Read a bag once for its times; None when it has no spans.

    Args:
        names: what the bag calls those of `TOPICS` that it has.
        others: more topics of the bag whose messages are to be given the time of their publication.
    """
    if "spans" not in names:
        return None
    topics = {name: topic for topic, name in names.items()}
    least: dict[str, int] = {}
    most: dict[str, int] = {}
    episodes: dict[int, RecordedEpisode] = defaultdict(RecordedEpisode)
    shift_s = _shift(bag, names.get("execution_state"))
    for raw in bag.messages({*topics, *others}):
        if raw.published_ns:
            delay_ns = raw.time_ns - raw.published_ns
            least[raw.topic] = min(delay_ns, least.get(raw.topic, delay_ns))
            most[raw.topic] = max(delay_ns, most.get(raw.topic, delay_ns))
        if raw.topic in topics:
            try:
                message = bag.decode(raw)
                episodes[message.episode].take(topics[raw.topic], message, shift_s)
            except (BagError, ValueError):  # the replay itself says so
                continue
    steady = {name: delay_ns for name, delay_ns in least.items() if most[name] - delay_ns <= STEADY_NS}
    return RecordedTimes(dict(episodes), steady)


def _shift(bag: Bag, name: str | None) -> float:
    """Return the least time from a stamp of topic `name` to its recording, seconds; 0 without one."""
    if name is None:
        return 0.0
    delays = []
    for raw in bag.messages([name]):
        try:
            delays.append(raw.time_ns * NS - _seconds(bag.decode(raw).header.stamp))
        except BagError:
            continue
    return min(delays, default=0.0)


def _seconds(stamp: Any) -> float:
    return float(stamp.sec) + float(stamp.nanosec) * NS
