"""The records of an MCAP file or chunk in order; after a damaged place the next whole record is searched.

A record is an opcode (1 byte), the length of its content (8 bytes, little endian) and the content; the format is
described at mcap.dev/spec. Opcodes that it does not define are passed over, as it asks for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from streaming_vla.bags.source import Source

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX = range(1, 8)
DATA_END = 0x0F
# Smallest content of each opcode: a shorter one is damage.
SMALLEST = {1: 8, 2: 20, 3: 14, 4: 16, 5: 22, 6: 40, 7: 6, 8: 64, 9: 36, 10: 36, 11: 46, 12: 8, 13: 20, 14: 17, 15: 4}
HEAD = struct.Struct("<BQ")

_CANDIDATE = re.compile(rb"[\x01-\x0f](?=.{5}\x00{3})", re.DOTALL)  # no record is 2^40 bytes long
_SMALLEST_WINDOW_BYTES, _WINDOW_BYTES = 1 << 12, 1 << 20


@dataclass(frozen=True)
class Record:
    """A record's place; `length` is what is there of its content, less than was written when it is `cut`."""

    opcode: int
    begin: int  # of the content
    length: int
    cut: bool = False


@dataclass(frozen=True)
class Damage:
    """Bytes that are no record; `end` is where the next record begins, or the end of the source."""

    begin: int
    end: int
    at_end: bool


def records(source: Source, begin: int) -> Iterator[Record | Damage]:
    """Yield everything from `begin` to the footer or the end; a damage follows the rest of a record that it cut."""
    position = begin
    while position < source.size:
        record = record_at(source, position)
        if record is not None and _goes_on(source, record):
            yield record
            position = record.begin + record.length
            if record.opcode == FOOTER:
                return
            continue
        following = _search(source, position + 1)
        limit = source.size if following is None else following
        if record is not None and record.begin + record.length <= limit:  # it is whole, what comes after it is not
            yield record
            position = record.begin + record.length
        elif source.read(position, 1)[0] == CHUNK and limit > position + HEAD.size:
            yield Record(CHUNK, position + HEAD.size, limit - position - HEAD.size, cut=True)
        if position < limit:
            yield Damage(position, limit, following is None)
        position = limit


def record_at(source: Source, position: int) -> Record | None:
    """Return the record at `position`, or None when there is none that fits into the source."""
    head = source.read(position, HEAD.size)
    if len(head) < HEAD.size:
        return None
    opcode, length = HEAD.unpack(head)
    if not opcode or length < SMALLEST.get(opcode, 0) or position + HEAD.size + length > source.size:
        return None
    return Record(opcode, position + HEAD.size, length)


def _goes_on(source: Source, record: Record) -> bool:
    """True when another record, the end or the closing magic follows; a wrong length is found out so."""
    end = record.begin + record.length
    if end == source.size or record_at(source, end) is not None:
        return True
    if record.opcode == FOOTER:
        return source.size - end <= len(MAGIC)
    if record.opcode == CHUNK:  # its own fields say the same as its length: what is broken comes after it
        head = source.read(record.begin, 40 + 8)
        name = int.from_bytes(head[28:32], "little")
        return name <= 8 and record.length == 40 + name + int.from_bytes(head[32 + name : 40 + name], "little")
    return False


def _search(source: Source, begin: int) -> int | None:
    """Return where the next two records in a row begin at or after `begin`."""
    position, size = begin, _SMALLEST_WINDOW_BYTES  # what is damaged is a few bytes, or much
    while position < source.size:
        window = source.read(position, size + 8).tobytes()
        for match in _CANDIDATE.finditer(window):
            found = position + match.start()
            record = record_at(source, found)
            if record is None:
                continue
            end = record.begin + record.length
            if end == source.size or record_at(source, end) is not None:
                return found
        position, size = position + size, min(2 * size, _WINDOW_BYTES)
    return None
