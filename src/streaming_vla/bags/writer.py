"""Writes a rosbag2 folder of MCAP files that is readable at every moment, also after `kill -9`.

Messages are collected in chunks; a chunk is handed to the operating system when it is full or `flush_s` old, so a
killed process loses at most what came after the last chunk. What the operating system holds is forced to the disk
(fsync) every `sync_s` and when a file ends: a power cut loses at most that much. The records are those of the `mcap`
library, whose own writer cannot end a chunk by time.
"""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lz4.frame
import zstandard
from mcap import records as mcap
from mcap.data_stream import RecordBuilder

from streaming_vla.bags import metadata
from streaming_vla.bags.mcap_records import MAGIC
from streaming_vla.bags.metadata import FileSpan
from streaming_vla.bags.recorder_options import MB, WriterOptions
from streaming_vla.bags.topics import Topic

LIBRARY = "streaming_vla"


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
        self._topics: dict[str, Topic] = {}
        self._hashes: dict[str, str] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._spans: list[FileSpan] = []
        self._file: _File | None = None

    @property
    def messages(self) -> int:
        """Messages taken so far."""
        return sum(self._counts.values())

    @property
    def waiting(self) -> int:
        """Messages of these that the operating system does not have yet; those of a chunk that it took in part too."""
        return self._file.waiting if self._file is not None else 0

    def add_topic(self, topic: Topic, type_hash: str = "") -> None:
        """Declare a topic before its first message; again for nothing."""
        self._topics.setdefault(topic.name, topic)
        self._hashes[topic.type] = type_hash

    def write(self, topic: str, data: bytes | memoryview, log_ns: int, publish_ns: int, now_s: float) -> None:
        """Take a message.

        Args:
            data: CDR.
            log_ns: when it was received, nanoseconds.
            publish_ns: when it was published.
            now_s: monotonic seconds.

        Raises:
            KeyError: the topic was not declared.
            OSError: the disk does not take it.
        """
        file = self._current(now_s)
        file.add(self._topics[topic], data, log_ns, publish_ns, now_s)
        self._counts[topic] += 1
        if file.waiting_bytes >= self.options.chunk_bytes:
            file.end_chunk(now_s)

    def tick(self, now_s: float) -> None:
        """Write what is old enough, and begin a new file when it is time."""
        file = self._file
        if file is None:
            return
        options = self.options
        if file.waiting_since_s is not None and now_s - file.waiting_since_s >= options.flush_s:
            file.end_chunk(now_s)
        if now_s - file.synced_s >= options.sync_s:
            file.sync(now_s)
        long = options.split_s and now_s - file.begun_s >= options.split_s
        if long or (options.split_mb and file.bytes >= options.split_mb * MB):
            self._end_file(now_s)

    def close(self, now_s: float) -> None:
        """End the last file and write the metadata."""
        self._current(now_s)  # a bag without a message is a bag all the same
        self._end_file(now_s)

    def _current(self, now_s: float) -> _File:
        if self._file is None:
            path = self.folder / f"{self.folder.name}_{len(self._spans)}.mcap"
            self._file = _File(path, self.options.compression, now_s)
            self._write_metadata()  # also of a bag that is never closed
        return self._file

    def _end_file(self, now_s: float) -> None:
        if self._file is not None:
            self._file.close(now_s)
            self._spans.append(self._file.span)
            self._file = None
            self._write_metadata()

    def _write_metadata(self) -> None:
        topics = [replace(topic, count=self._counts[name]) for name, topic in self._topics.items()]
        spans = [*self._spans, *([self._file.span] if self._file is not None else [])]
        metadata.write(self.folder, topics, self._hashes, spans)


class _File:
    """One MCAP file: chunks, then the summary."""

    def __init__(self, path: Path, compression: str, now_s: float) -> None:
        self.begun_s = self.synced_s = now_s
        self.bytes = 0
        self.waiting_bytes = 0
        self.waiting_since_s: float | None = None
        self._name = path.name
        self._compression = "" if compression == "none" else compression
        self._file = path.open("xb", buffering=0)
        self._chunk = RecordBuilder()
        self._declared = RecordBuilder()  # definitions stand before their chunk as well: a damaged one keeps them
        self._offsets: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._schemas: dict[str, mcap.Schema] = {}
        self._channels: dict[str, mcap.Channel] = {}
        self._indexes: list[mcap.ChunkIndex] = []
        self._counts: dict[int, int] = defaultdict(int)
        self._first_ns, self._last_ns = 0, 0
        header = RecordBuilder()
        mcap.Header(profile="ros2", library=LIBRARY).write(header)
        self._put(MAGIC + header.end())

    @property
    def waiting(self) -> int:
        return sum(map(len, self._offsets.values()))

    @property
    def span(self) -> FileSpan:
        return FileSpan(self._name, self._first_ns, self._last_ns, sum(self._counts.values()))

    def add(self, topic: Topic, data: bytes | memoryview, log_ns: int, publish_ns: int, now_s: float) -> None:
        if topic.name not in self._channels:
            self._declare(topic)
        channel = self._channels[topic.name]
        if not self._counts:
            self._first_ns = self._last_ns = log_ns
        self._first_ns, self._last_ns = min(self._first_ns, log_ns), max(self._last_ns, log_ns)
        offset = self._chunk.count
        mcap.Message(
            channel_id=channel.id,
            log_time=log_ns,
            publish_time=publish_ns,
            sequence=self._counts[channel.id],
            data=data,  # type: ignore[arg-type]  # the builder takes a view as well
        ).write(self._chunk)
        self._offsets[channel.id].append((log_ns, offset))
        self._counts[channel.id] += 1
        self.waiting_bytes = self._chunk.count
        if self.waiting_since_s is None:
            self.waiting_since_s = now_s

    def end_chunk(self, now_s: float) -> None:
        """Hand the messages that wait to the operating system."""
        if not self._offsets:
            return
        content = self._chunk.end()
        times = [time_ns for entries in self._offsets.values() for time_ns, _ in entries]
        data = _COMPRESS[self._compression](content)
        self._put(self._declared.end())
        begin = self.bytes
        record = RecordBuilder()
        chunk = mcap.Chunk(
            compression=self._compression,
            data=data,
            message_start_time=min(times),
            message_end_time=max(times),
            uncompressed_crc=zlib.crc32(content),
            uncompressed_size=len(content),
        )
        chunk.write(record)
        length = record.count
        places: dict[int, int] = {}
        for channel_id, entries in self._offsets.items():
            places[channel_id] = begin + record.count
            mcap.MessageIndex(channel_id=channel_id, records=entries).write(record)
        self._indexes.append(
            mcap.ChunkIndex(
                chunk_length=length,
                chunk_start_offset=begin,
                compression=self._compression,
                compressed_size=len(data),
                message_end_time=chunk.message_end_time,
                message_index_length=record.count - length,
                message_index_offsets=places,
                message_start_time=chunk.message_start_time,
                uncompressed_size=len(content),
            )
        )
        self._put(record.end())
        self._offsets.clear()
        self.waiting_bytes, self.waiting_since_s = 0, None

    def sync(self, now_s: float) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file.fileno())
        self.synced_s = now_s

    def close(self, now_s: float) -> None:
        """Write the rest, the summary and the footer."""
        self.end_chunk(now_s)
        end = RecordBuilder()
        mcap.DataEnd(data_section_crc=0).write(end)  # 0: not computed, as the chunks have checksums of their own
        self._put(end.end())
        begin = self.bytes
        summary = RecordBuilder()
        groups: list[mcap.SummaryOffset] = []
        statistics = mcap.Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=dict(self._counts),
            chunk_count=len(self._indexes),
            message_count=sum(self._counts.values()),
            message_end_time=self._last_ns,
            message_start_time=self._first_ns,
            metadata_count=0,
            schema_count=len(self._schemas),
        )
        for opcode, members in (
            (0x03, [*self._schemas.values()]),
            (0x04, [*self._channels.values()]),
            (0x0B, [statistics]),
            (0x08, self._indexes),
        ):
            start = summary.count
            for member in members:
                member.write(summary)
            if members:
                groups.append(mcap.SummaryOffset(opcode, begin + start, summary.count - start))
        offsets = begin + summary.count
        for group in groups:
            group.write(summary)
        content = summary.end()
        footer = RecordBuilder()
        mcap.Footer(summary_start=begin, summary_offset_start=offsets, summary_crc=0).write(footer)
        head = footer.end()[: 9 + 16]  # the checksum covers the footer up to itself
        mcap.Footer(
            summary_start=begin, summary_offset_start=offsets, summary_crc=zlib.crc32(head, zlib.crc32(content))
        ).write(footer)
        self._put(content + footer.end() + MAGIC)
        self.sync(now_s)
        self._file.close()

    def _declare(self, topic: Topic) -> None:
        schema = self._schemas.get(topic.type)
        if schema is None:
            text = topic.definition.encode()
            schema = mcap.Schema(
                id=len(self._schemas) + 1, name=topic.type, encoding=topic.definition_format, data=text
            )
            self._schemas[topic.type] = schema
            schema.write(self._chunk)
            schema.write(self._declared)
        facts: Mapping[str, Any] = {"offered_qos_profiles": topic.qos}
        channel = mcap.Channel(
            id=len(self._channels) + 1,
            topic=topic.name,
            message_encoding=topic.encoding,
            metadata=dict(facts),
            schema_id=schema.id,
        )
        self._channels[topic.name] = channel
        channel.write(self._chunk)
        channel.write(self._declared)

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self.bytes += len(data)


_COMPRESS: dict[str, Any] = {
    "": lambda data: data,
    "zstd": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
    "lz4": lz4.frame.compress,
}
