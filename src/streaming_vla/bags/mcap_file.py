"""Reads one MCAP file, whole or damaged, in the order in which it was written; needs memory for one chunk.

One way for whole and for damaged files: the summary at the end of a file only tells the topics before anything else
is read. The format is described at mcap.dev/spec.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from mcap import records as mcap
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError

from streaming_vla.bags.errors import BagError, CorruptBag, EmptyBag, NotABag, TruncatedBag
from streaming_vla.bags.inflate import MAX_BYTES, inflate
from streaming_vla.bags.mcap_records import (
    CHANNEL,
    CHUNK,
    DATA_END,
    FOOTER,
    HEADER,
    MAGIC,
    MESSAGE,
    SCHEMA,
    STATISTICS,
    Damage,
    Record,
    record_at,
    records,
)
from streaming_vla.bags.source import FileSource, MemorySource, Source
from streaming_vla.bags.topics import RawMessage, Topic

FOOTER_BYTES = 9 + 20 + len(MAGIC)
LARGEST_TEXT_BYTES = 1 << 22  # of a schema or a channel

_MESSAGE = struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<QQQII")


@dataclass
class McapTopics:
    """What the channels of a file are, and the counts and times where the summary tells them."""

    schemas: dict[int, mcap.Schema] = field(default_factory=dict)
    channels: dict[int, mcap.Channel] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    begin_ns: int | None = None
    end_ns: int | None = None

    def add(self, source: Source, record: Record) -> bool:
        """Take a schema or channel record; False when its content cannot be read."""
        if record.length > LARGEST_TEXT_BYTES:
            return False
        try:
            if record.opcode == SCHEMA:
                schema = mcap.Schema.read(_stream(source, record))
                self.schemas.setdefault(schema.id, schema)
            else:
                channel = mcap.Channel.read(_stream(source, record))
                self.channels.setdefault(channel.id, channel)
        except (McapError, ValueError, struct.error):
            return False
        return True

    def topic(self, channel_id: int) -> Topic:
        """Return the topic of a channel."""
        channel = self.channels[channel_id]
        schema = self.schemas.get(channel.schema_id)
        return Topic(
            name=channel.topic,
            type=schema.name if schema else "",
            count=self.counts.get(channel_id, 0),
            encoding=channel.message_encoding,
            definition=schema.data.decode(errors="replace") if schema else "",
            definition_format=schema.encoding if schema else "",
            qos=channel.metadata.get("offered_qos_profiles", ""),
        )


class McapFile:
    """One file; `report` is told of every damage that is met.

    Raises:
        EmptyBag: the file has no byte.
        NotABag: it does not begin as an MCAP file, or its profile is not ros2.
    """

    def __init__(self, path: Path, report: Callable[[BagError], None]) -> None:
        self._path = path
        self._report = report
        with FileSource(path) as source:
            if source.size == 0:
                raise EmptyBag(f"{path} is empty (0 bytes): the recorder had written nothing yet")
            if source.read(0, len(MAGIC)).tobytes() != MAGIC[: source.size]:
                raise NotABag(f"{path} does not begin as an MCAP file does: is it another kind of file?")
            self._check_profile(source)
            self._topics = self._summary(source)
        self.whole = self._topics is not None

    def topics(self) -> McapTopics:
        """Return the topics, from the summary or, without one, from reading the whole file."""
        if self._topics is None:
            found = McapTopics()
            for channel_id, time_ns, _, _ in self._scan(found, lambda error: None):
                found.counts[channel_id] = found.counts.get(channel_id, 0) + 1
                found.begin_ns = time_ns if found.begin_ns is None else min(time_ns, found.begin_ns)
                found.end_ns = time_ns if found.end_ns is None else max(time_ns, found.end_ns)
            self._topics = found
        return self._topics

    def messages(self) -> Iterator[RawMessage]:
        """Yield every readable message in the order of the file."""
        found = self._topics or McapTopics()  # a damaged chunk must not take the definitions of the others with it
        names: dict[int, str] = {}
        for channel_id, time_ns, published_ns, data in self._scan(found, self._report):
            if channel_id not in names:
                names[channel_id] = found.channels[channel_id].topic
            yield RawMessage(names[channel_id], time_ns, data, published_ns)

    def _check_profile(self, source: Source) -> None:
        record = record_at(source, len(MAGIC))
        if record is None or record.opcode != HEADER or record.length > LARGEST_TEXT_BYTES:
            return  # the header is damaged: what follows may be whole
        try:
            profile = mcap.Header.read(_stream(source, record)).profile
        except (McapError, ValueError, struct.error):
            return
        if profile not in ("ros2", ""):
            raise NotABag(f"{self._path} is an MCAP file of profile '{profile}', expected ros2: record it with ROS 2")

    def _summary(self, source: Source) -> McapTopics | None:
        """Return what the summary says; None when there is none, or it is damaged."""
        begin = source.size - FOOTER_BYTES
        record = record_at(source, begin) if begin > 0 else None
        if record is None or record.opcode != FOOTER or source.read(source.size - 8, 8).tobytes() != MAGIC:
            return None
        footer = mcap.Footer.read(_stream(source, record))
        length = begin - footer.summary_start
        if not 0 < footer.summary_start < begin or length > MAX_BYTES:
            return None
        checked = source.read(footer.summary_start, length + 9 + 16)  # the footer up to its checksum
        if footer.summary_crc and zlib.crc32(checked) != footer.summary_crc:
            return None
        found = McapTopics()
        summary = MemorySource(checked[:length])
        for each in records(summary, 0):
            if isinstance(each, Damage):
                return None
            if each.opcode in (SCHEMA, CHANNEL) and not found.add(summary, each):
                return None
            if each.opcode == STATISTICS:
                try:
                    statistics = mcap.Statistics.read(_stream(summary, each))
                except (McapError, ValueError, struct.error):
                    return None
                found.counts = statistics.channel_message_counts
                if statistics.message_count:
                    found.begin_ns, found.end_ns = statistics.message_start_time, statistics.message_end_time
        return found if found.counts and found.channels.keys() >= found.counts.keys() else None

    def _scan(
        self, found: McapTopics, report: Callable[[BagError], None]
    ) -> Iterator[tuple[int, int, int, memoryview]]:
        """Yield channel, log and publish time (ns) and data of every message of a known channel; fill `found`."""
        ended = False
        unknown = 0
        with FileSource(self._path) as source:
            for record in records(source, len(MAGIC)):
                if isinstance(record, Damage):
                    report(self._damaged(record.begin, record.end, record.at_end))
                    ended = ended or record.at_end
                elif record.opcode == CHUNK:
                    content = self._chunk(source, record, report)
                    for inner in records(content, 0):
                        if isinstance(inner, Damage):
                            report(self._bad_chunk(record, f"{inner.end - inner.begin} bytes of it are no record"))
                        elif inner.opcode == MESSAGE:
                            if (message := _message(content, inner))[0] in found.channels:
                                yield message
                            else:
                                unknown += 1
                        elif inner.opcode in (SCHEMA, CHANNEL) and not found.add(content, inner):
                            report(self._bad_chunk(record, "a definition in it cannot be read"))
                elif record.opcode == MESSAGE and record.length <= MAX_BYTES:
                    if (message := _message(source, record))[0] in found.channels:
                        yield message
                    else:
                        unknown += 1
                elif record.opcode in (SCHEMA, CHANNEL):
                    found.add(source, record)
                elif record.opcode in (DATA_END, FOOTER):
                    ended = True
        if unknown:
            report(CorruptBag(f"{self._path}: {unknown} messages are of channels that nothing describes, left out"))
        if not ended:
            report(TruncatedBag(f"{self._path} has no end: it was not closed; everything up to there is read"))

    def _chunk(self, source: Source, record: Record, report: Callable[[BagError], None]) -> MemorySource:
        """Return what can be read of a chunk's records."""
        head = source.read(record.begin, 32)
        if len(head) < 32:
            return MemorySource(b"")
        _, _, size, crc, name_bytes = _CHUNK.unpack(head)
        name = source.read(record.begin + 32, min(name_bytes, 8)).tobytes().decode(errors="replace")
        begin = record.begin + 32 + name_bytes + 8
        length = record.begin + record.length - begin
        if length < 0 or length > MAX_BYTES:
            report(self._bad_chunk(record, "its header is damaged"))
            return MemorySource(b"")
        data, trouble = inflate(name, source.read(begin, length), size)
        if trouble:
            report(self._bad_chunk(record, trouble))
        elif crc and zlib.crc32(data) != crc:
            report(self._bad_chunk(record, "its checksum is wrong, so its messages may not be what was recorded"))
        return MemorySource(data)

    def _damaged(self, begin: int, end: int, at_end: bool) -> BagError:
        if at_end:
            return TruncatedBag(f"{self._path} breaks off at byte {begin}: everything whole before it is read")
        return CorruptBag(f"{self._path}: bytes {begin} to {end} are damaged, the rest is read")

    def _bad_chunk(self, record: Record, what: str) -> CorruptBag:
        return CorruptBag(f"{self._path}: the chunk at byte {record.begin - 9}: {what}")


def _message(source: Source, record: Record) -> tuple[int, int, int, memoryview]:
    data = source.read(record.begin, record.length)
    channel_id, _, log_time_ns, publish_time_ns = _MESSAGE.unpack_from(data)
    return channel_id, log_time_ns, publish_time_ns, data[_MESSAGE.size :]


def _stream(source: Source, record: Record) -> ReadDataStream:
    return ReadDataStream(BytesIO(source.read(record.begin, record.length)))
