"""Speed of writing and reading, and what is recovered of damaged files, beside the `mcap` library, checksums compared.

    nice tools/run python benchmarks/bags/storage.py

Times are processor time, the best of several runs. What is recovered is counted in messages that are equal to what was
written; for `mcap` they are those that its reader gives before it raises. Writes `storage`, `recovered` and
`read_speed_ratio_to_mcap` into results.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from kept import keep
from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader, make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from streaming_vla.bags.reader import Bag
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter, WriterOptions

BEGIN_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000
KINDS = {"pictures": (921_676, 250), "small": (120, 60_000)}
"""Bytes of a message, and messages."""
TOPICS = 4
RUNS = 5
DAMAGES = ("kill", "cut", "zeroed", "missing")
Said = tuple[str, int, bytes | memoryview]


def content(size: int, count: int, seed: int = 0) -> list[Said]:
    """Return `count` messages of `size` random bytes on several topics."""
    random = np.random.default_rng(seed)
    pool = random.integers(0, 255, size + 4096, dtype=np.uint8).tobytes()
    begins = random.integers(0, 4096, count)
    return [
        (f"/topic_{place % TOPICS}", BEGIN_NS + place * STEP_NS, pool[begin : begin + size])
        for place, begin in enumerate(begins)
    ]


def write_own(folder: Path, said: list[Said], close: bool = True) -> Path:
    """Write with this project's writer; return the file."""
    writer = BagWriter(folder, WriterOptions(sync_s=600.0))
    kind = "some_msgs/msg/Thing"
    topics = {name: Topic(name, kind, definition="uint8[] data", definition_format="ros2msg") for name, _, _ in said}
    for name, time_ns, data in said:
        writer.write(topics[name], data, time_ns, time_ns, (time_ns - BEGIN_NS) * 1e-9)
        writer.tick((time_ns - BEGIN_NS) * 1e-9)
    if close:
        writer.close(0.0)
    else:
        writer.tick(1e6)
    return folder / f"{folder.name}_0.mcap"


def write_mcap(path: Path, said: list[Said]) -> Path:
    """Write with `mcap` as rosbag2 does."""
    with path.open("wb") as file:
        writer = McapWriter(file, compression=CompressionType.NONE)
        writer.start("ros2")
        channels: dict[str, int] = {}
        schema = writer.register_schema("some_msgs/msg/Thing", "ros2msg", b"uint8[] data")
        for name, time_ns, data in said:
            if name not in channels:
                channels[name] = writer.register_channel(name, "cdr", schema)
            writer.add_message(channels[name], time_ns, data, time_ns)
        writer.finish()
    return path


def read_own(path: Path) -> Iterator[Said]:
    """Yield what this project's reader gives."""
    with Bag(path) as bag:
        for message in bag.messages():
            yield message.topic, message.time_ns, message.data


def read_mcap(path: Path) -> Iterator[Said]:
    """Yield what `mcap` gives: in the order of time of a whole file, of a damaged one as far as it goes."""
    with path.open("rb") as file:
        try:
            reader = make_reader(file, validate_crcs=True)
            reader.get_summary()
        except (McapError, ValueError, OSError):
            file.seek(0)
            reader = NonSeekingReader(file, validate_crcs=True)
        try:
            for _, channel, message in reader.iter_messages(log_time_order=not isinstance(reader, NonSeekingReader)):
                yield channel.topic, message.log_time, message.data
        except Exception:  # whatever it raises, it ends here
            return


def seconds(work: Callable[[int], object]) -> float:
    """Return the least processor time of `work`, which is given the number of the run."""
    found = []
    for run in range(RUNS):
        begin_s = time.process_time()
        work(run)
        found.append(time.process_time() - begin_s)
    return min(found)


def speed(folder: Path, kind: str) -> dict[str, float]:
    """Return megabytes per second of processor time, written and read, of messages of a kind."""
    size, count = KINDS[kind]
    said = content(size, count)
    megabytes = size * count / 1e6
    own = write_own(folder / kind, said)
    other = write_mcap(folder / f"{kind}.mcap", said)
    for path in (own, other):  # with the same result
        assert list(read_own(path)) == list(read_mcap(path)) == said
    times = {
        "write_mb_s": seconds(lambda run: write_own(folder / f"{kind}_own_{run}", said)),
        "write_mb_s_mcap": seconds(lambda run: write_mcap(folder / f"{kind}_mcap_{run}", said)),
        "read_mb_s": seconds(lambda run: sum(1 for _ in read_own(own))),
        "read_mb_s_mcap": seconds(lambda run: sum(1 for _ in read_mcap(own))),
    }
    ratio = {"read_ratio_to_mcap": round(times["read_mb_s_mcap"] / times["read_mb_s"], 2)}
    return {name: round(megabytes / each, 1) for name, each in times.items()} | ratio


def recovered(folder: Path) -> dict[str, dict[str, float]]:
    """Return the part of the messages that comes out of a damaged file."""
    said = content(2_000, 4_000, 1)
    known = set(said)
    found = {}
    for damage in DAMAGES:
        path = write_own(folder / damage, said, close=damage != "kill")
        data = bytearray(path.read_bytes())
        middle, hole = int(0.45 * len(data)), 4096
        if damage == "cut":
            del data[int(0.7 * len(data)) :]
        elif damage == "zeroed":
            data[middle : middle + hole] = bytes(hole)
        elif damage == "missing":
            del data[middle : middle + hole]
        path.write_bytes(data)
        found[damage] = {
            name: round(
                len(known & {(topic, time_ns, bytes(data)) for topic, time_ns, data in read(path)}) / len(said), 4
            )
            for name, read in (("ours", read_own), ("mcap", read_mcap))
        }
    return found


def main() -> None:
    """Entry point of the script."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        speeds = {kind: speed(Path(folder), kind) for kind in KINDS}
        found = {
            "read_speed_ratio_to_mcap": min(each["read_ratio_to_mcap"] for each in speeds.values()),
            "recovered": recovered(Path(folder)),
            "storage": speeds,
        }
    keep(found)


if __name__ == "__main__":
    main()
