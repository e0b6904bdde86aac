"""Writes what is readable of a damaged bag as a new one, which every program can open."""

from __future__ import annotations

from pathlib import Path

from streaming_vla.bags.reader import Bag
from streaming_vla.bags.writer import BagWriter, WriterOptions


def repair(path: Path, target: Path, compression: str = "none") -> tuple[int, list[str]]:
    """Copy every readable message of the bag `path` to the new bag `target`.

    Returns:
        messages copied, and one sentence for each damage that was met.

    Raises:
        BagError: nothing of the bag is readable.
        FileExistsError: `target` exists.
    """
    with Bag(path) as bag:
        writer = BagWriter(target, WriterOptions(compression, flush_s=3600.0, sync_s=3600.0))
        for topic in bag.topics.values():
            writer.add_topic(topic)
        for message in bag.messages():
            published_ns = message.published_ns or message.time_ns
            writer.write(message.topic, message.data, message.time_ns, published_ns, 0.0)
        writer.close(0.0)
        return writer.messages, [str(problem) for problem in bag.problems]
