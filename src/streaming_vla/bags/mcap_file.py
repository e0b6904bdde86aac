"""Reads one MCAP file, whole or damaged, block by block: a chunk, or about as many messages outside of chunks.

Of a whole file, the summary and the message indexes tell topics and times without a chunk being decompressed. Any
other file is read from its beginning for them. The records are those of the library `mcap` (the format is described at
mcap.dev/spec); its own reader takes whatever memory a file claims to need, and ends at the first damage.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from mcap import records as mcap
from mcap.exceptions import McapError

from streaming_vla.bags.errors import CONVERT_ROS1, BagError, CorruptBag, EmptyBag, NotABag, TruncatedBag
from streaming_vla.bags.inflate import MAX_BYTES, inflate
from streaming_vla.bags.mcap_records import (
    CHANNEL,
    CHUNK,
    DATA_END,
    FOOTER,
    HEAD,
    HEADER,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    SCHEMA,
    Damage,
    Record,
    record_at,
    records,
)
from streaming_vla.bags.mcap_summary import agrees, parsed, read_summary
from streaming_vla.bags.order import Block, make_block
from streaming_vla.bags.source import FileSource, MemorySource, Source
from streaming_vla.bags.topics import RawMessage, Topic, full_type

LOOSE_BYTES = 1 << 20  # of a block of messages outside of chunks
LARGEST_TEXT_BYTES = 1 << 22  # of a schema or a channel
TO_THE_END = 1 << 62
MOST_DAMAGES = 100  # that are told one by one

_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK = struct.Struct("<QQQII")  # first and last time, size and checksum of the content, bytes of the compression
_Message = tuple[int, int, int, int, memoryview]  # place, channel, log and publish time (ns), data


class McapFile:
    """One file; `report` is told of every damage that is met.

    Raises:
        EmptyBag: the file has no byte.
        NotABag: it does not begin as an MCAP file, or its profile is not ros2.
    """

    def __init__(self, path: Path, report: Callable[[BagError], None]) -> None:
        self._path, self._report = path, report
        self._schemas: dict[int, mcap.Schema] = {}
        self._channels: dict[int, mcap.Channel] = {}
        self._counts: Counter[int] = Counter()
        self._topics: dict[int, Topic] = {}
        self._kept: tuple[Record, memoryview, bool] | None = None  # a block of several pieces, and its content
        with FileSource(path) as source:
            if source.size == 0:
                raise EmptyBag(f"{path} is empty (0 bytes): the recorder had written nothing yet")
            if source.read(0, len(MAGIC)) != MAGIC[: source.size]:
                raise NotABag(f"{path} does not begin as an MCAP file does: is it another kind of file?")
            self._check_profile(source)
            summary = read_summary(source)
            if summary is not None:
                self._schemas, self._channels = dict(summary.schemas), dict(summary.channels)
            self._indexed = summary is not None and agrees(source, summary)

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of the file in its order, once."""
        with FileSource(self._path) as source:
            yield from self._walk(source)
        unknown = sum(count for number, count in self._counts.items() if number not in self._channels)
        if unknown:
            self._report(
                CorruptBag(f"{self._path}: {unknown} messages are of channels that nothing describes, left out")
            )
        self._topics = {number: replace(self._topic(number), count=self._counts[number]) for number in self._channels}

    def topics(self) -> list[Topic]:
        """Return the topics, one for each channel; they are known after all blocks."""
        return list(self._topics.values())

    def read(self, source: object, first: int, end: int, topics: Collection[str] | None) -> list[RawMessage]:
        """Return the readable messages of a block whose place lies from `first` to before `end`, those of `topics`."""
        assert isinstance(source, Record)
        if self._kept is not None and self._kept[0] == source:
            _, content, sound = self._kept
        else:
            with FileSource(self._path) as file:
                content, sound = self._content(file, source)
        self._kept = (source, content, sound) if end < TO_THE_END else None  # its next piece comes soon
        found = []
        for place, number, time_ns, published_ns, data in self._messages(source, content, sound):
            topic = self._topics.get(number)
            if topic is not None and first <= place < end and (topics is None or topic.name in topics):
                found.append(RawMessage(topic.name, time_ns, data, published_ns, topic))
        return found

    def _walk(self, source: Source) -> Iterator[Block]:
        chunk: Record | None = None
        loose: list[tuple[int, int, int]] = []  # channel, time (ns) and position of messages outside of chunks
        position = len(MAGIC)  # where the last record ends
        index: dict[int, Any] = {}  # times and places of the messages of the chunk
        ended = any_loose = False
        damages = 0
        for record in chain(records(source, len(MAGIC)), [None]):
            opcode = record.opcode if isinstance(record, Record) else 0
            if chunk is not None and opcode != MESSAGE_INDEX:
                yield from self._block(chunk, index if self._indexed else self._entries(source, chunk))
                chunk, index = None, {}
            if loose and (opcode != MESSAGE or position - loose[0][2] > LOOSE_BYTES):
                yield from self._loose_block(loose, position)
                loose = []
            if record is None:
                break
            if isinstance(record, Damage):
                damages += 1
                if damages <= MOST_DAMAGES:
                    self._report(self._damaged(record))
                ended = ended or record.at_end
                continue
            position = record.begin + record.length
            ended = ended or opcode in (DATA_END, FOOTER)
            if opcode == CHUNK:
                chunk = record
            elif opcode == MESSAGE_INDEX and self._indexed:
                content = source.read(record.begin, record.length)
                index[int.from_bytes(content[:2], "little")] = np.frombuffer(content[6:], "<u8").reshape(-1, 2)
            elif opcode == MESSAGE and record.length > MAX_BYTES:
                self._report(CorruptBag(f"{self._path}: a message of {record.length} bytes is left out"))
            elif opcode == MESSAGE:
                any_loose = True
                number, _, time_ns, _ = _MESSAGE.unpack(source.read(record.begin, _MESSAGE.size))
                loose.append((number, time_ns, record.begin - HEAD.size))
            elif opcode in (SCHEMA, CHANNEL):
                self._define(opcode, source.read(record.begin, min(record.length, LARGEST_TEXT_BYTES)))
            elif opcode == DATA_END and any_loose:
                self._check_data(source, record)
        if damages > MOST_DAMAGES:
            more = damages - MOST_DAMAGES
            self._report(CorruptBag(f"{self._path}: {more} more places are damaged, the rest is read"))
        if not ended:
            self._report(TruncatedBag(f"{self._path} has no end: it was not closed; everything up to there is read"))

    def _loose_block(self, loose: list[tuple[int, int, int]], end: int) -> Iterator[Block]:
        begin = loose[0][2]
        entries: dict[int, list[tuple[int, int]]] = {}
        for number, time_ns, position in loose:
            entries.setdefault(number, []).append((time_ns, position - begin))
        return self._block(Record(MESSAGE, begin, end - begin), entries)

    def _entries(self, source: Source, chunk: Record) -> dict[int, list[tuple[int, int]]]:
        """Return times (ns) and places of the messages of a chunk by channel; learn what it defines."""
        entries: dict[int, list[tuple[int, int]]] = {}
        for place, number, time_ns, _, _ in self._messages(chunk, *self._content(source, chunk), learn=True):
            entries.setdefault(number, []).append((time_ns, place))
        return entries

    def _block(self, record: Record, entries: Mapping[int, Any]) -> Iterator[Block]:
        """Yield the block that a record holds, nothing when no message of it can be used."""
        for number, pairs in entries.items():
            self._counts[number] += len(pairs)
        known = [
            (self._topic(number), np.asarray(pairs, np.uint64))
            for number, pairs in entries.items()
            if number in self._channels
        ]
        block = make_block(0, TO_THE_END, record, known)
        if block is not None:
            yield block

    def _content(self, source: Source, record: Record) -> tuple[memoryview, bool]:
        """Return the records of a block, and whether they are proven to be what was written."""
        if record.opcode == MESSAGE:
            return source.read(record.begin, record.length), True
        head = source.read(record.begin, _CHUNK.size)
        if len(head) < _CHUNK.size:
            return memoryview(b""), False
        _, _, size, crc, name_bytes = _CHUNK.unpack(head)
        name = source.read(record.begin + _CHUNK.size, min(name_bytes, 8)).tobytes().decode(errors="replace")
        begin = record.begin + _CHUNK.size + name_bytes + 8
        length = record.begin + record.length - begin
        if length < 0 or length > MAX_BYTES:
            self._report(self._bad_chunk(record, "its header is damaged"))
            return memoryview(b""), False
        data, trouble = inflate(name, source.read(begin, length), size)
        if trouble:
            self._report(self._bad_chunk(record, trouble))
        elif crc and zlib.crc32(data) != crc:
            trouble = "its checksum is wrong, so its messages may not be what was recorded"
            self._report(self._bad_chunk(record, trouble))
        return memoryview(data), bool(crc) and not trouble

    def _messages(self, block: Record, content: memoryview, sound: bool, learn: bool = False) -> Iterator[_Message]:
        """Yield the messages among the records of a block; `learn` from its definitions."""
        if sound and not learn:
            rest = yield from _sound_messages(content)
            if rest:
                self._report(self._bad_chunk(block, f"{rest} bytes of it are no record"))
            return
        for record in records(MemorySource(content), 0):
            if isinstance(record, Damage):
                self._report(self._bad_chunk(block, f"{record.end - record.begin} bytes of it are no record"))
            elif record.opcode == MESSAGE:
                number, _, time_ns, published_ns = _MESSAGE.unpack_from(content, record.begin)
                data = content[record.begin + _MESSAGE.size : record.begin + record.length]
                yield record.begin - HEAD.size, number, time_ns, published_ns, data
            elif record.opcode in (SCHEMA, CHANNEL) and learn:
                self._define(record.opcode, content[record.begin : record.begin + record.length])

    def _define(self, opcode: int, content: memoryview) -> None:
        """Take a schema or a channel; the first of a number counts."""
        try:
            if len(content) >= LARGEST_TEXT_BYTES:
                raise ValueError(f"it has more than {LARGEST_TEXT_BYTES} bytes")
            new = parsed(mcap.Schema if opcode == SCHEMA else mcap.Channel, content)
        except (McapError, ValueError, OverflowError, struct.error) as error:
            self._report(CorruptBag(f"{self._path}: a definition cannot be read ({error or type(error).__name__})"))
            return
        known: dict[int, Any] = self._schemas if opcode == SCHEMA else self._channels
        if known.setdefault(new.id, new) != new:
            what = "schema" if opcode == SCHEMA else "channel"
            self._report(CorruptBag(f"{self._path}: {what} {new.id} is described in two ways, the first counts"))

    def _topic(self, number: int) -> Topic:
        if number in self._topics:
            return self._topics[number]
        channel = self._channels[number]
        schema = self._schemas.get(channel.schema_id)
        self._topics[number] = topic = Topic(
            name=channel.topic,
            type=full_type(schema.name) if schema else "",
            encoding=channel.message_encoding,
            definition=schema.data.decode(errors="replace") if schema else "",
            definition_format=schema.encoding if schema else "",
            qos=channel.metadata.get("offered_qos_profiles", ""),
            type_hash=channel.metadata.get("topic_type_hash", ""),
        )
        return topic

    def _check_profile(self, source: Source) -> None:
        record = record_at(source, len(MAGIC))
        if record is None or record.opcode != HEADER or record.length > LARGEST_TEXT_BYTES:
            return  # the header is damaged: what follows may be whole
        try:
            profile = parsed(mcap.Header, source.read(record.begin, record.length)).profile
        except (McapError, ValueError, struct.error):
            return
        if profile == "ros1":
            raise NotABag(
                f"{self._path} holds messages of ROS 1: {CONVERT_ROS1.format(source='FILE.bag', target='FOLDER')}"
            )
        if profile not in ("ros2", ""):
            raise NotABag(f"{self._path} is an MCAP file of profile '{profile}', expected ros2: record it with ROS 2")

    def _check_data(self, source: Source, end: Record) -> None:
        """Compare the checksum of the data with them: messages outside of chunks have no other."""
        told = int.from_bytes(source.read(end.begin, 4), "little")
        found = 0
        for position in range(0, end.begin - HEAD.size if told else 0, LOOSE_BYTES):
            found = zlib.crc32(source.read(position, min(LOOSE_BYTES, end.begin - HEAD.size - position)), found)
        if told != found:
            self._report(
                CorruptBag(f"{self._path}: its checksum is wrong, so its messages may not be what was recorded")
            )

    def _damaged(self, damage: Damage) -> BagError:
        if damage.at_end:
            return TruncatedBag(f"{self._path} breaks off at byte {damage.begin}: everything whole before it is read")
        return CorruptBag(f"{self._path}: bytes {damage.begin} to {damage.end} are damaged, the rest is read")

    def _bad_chunk(self, record: Record, what: str) -> CorruptBag:
        return CorruptBag(f"{self._path}: the chunk at byte {record.begin - HEAD.size}: {what}")


def _sound_messages(content: memoryview) -> Generator[_Message, None, int]:
    """Yield the messages among records that are as they were written; return how many bytes are none all the same."""
    position, size = 0, len(content)
    while position < size:
        body = position + HEAD.size
        opcode, length = HEAD.unpack_from(content, position) if body <= size else (0, 0)
        end = body + length
        if not opcode or end > size:
            return size - position
        if opcode == MESSAGE and length >= _MESSAGE.size:
            number, _, time_ns, published_ns = _MESSAGE.unpack_from(content, body)
            yield position, number, time_ns, published_ns, content[body + _MESSAGE.size : end]
        position = end
    return 0
