"""What the summary of an MCAP file says, and whether its data agree."""

from __future__ import annotations

import zlib
from collections import Counter
from io import BytesIO
from typing import Any

from mcap import records as mcap
from mcap.data_stream import ReadDataStream
from mcap.reader import NonSeekingReader
from mcap.summary import Summary

from streaming_vla.bags.mcap_records import (
    CHUNK,
    DATA_END,
    FOOTER,
    HEAD,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    Damage,
    record_at,
    records,
)
from streaming_vla.bags.source import Source

FOOTER_BYTES = HEAD.size + 20 + len(MAGIC)
LARGEST_BYTES = 1 << 28


def read_summary(source: Source) -> Summary | None:
    """Return what the summary says; None when there is none, or nothing proves that it is what was written."""
    begin = source.size - FOOTER_BYTES
    record = record_at(source, begin) if begin > 0 else None
    if record is None or record.opcode != FOOTER or source.read(source.size - len(MAGIC), len(MAGIC)) != MAGIC:
        return None
    footer = parsed(mcap.Footer, source.read(record.begin, record.length))
    length = source.size - footer.summary_start
    if not footer.summary_crc or not len(MAGIC) < footer.summary_start < begin or length > LARGEST_BYTES:
        return None
    content = source.read(footer.summary_start, length)
    if zlib.crc32(content[: -4 - len(MAGIC)]) != footer.summary_crc:
        return None
    try:
        return NonSeekingReader(BytesIO(MAGIC + content)).get_summary()
    except Exception:  # the library meets arbitrary bytes
        return None


def agrees(source: Source, summary: Summary) -> bool:
    """True when records and message indexes of the whole file count the messages that the summary does.

    Then the indexes may be taken for the times of the messages, and the summary for their types.
    """
    counts: Counter[int] = Counter()
    chunk_without_index = False
    for record in records(source, len(MAGIC)):
        if isinstance(record, Damage) or (chunk_without_index and record.opcode != MESSAGE_INDEX):
            return False
        chunk_without_index = record.opcode == CHUNK
        if record.opcode == DATA_END:
            break
        if record.opcode in (MESSAGE, MESSAGE_INDEX):
            head = source.read(record.begin, 6)
            count = int.from_bytes(head[2:6], "little") // 16 if record.opcode == MESSAGE_INDEX else 1
            if record.opcode == MESSAGE_INDEX and record.length != 6 + 16 * count:
                return False
            counts[int.from_bytes(head[:2], "little")] += count
    told = summary.statistics
    known = summary.channels.keys() >= counts.keys() and all(
        not channel.schema_id or channel.schema_id in summary.schemas for channel in summary.channels.values()
    )
    return known and (
        told is None or {number: count for number, count in told.channel_message_counts.items() if count} == counts
    )


def parsed(kind: Any, content: memoryview) -> Any:
    """Return the record of a class of `mcap.records` that `content` holds."""
    return kind.read(ReadDataStream(BytesIO(content)))
