"""Puts the messages of a bag into the order of time; a clock that goes back divides the bag.

Files are read in blocks (a chunk, or as much of a table), each opened when nothing that is open is older than its
first message. So a bag that holds one topic after the other, or one topic per file, needs memory for one block of
each topic. A topic whose own time goes back tells that the clock was set, as by a simulation that was reset: what
comes after it in the file is read after it. A silence tells nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streaming_vla.bags.errors import BagError, ClockJump
from streaming_vla.bags.topics import RawMessage, Topic

REORDER_NS = 1_500_000_000  # by how much messages that are given another time may change places
BACK_NS = 100_000_000  # in one topic: less comes of several publishers
MOST_JUMPS = 100  # of one block, which is read as often; what comes after them is read by time
LATEST_NS = (1 << 63) - 1
NS = 1e9
Times = npt.NDArray[np.int64]
_time = attrgetter("time_ns")


@dataclass(frozen=True)
class Block:
    """Messages that lie together in a file and are read at once.

    Args:
        first: place of its first message in the file, whatever the file calls a place.
        end: place after its last message.
        source: what the file finds it by.
        begin_ns: time of its oldest message.
        end_ns: time of its newest message.
        times: time (ns) and place of the messages in the order of the file, [N] each, by topic; without latched topics,
            whose messages are sent again.
    """

    first: int
    end: int
    source: object
    begin_ns: int
    end_ns: int
    times: Mapping[str, tuple[Times, Times]]


def make_block(first: int, end: int, source: object, found: Iterable[tuple[Topic, Any]]) -> Block | None:
    """Return a block, None of no messages.

    Args:
        found: topic, and time (ns) and place of its messages [N, 2], any integers; a name may come more than once.
    """
    tables: dict[str, list[npt.NDArray[np.int64]]] = {}
    spans = []
    for topic, pairs in found:
        table = np.asarray(pairs)
        if not len(table):
            continue
        if table.dtype.kind == "u":
            table = np.minimum(table, LATEST_NS)
        table = table.astype(np.int64)
        spans.append((int(table[:, 0].min()), int(table[:, 0].max())))
        if not topic.latched:
            tables.setdefault(topic.name, []).append(table)
    if not spans:
        return None
    times = {}
    for name, parts in tables.items():
        table = parts[0] if len(parts) == 1 else np.concatenate(parts)
        table = table[np.argsort(table[:, 1], kind="stable")]
        times[name] = table[:, 0], table[:, 1]
    return Block(first, end, source, min(begin for begin, _ in spans), max(last for _, last in spans), times)


class BlockReader(Protocol):
    """A storage file."""

    def read(self, source: object, first: int, end: int, topics: Collection[str] | None) -> list[RawMessage]:
        """Return the readable messages at the places from `first` to before `end` of a block, those of `topics`."""


@dataclass(frozen=True)
class Piece:
    """A block, or as much of it as lies between two jumps of the clock."""

    segment: int
    begin_ns: int
    number: int
    file: BlockReader
    source: object
    first: int
    end: int


class Clock:
    """Divides blocks, given in the order in which they were recorded, where the clock went back."""

    def __init__(self, name: str, report: Callable[[BagError], None]) -> None:
        self._name, self._report = name, report
        self._newest: dict[str, int] = {}  # by topic
        self._segment = self._count = 0
        self._jumped = False

    def pieces(self, file: BlockReader, block: Block) -> Iterator[Piece]:
        """Yield the pieces of the next block."""
        first, rest = block.first, dict(block.times)
        for _ in range(MOST_JUMPS):
            if (jump := self._jump(rest)) is None:
                break
            place, name, step_ns = jump
            if place > first:
                yield self._piece(file, block, first, place)
            self._tell(name, step_ns)
            self._newest.clear()
            self._segment += 1
            first = place
            rest = {name: (times[places >= place], places[places >= place]) for name, (times, places) in rest.items()}
        for name, (times, _) in rest.items():
            if len(times):
                self._newest[name] = max(int(times.max()), self._newest.get(name, int(times[0])))
        yield self._piece(file, block, first, block.end)

    def _piece(self, file: BlockReader, block: Block, first: int, end: int) -> Piece:
        self._count += 1
        return Piece(self._segment, block.begin_ns, self._count, file, block.source, first, end)

    def _jump(self, topics: Mapping[str, tuple[Times, Times]]) -> tuple[int, str, int] | None:
        """Return place, topic and step (ns) of the first message that is older than one of its topic before it."""
        found = None
        for name, (times, places) in topics.items():
            if not len(times):
                continue
            newest = np.maximum.accumulate(np.concatenate(([self._newest.get(name, int(times[0]))], times[:-1])))
            back = np.flatnonzero(newest - times > BACK_NS)
            if len(back) and (found is None or places[back[0]] < found[0]):
                found = int(places[back[0]]), name, int(times[back[0]]) - int(newest[back[0]])
        return found

    def _tell(self, name: str, step_ns: int) -> None:
        if not self._jumped:  # one sentence, however often the clock loops
            self._jumped = True
            self._report(
                ClockJump(
                    f"{self._name}: the clock jumps back by {-step_ns / NS:.1f} s (topic {name}): what was recorded "
                    "after the jump is read after it"
                )
            )


def merged(
    pieces: Iterable[Piece], topics: Collection[str] | None, retime: Callable[[RawMessage], RawMessage] | None
) -> Iterator[RawMessage]:
    """Yield the messages of all pieces in the order of time, those of one time in the order of the file.

    Args:
        pieces: by segment.
        topics: that are wanted, None for all.
        retime: gives a message another time, by at most `REORDER_NS`, before it is put in order.
    """
    for _, segment in groupby(pieces, key=lambda piece: piece.segment):
        found = _merged(sorted(segment, key=lambda piece: (piece.begin_ns, piece.number)), topics)
        yield from _window(map(retime, found)) if retime is not None else found


def _merged(pieces: Iterable[Piece], topics: Collection[str] | None) -> Iterator[RawMessage]:
    open_: list[tuple[int, int, int, list[RawMessage]]] = []  # next time, number and place in a piece, its messages
    for piece in pieces:
        yield from _until(open_, piece.begin_ns)
        messages = piece.file.read(piece.source, piece.first, piece.end, topics)
        messages.sort(key=_time)
        if messages:
            heapq.heappush(open_, (messages[0].time_ns, piece.number, 0, messages))
    yield from _until(open_, None)


def _until(open_: list[tuple[int, int, int, list[RawMessage]]], end_ns: int | None) -> Iterator[RawMessage]:
    """Yield what is older than `end_ns`."""
    while open_ and (end_ns is None or open_[0][0] < end_ns):
        _, number, place, messages = open_[0]
        message = messages[place]
        if place + 1 < len(messages):
            heapq.heapreplace(open_, (messages[place + 1].time_ns, number, place + 1, messages))
        else:
            heapq.heappop(open_)
        yield message


def _window(messages: Iterable[RawMessage]) -> Iterator[RawMessage]:
    """Yield the messages sorted within `REORDER_NS`, which they hold in memory."""
    waiting: list[tuple[int, int, RawMessage]] = []
    latest_ns = None
    for number, message in enumerate(messages):
        latest_ns = message.time_ns if latest_ns is None else max(latest_ns, message.time_ns)
        heapq.heappush(waiting, (message.time_ns, number, message))
        while latest_ns - waiting[0][0] > REORDER_NS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]
