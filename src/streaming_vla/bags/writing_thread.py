"""A thread that writes a bag: messages are handed over and never wait for the disk."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter

TICK_S = 0.1


@dataclass(frozen=True)
class _Item:
    topic: Topic
    data: bytes
    log_ns: int
    publish_ns: int


class WritingThread:
    """Writes in the order of `take`.

    Args:
        writer: used by this thread only, until `close`.
        limit_bytes: messages that would make more than this wait are dropped.
        prepare: gives topic and data as they are stored, in this thread.

    Attributes:
        taken: messages handed over.
        dropped: messages that are not in the bag, by reason: queue_full or disk.
        failure: why nothing can be written any more; empty while it can.
    """

    def __init__(
        self, writer: BagWriter, limit_bytes: int, prepare: Callable[[Topic, bytes], tuple[Topic, bytes]] | None = None
    ) -> None:
        self.writer = writer
        self._prepare = prepare
        self.taken = 0
        self.dropped: Counter[str] = Counter()
        self.failure = ""
        self._given = 0  # messages that the writer was given
        self._limit_bytes = limit_bytes
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Item | Topic | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="bag writer")
        self._thread.start()

    def add_topic(self, topic: Topic) -> None:
        """Declare a topic, which the bag then names also without a message."""
        self._queue.put(topic)

    def take(self, topic: Topic, data: bytes, log_ns: int, publish_ns: int) -> None:
        """Hand a message over; it is dropped and counted when too much waits or the disk has failed."""
        if self.failure:
            self._drop("disk")
            return
        with self._lock:
            full = self._waiting_bytes + len(data) > self._limit_bytes
            if not full:
                self._waiting_bytes += len(data)
        if full:
            self._drop("queue_full")
            return
        self.taken += 1
        self._queue.put(_Item(topic, data, log_ns, publish_ns))

    def close(self) -> None:
        """Write what waits and end the bag."""
        self._queue.put(None)
        self._thread.join()

    @property
    def written(self) -> int:
        """Messages that the operating system has."""
        return self.writer.messages - self.writer.waiting

    def _run(self) -> None:
        ticked_s = time.monotonic()
        while True:
            try:
                item = self._queue.get(timeout=TICK_S)
            except queue.Empty:
                pass
            else:
                if item is None:
                    break
                self._handle(item)
            now_s = time.monotonic()
            if now_s - ticked_s >= TICK_S:
                ticked_s = now_s
                self._guard(self.writer.tick)
        self._guard(self.writer.close)

    def _handle(self, item: _Item | Topic) -> None:
        if isinstance(item, Topic):
            self.writer.add_topic(item)
            return
        with self._lock:
            self._waiting_bytes -= len(item.data)
        if self.failure:
            self._drop("disk")
            return
        self._given += 1
        self._guard(partial(self._write, item))

    def _write(self, item: _Item, now_s: float) -> None:
        topic, data = item.topic, item.data
        if self._prepare is not None:
            topic, data = self._prepare(topic, data)
        self.writer.write(topic, data, item.log_ns, item.publish_ns, now_s)

    def _guard(self, work: Callable[[float], None]) -> None:
        try:
            if not self.failure:
                work(time.monotonic())
        except Exception as error:  # whatever it is, the messages that come after it are told
            reason = (error.strerror if isinstance(error, OSError) else "") or f"{type(error).__name__}: {error}"
            self._drop("disk", self._given - self.written)  # what the writer holds in memory
            self.failure = f"bag '{self.writer.folder}' cannot be written: {reason}; nothing more is kept"
            self.writer.give_up()

    def _drop(self, reason: str, count: int = 1) -> None:
        with self._lock:  # both threads do
            self.dropped[reason] += count
