"""Puts messages into the order of time where they are a little out of it, and finds jumps of the clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from streaming_vla.bags.errors import BagError, ClockJump
from streaming_vla.bags.topics import RawMessage

REORDER_NS = 300_000_000  # several writers and caches bring messages out of order by less than this
GAP_NS = 10_000_000_000  # a longer silence of every topic is a jump or a pause
NS = 1e9


def ordered(messages: Iterable[RawMessage], name: str, report: Callable[[BagError], None]) -> Iterator[RawMessage]:
    """Yield `messages` sorted within `REORDER_NS`; a larger step back is reported and begins anew.

    Holds the messages of `REORDER_NS` at most.
    """
    waiting: list[tuple[int, int, RawMessage]] = []
    newest_ns: int | None = None
    jumps = 0
    for number, message in enumerate(messages):
        if newest_ns is not None:
            step_ns = message.time_ns - newest_ns
            if step_ns < -REORDER_NS or step_ns > GAP_NS:
                jumps += 1
                if jumps == 1:  # one sentence, however often the clock loops
                    way = "back" if step_ns < 0 else "ahead"
                    report(
                        ClockJump(
                            f"{name}: the clock jumps {way} by {abs(step_ns) / NS:.1f} s at message {number} (topic "
                            f"{message.topic}); the messages are read in the order in which they were recorded"
                        )
                    )
                while waiting:
                    yield heapq.heappop(waiting)[2]
                newest_ns = None
        newest_ns = message.time_ns if newest_ns is None else max(newest_ns, message.time_ns)
        heapq.heappush(waiting, (message.time_ns, number, message))
        while newest_ns - waiting[0][0] > REORDER_NS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]
