"""One MCAP file being written, by the writer of the library `mcap`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mcap import records as mcap
from mcap.data_stream import RecordBuilder
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from streaming_vla.bags.metadata import FileSpan
from streaming_vla.bags.topics import Topic

LIBRARY = "streaming_vla"
COMPRESSIONS = {"none": CompressionType.NONE, "zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4}
LATEST_NS = (1 << 64) - 1


class Stream:
    """A file that takes all of what it is given, or raises."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("xb", buffering=0)
        self.position = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`; OSError when the disk does not take it."""
        left = memoryview(data)
        while left:
            left = left[self.file.write(left) :]
        self.position += len(data)
        return len(data)

    def tell(self) -> int:
        """Return how much was written."""
        return self.position

    def flush(self) -> None:
        """Do nothing: nothing is kept back."""


class WrittenFile:
    """One MCAP file.

    Args:
        compression: of the chunks, one of COMPRESSIONS.
        chunk_bytes: a chunk of this size is written at once.
        now_s: monotonic seconds.

    Attributes:
        begun_s: when it was made.
        synced_s: when it was forced to the disk.
        waiting: messages that the operating system does not have.
        waiting_since_s: since when there are some.
        bytes: of the file.
    """

    def __init__(self, path: Path, compression: str, chunk_bytes: int, now_s: float) -> None:
        self.begun_s = self.synced_s = self.waiting_since_s = now_s
        self.bytes = self.waiting = 0
        self._name = path.name
        self._stream = Stream(path)
        self._writer = McapWriter(
            self._stream,  # type: ignore[arg-type]  # of a stream, write, tell and flush are used
            chunk_size=chunk_bytes,
            compression=COMPRESSIONS[compression],
        )
        self._writer.start("ros2", LIBRARY)
        self._schemas: dict[tuple[str, str], int] = {}
        self._channels: dict[Topic, int] = {}
        self._counts: list[int] = [0]  # by channel, which the library counts from 1
        self._first_ns, self._last_ns = LATEST_NS, 0
        self._whole()

    @property
    def span(self) -> FileSpan:
        """What the file holds, as the metadata tell it."""
        begin_ns = min(self._first_ns, self._last_ns)  # of a file without a message too
        return FileSpan(self._name, begin_ns, self._last_ns, self.messages)

    @property
    def messages(self) -> int:
        """Messages taken so far."""
        return sum(self._counts)

    def counts(self) -> list[tuple[Topic, int]]:
        """Return the messages of each topic."""
        counts = dict(enumerate(self._counts))
        return [(topic, counts.get(channel, 0)) for topic, channel in self._channels.items()]

    def add(self, topic: Topic, data: bytes | memoryview, log_ns: int, publish_ns: int, now_s: float) -> None:
        """Take a message, see BagWriter.write."""
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
        with suppress(OSError):  # then the reader passes it over
            self._stream.file.truncate(self.bytes)
            os.fsync(self._stream.file.fileno())
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
