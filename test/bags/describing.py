"""MCAP files with any description of a channel, and their messages decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from making import content
from mcap.writer import Writer as McapWriter

from streaming_vla.bags.reader import Bag

SAID = content()
Channel = tuple[str, str, str, str]  # topic, type, format and text of the definition


def write(path: Path, said: Sequence[tuple[Channel, int, bytes]], **options: Any) -> Path:
    """Write an MCAP file with a channel for each description."""
    path = path.with_suffix(".mcap")
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start("ros2")
        channels: dict[Channel, int] = {}
        for channel, time_ns, data in said:
            if channel not in channels:
                name, kind, form, text = channel
                schema = writer.register_schema(kind, form, text.encode())
                channels[channel] = writer.register_channel(name, "cdr", schema)
            writer.add_message(channels[channel], time_ns, data, time_ns)
        writer.finish()
    return path


def said_by(name: str, count: int = 3) -> list[bytes]:
    return [data for topic_, _, data in SAID if topic_ == name][:count]


def decoded(path: Path) -> list[Any]:
    with Bag(path) as bag:
        found = [bag.decode(message) for message in bag.messages()]
        assert bag.problems == []
    return found
