"""Writes what is readable of a damaged bag as a new one, which every program can open."""

from __future__ import annotations

import tempfile
from pathlib import Path

from streaming_vla.bags.reader import Bag
from streaming_vla.bags.recorder_options import WriterOptions
from streaming_vla.bags.writer import BagWriter


def repair(path: Path, target: Path, compression: str = "none") -> tuple[int, list[str]]:
    """Copy every readable message of the bag `path` to the new bag `target`, which is there when all of it is.

    Returns:
        messages copied, and one sentence for each damage that was met.

    Raises:
        BagError: nothing of the bag is readable.
        FileExistsError: `target` exists.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists: name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    timeless = 0
    with Bag(path) as bag, tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as half:
        new = Path(half) / target.name
        writer = BagWriter(new, WriterOptions().changed(compression=compression, split_mb=0.0))
        for topic in bag.topics.values():
            writer.add_topic(topic)
        for message in bag.messages():
            if message.time_ns < 0:  # a damaged row: no bag can hold it
                timeless += 1
                continue
            writer.write(message.topic, message.data, message.time_ns, message.published_ns or message.time_ns, 0.0)
        writer.close(0.0)
        problems = [str(problem) for problem in bag.problems]
        new.rename(target)
    if timeless:
        problems.append(f"{path}: {timeless} messages are left out, their time lies before 1970")
    return writer.messages, problems
