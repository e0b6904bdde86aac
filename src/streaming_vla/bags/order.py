"""Puts messages into the order of time where they are a little out of it, and finds jumps of the clock.

A recorder that falls behind takes what waits topic by topic: the topics are then out of order among each other, but
each keeps its own. A topic whose own time goes back tells that the clock was set.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from streaming_vla.bags.errors import BagError, ClockJump
from streaming_vla.bags.topics import RawMessage

REORDER_NS = 1_500_000_000  # between topics
BACK_NS = 100_000_000  # in one topic: less comes of several publishers
GAP_NS = 10_000_000_000  # a longer silence of every topic is a jump or a pause
NS = 1e9


def ordered(messages: Iterable[RawMessage], name: str, report: Callable[[BagError], None]) -> Iterator[RawMessage]:
    """Yield `messages` sorted within `REORDER_NS`; a jump of the clock is reported and begins anew.

    Holds the messages of `REORDER_NS` at most.
    """
    waiting: list[tuple[int, int, RawMessage]] = []
    newest: dict[str, int] = {}  # by topic
    latest_ns: int | None = None
    jumped = False
    for number, message in enumerate(messages):
        step_ns = _jump(message, newest.get(message.topic), latest_ns)
        if step_ns:
            if not jumped:  # one sentence, however often the clock loops
                jumped = True
                way = "back" if step_ns < 0 else "ahead"
                report(
                    ClockJump(
                        f"{name}: the clock jumps {way} by {abs(step_ns) / NS:.1f} s at message {number} (topic "
                        f"{message.topic}); the messages are read in the order in which they were recorded"
                    )
                )
            while waiting:
                yield heapq.heappop(waiting)[2]
            newest.clear()
            latest_ns = None
        newest[message.topic] = message.time_ns
        latest_ns = message.time_ns if latest_ns is None else max(latest_ns, message.time_ns)
        heapq.heappush(waiting, (message.time_ns, number, message))
        while latest_ns - waiting[0][0] > REORDER_NS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _jump(message: RawMessage, own_ns: int | None, latest_ns: int | None) -> int:
    """Return by how much the clock jumps with a message, nanoseconds; 0 when it does not."""
    if own_ns is not None and message.time_ns < own_ns - BACK_NS:
        return message.time_ns - own_ns
    if latest_ns is not None and message.time_ns > latest_ns + GAP_NS:
        return message.time_ns - latest_ns
    return 0
