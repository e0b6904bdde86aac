"""Writes what is readable of a bag as a new one, which every program can open and decode."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from streaming_vla.bags.definitions import definition
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.recorder_options import WriterOptions
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter


def repair(path: Path, target: Path, compression: str = "none") -> tuple[int, list[str]]:
    """Copy every readable message of the bag `path` to the new bag `target`, which is there when all of it is.

    A type that the bag does not define gets the definition of the ROS 2 that recorded it.

    Returns:
        messages copied, and one sentence for each damage that was met and for each type that nobody defines.

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
        defined = _defining(bag.distro)
        for topic in bag.descriptions:
            writer.add_topic(defined(topic))
        for message in bag.messages():
            if message.time_ns < 0:  # a damaged row: no bag can hold it
                timeless += 1
                continue
            topic = defined(message.described or bag.topics[message.topic])
            writer.write(topic, message.data, message.time_ns, message.published_ns or message.time_ns, 0.0)
        writer.close(0.0)
        problems = [str(problem) for problem in bag.problems]
        new.rename(target)
    if timeless:
        problems.append(f"{path}: {timeless} messages are left out, their time lies before 1970")
    for topic in bag.descriptions:
        if not defined(topic).definition:
            problems.append(
                f"topic {topic.name}: nothing defines its type {topic.type}, so other programs need it installed to "
                "read its messages"
            )
    return writer.messages, problems


def _defining(distro: str) -> Callable[[Topic], Topic]:
    """Return what gives a topic the definition of its type, where there is one, and no count."""

    @cache
    def defined(topic: Topic) -> Topic:
        text, form = definition(topic, distro)
        return replace(topic, count=0, definition=text, definition_format=form)

    return defined
