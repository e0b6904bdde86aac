"""Writes a rosbag2 folder of MCAP files that is readable at every moment, also after `kill -9`.

Messages are collected in chunks; a chunk is handed to the operating system when it is full or `flush_s` old, so a
killed process loses at most what came after the last chunk. What the operating system holds is forced to the disk
(fsync) every `sync_s` and when a file ends: a power cut loses at most that much.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mcap import records as mcap
from mcap.data_stream import RecordBuilder
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from streaming_vla.bags import metadata
from streaming_vla.bags.metadata import FileSpan
from streaming_vla.bags.topics import Topic

LIBRARY = "streaming_vla"
COMPRESSIONS = {"none": CompressionType.NONE, "zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4}
LATEST_NS = (1 << 64) - 1


@dataclass(frozen=True)
class WriterOptions:
    """How a bag is written.

    Args:
        compression: of the chunks; pictures that are JPEG already gain nothing from it.
        chunk_bytes: a chunk of this size is written at once.
        flush_s: age at which a chunk is written, whatever its size.
        sync_s: time between two fsync.
        split_bytes: size at which a new file begins, 0 for never.
        split_s: length at which a new file begins, 0 for never.

    Raises:
        ValueError: a value out of range.
    """

    compression: str = "none"
    chunk_bytes: int = 1 << 20
    flush_s: float = 0.5
    sync_s: float = 5.0
    split_bytes: int = 0
    split_s: float = 0.0

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise ValueError(f"compression is '{self.compression}', expected one of {', '.join(COMPRESSIONS)}")
        for name in ("chunk_bytes", "flush_s", "sync_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("split_bytes", "split_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 (never) or more")


class BagWriter:
    """A bag being written; `tick` must be called at least every `flush_s`, all calls from one thread.

    Args:
        folder: of the bag, must not exist.

    Raises:
        FileExistsError: it does.
    """

    def __init__(self, folder: Path, options: WriterOptions | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.options = options or WriterOptions()
        self._counts: dict[Topic, int] = {}  # of files that are ended
        self._spans: list[FileSpan] = []
        self._file: _File | None = None

    @property
    def messages(self) -> int:
        """Messages taken so far."""
        return sum(self._counts.values()) + (self._file.messages if self._file is not None else 0)

    @property
    def waiting(self) -> int:
        """Messages of these that the operating system does not have yet; those of a chunk that it took in part too."""
        return self._file.waiting if self._file is not None else 0

    def add_topic(self, topic: Topic) -> None:
        """Declare a topic, which the bag then names also without a message."""
        self._counts.setdefault(topic, 0)

    def write(self, topic: Topic, data: bytes | memoryview, log_ns: int, publish_ns: int, now_s: float) -> None:
        """Take a message; a topic whose type differs from that of another one of its name is kept apart from it.

        Args:
            data: CDR.
            log_ns: when it was received, nanoseconds.
            publish_ns: when it was published.
            now_s: monotonic seconds.

        Raises:
            ValueError: a time that no bag can hold.
            OSError: the disk does not take it.
        """
        if not (0 <= log_ns <= LATEST_NS and 0 <= publish_ns <= LATEST_NS):
            raise ValueError(
                f"the times of a message of {topic.name} are {log_ns} and {publish_ns} ns, expected 0 to 2^64"
            )
        self._current(now_s).add(topic, data, log_ns, publish_ns, now_s)

    def tick(self, now_s: float) -> None:
        """Write what is old enough, and begin a new file when it is time."""
        file = self._file
        if file is None:
            return
        options = self.options
        if file.waiting and now_s - file.waiting_since_s >= options.flush_s:
            file.flush()
        if now_s - file.synced_s >= options.sync_s:
            file.sync(now_s)
        long = options.split_s and now_s - file.begun_s >= options.split_s
        if long or (options.split_bytes and file.bytes >= options.split_bytes):
            self._end_file(now_s)

    def close(self, now_s: float) -> None:
        """End the last file and write the metadata."""
        self._current(now_s)  # a bag without a message is a bag all the same
        self._end_file(now_s)

    def give_up(self) -> None:
        """End a bag that the disk does not take: what is whole stays and is readable, half a chunk is cut off."""
        if self._file is not None:
            self._file.give_up()
        with suppress(OSError):  # then that of the beginning stays
            self._write_metadata()

    def _current(self, now_s: float) -> _File:
        if self._file is None:
            path = self.folder / f"{self.folder.name}_{len(self._spans)}.mcap"
            self._file = _File(path, self.options, now_s)
            self._write_metadata()  # also of a bag that is never closed
        return self._file

    def _end_file(self, now_s: float) -> None:
        if self._file is not None:
            self._file.close(now_s)
            self._spans.append(self._file.span)
            self._counts = self._all_counts()
            self._file = None
            self._write_metadata()

    def _all_counts(self) -> dict[Topic, int]:
        counts = dict(self._counts)
        for topic, count in self._file.counts() if self._file is not None else ():
            counts[topic] = counts.get(topic, 0) + count
        return counts

    def _write_metadata(self) -> None:
        topics: dict[tuple[str, str], Topic] = {}
        for topic, count in self._all_counts().items():
            known = topics.setdefault((topic.name, topic.type), replace(topic, count=0))
            topics[topic.name, topic.type] = replace(known, count=known.count + count)
        spans = [*self._spans, *([self._file.span] if self._file is not None else [])]
        metadata.write(self.folder, list(topics.values()), spans)


class _Stream:
    """A file that takes all of what it is given, or raises."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("xb", buffering=0)
        self.position = 0

    def write(self, data: bytes | memoryview) -> int:
        left = memoryview(data)
        while left:
            left = left[self.file.write(left) :]
        self.position += len(data)
        return len(data)

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        """Do nothing: nothing is kept back."""


class _File:
    """One MCAP file.

    Attributes:
        waiting: messages that the operating system does not have.
        waiting_since_s: since when there are some.
        bytes: of the file.
    """

    def __init__(self, path: Path, options: WriterOptions, now_s: float) -> None:
        self.begun_s = self.synced_s = self.waiting_since_s = now_s
        self.bytes = self.waiting = 0
        self._name = path.name
        self._stream = _Stream(path)
        self._writer = McapWriter(
            self._stream,  # type: ignore[arg-type]  # of a stream, write, tell and flush are used
            chunk_size=options.chunk_bytes,
            compression=COMPRESSIONS[options.compression],
        )
        self._writer.start("ros2", LIBRARY)
        self._schemas: dict[tuple[str, str], int] = {}
        self._channels: dict[Topic, int] = {}
        self._counts: list[int] = [0]  # by channel, which the library counts from 1
        self._first_ns, self._last_ns = LATEST_NS, 0
        self._whole()

    @property
    def span(self) -> FileSpan:
        begin_ns = min(self._first_ns, self._last_ns)  # of a file without a message too
        return FileSpan(self._name, begin_ns, self._last_ns, self.messages)

    @property
    def messages(self) -> int:
        return sum(self._counts)

    def counts(self) -> list[tuple[Topic, int]]:
        counts = dict(enumerate(self._counts))
        return [(topic, counts.get(channel, 0)) for topic, channel in self._channels.items()]

    def add(self, topic: Topic, data: bytes | memoryview, log_ns: int, publish_ns: int, now_s: float) -> None:
        channel = self._channels.get(topic) or self._declare(topic)
        if not self.waiting:
            self.waiting_since_s = now_s
        self.waiting += 1
        self._first_ns, self._last_ns = min(self._first_ns, log_ns), max(self._last_ns, log_ns)
        sequence = self._counts[channel]
        self._counts[channel] = sequence + 1
        # the builder takes a view as well as bytes
        self._writer.add_message(channel, log_ns, data, publish_ns, sequence)  # type: ignore[arg-type]
        self._notice()

    def flush(self) -> None:
        """Hand the messages that wait to the operating system."""
        self._writer.flush()
        self._whole()

    def sync(self, now_s: float) -> None:
        """Force what was written to the disk."""
        os.fsync(self._stream.file.fileno())
        self.synced_s = now_s

    def close(self, now_s: float) -> None:
        """Write the rest and the summary."""
        self._writer.finish()
        self._whole()
        self.sync(now_s)
        self._stream.file.close()

    def give_up(self) -> None:
        """Cut off what was written in part, and forget what was to follow it."""
        try:
            self._stream.file.truncate(self.bytes)
            os.fsync(self._stream.file.fileno())
        except OSError:
            pass  # then the reader passes it over
        self._stream.file.close()
        self.waiting, (self._counts, self._first_ns, self._last_ns) = 0, self._safe

    def _notice(self) -> None:
        """See whether the library has written a chunk, as it does when one is full."""
        if self._stream.position > self.bytes:
            self._whole()

    def _whole(self) -> None:
        self.bytes, self.waiting = self._stream.position, 0
        self._safe = (list(self._counts), self._first_ns, self._last_ns)  # what the file holds

    def _declare(self, topic: Topic) -> int:
        kind = topic.type, topic.definition
        if kind not in self._schemas:
            text = topic.definition.encode()
            self._schemas[kind] = self._writer.register_schema(topic.type, topic.definition_format, text)
            self._notice()
            self._put(mcap.Schema(self._schemas[kind], text, topic.definition_format, topic.type))
        facts = {"offered_qos_profiles": topic.qos, "topic_type_hash": topic.type_hash}
        schema_id = self._schemas[kind]
        number = self._writer.register_channel(topic.name, topic.encoding, schema_id, facts)
        self._notice()
        self._put(mcap.Channel(number, topic.name, topic.encoding, facts, schema_id))
        self._channels[topic] = number
        self._counts.append(0)
        return number

    def _put(self, record: mcap.McapRecord) -> None:
        """Write a definition before the chunk that will hold it too: if that is damaged, the others stay readable.

        Between its calls the library has written all that is not in the next chunk, and it asks for its position.
        """
        builder = RecordBuilder()
        record.write(builder)
        self._stream.write(builder.end())
        self.bytes = self._stream.position
