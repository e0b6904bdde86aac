"""Bags by every combination of the options of other writers, in two orders: read as those writers' own readers do.

    nice tools/run python benchmarks/bags/writer_options.py

576 combinations of the options of `mcap`'s writer, with attachments and metadata, and every storage and compression of
`rosbags`; the messages in the order of time, and topic after topic. Writes `writer_options` into results.json.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kept import keep
from mcap.reader import NonSeekingReader
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from streaming_vla.bags.definitions import standard
from streaming_vla.bags.reader import Bag

KIND = "std_msgs/msg/Float64MultiArray"
BEGIN_NS = 1_700_000_000_000_000_000
COUNT = 24
OPTIONS: dict[str, tuple[Any, ...]] = {
    "compression": tuple(CompressionType),
    "use_chunking": (True, False),
    "repeat_schemas": (True, False),
    "repeat_channels": (True, False),
    "use_statistics": (True, False),
    "use_summary_offsets": (True, False),
    "index_types": (IndexType.ALL, IndexType.NONE, IndexType.MESSAGE),
    "enable_crcs": (True, False),
}
Said = list[tuple[str, int, bytes]]


def content() -> Said:
    """Return messages of three topics in the order of time."""
    store = standard()
    layout = store.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return [
        (
            f"/topic_{place % 3}",
            BEGIN_NS + place * 1000,
            bytes(store.serialize_cdr(store.types[KIND](layout=layout, data=np.full(8, place + 0.5)), KIND)),
        )
        for place in range(COUNT)
    ]


def combinations() -> Iterator[dict[str, Any]]:
    """Yield every combination of the options of `mcap`'s writer."""
    for values in itertools.product(*OPTIONS.values()):
        chosen = dict(zip(OPTIONS, values, strict=True))
        yield {**chosen, "enable_data_crcs": chosen["enable_crcs"]}


def write(path: Path, said: Said, options: dict[str, Any]) -> None:
    """Write an MCAP file."""
    text, _ = standard().generate_msgdef(KIND, ros_version=2)
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=600, **options)
        writer.start("ros2", "options")
        channels: dict[str, int] = {}
        for place, (name, time_ns, data) in enumerate(said):
            if name not in channels:
                schema = writer.register_schema(KIND, "ros2msg", text.encode())
                channels[name] = writer.register_channel(name, "cdr", schema)
            writer.add_message(channels[name], time_ns, data, time_ns - 5, place)
            if place == COUNT // 2:
                writer.add_attachment(BEGIN_NS, BEGIN_NS, "note", "text/plain", b"x" * 700)
                writer.add_metadata("about", {"robot": "arm"})
        writer.finish()


def ours(path: Path) -> tuple[Said, int]:
    """Return every message that this project reads, and how many of them are decoded without a problem."""
    with Bag(path) as bag:
        messages = list(bag.messages())
        count = sum(bag.decode(message).data.shape == (8,) for message in messages)
        found = [(message.topic, message.time_ns, bytes(message.data)) for message in messages]
        published = {message.time_ns - message.published_ns for message in messages if message.published_ns}
        assert published <= {5}
        return found, 0 if bag.problems else count


def equal_to_mcap(path: Path, said: Said, options: dict[str, Any]) -> bool:
    """True when a file of these options is read as `mcap` reads it."""
    write(path, said, options)
    with path.open("rb") as file:
        messages = NonSeekingReader(file, validate_crcs=options["enable_crcs"]).iter_messages()
        expected = [(channel.topic, message.log_time, message.data) for _, channel, message in messages]
    return ours(path) == (expected, COUNT)


def equal_to_rosbags(folder: Path, said: Said, storage: StoragePlugin, mode: CompressionMode) -> bool:
    """True when a bag of `rosbags` is read as `rosbags` reads it."""
    writer = Writer(folder, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        names = sorted({name for name, _, _ in said})
        connections = {name: writer.add_connection(name, KIND, typestore=standard()) for name in names}
        for name, time_ns, data in said:
            writer.write(connections[name], time_ns, data)
    with Reader(folder) as reader:
        expected = [(connection.topic, time_ns, bytes(data)) for connection, time_ns, data in reader.messages()]
    with Bag(folder) as bag:
        found = [(message.topic, message.time_ns, bytes(message.data)) for message in bag.messages()]
        return found == expected and not bag.problems


def orders() -> tuple[Said, Said]:
    """Return the messages in the order of time, and topic after topic."""
    said = content()
    return said, sorted(said, key=lambda each: each[0])


def storages() -> list[tuple[StoragePlugin, CompressionMode]]:
    """Return every storage and compression of `rosbags`; sqlite3 has no compression of its own."""
    every = itertools.product(StoragePlugin, CompressionMode)
    return [
        (storage, mode)
        for storage, mode in every
        if (storage, mode) != (StoragePlugin.SQLITE3, CompressionMode.STORAGE)
    ]


def main() -> None:
    """Entry point of the script."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for said in orders():
            for options in combinations():
                results.append(equal_to_mcap(Path(folder) / "bag.mcap", said, options))
            for storage, mode in storages():
                results.append(equal_to_rosbags(Path(folder) / f"{len(results)}", said, storage, mode))
    keep({"writer_options": {"combinations": len(results), "equal": sum(results)}})


if __name__ == "__main__":
    main()
