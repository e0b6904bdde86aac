"""Reads a rosbag2 recording: MCAP or sqlite3, split, compressed, whole or damaged; the memory does not grow with it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import zstandard

from streaming_vla.bags import metadata
from streaming_vla.bags.definitions import Decoder
from streaming_vla.bags.errors import BagError, CorruptBag, EmptyBag, MissingTopic, NotABag, TruncatedBag, WrongType
from streaming_vla.bags.inflate import ZSTD_MAGIC, inflate_message
from streaming_vla.bags.mcap_file import McapFile
from streaming_vla.bags.order import ordered
from streaming_vla.bags.sqlite_file import SqliteFile
from streaming_vla.bags.topics import RawMessage, Topic

_COPY_BYTES = 1 << 20


class Bag:
    """A recording; a context manager that frees files at its end.

    Damage does not stop the reading: it is kept in `problems`, one sentence each, and whatever is readable is read.

    Args:
        path: folder of rosbag2, or one storage file.

    Attributes:
        topics: by name.
        problems: what was found damaged so far; grows while messages are read.
        begin_ns: time of the first message, None when nothing tells.
        end_ns: time of the last one.

    Raises:
        NotABag: there is no bag at `path`.
        EmptyBag: it holds no message.
        TruncatedBag, CorruptBag: it is damaged, and no message of it is readable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}
        self.problems: list[BagError] = []
        self.begin_ns: int | None = None
        self.end_ns: int | None = None
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        self._said: set[str] = set()
        found = metadata.find(path)
        self._messages_compressed = found.messages_compressed
        for problem in found.problems:
            self._report(problem)
        self._files: list[McapFile | SqliteFile] = []
        try:
            self._open(found.files)
        except BaseException:
            self.close()
            raise
        self._decoder = Decoder(self.topics)

    def messages(
        self, topics: Collection[str] | None = None, retime: Callable[[RawMessage], RawMessage] | None = None
    ) -> Iterator[RawMessage]:
        """Yield the messages in the order of their time.

        Args:
            topics: that are wanted, None for all.
            retime: gives messages another time before they are put in order.

        Raises:
            MissingTopic: a topic is not in the bag.
        """
        if topics is not None:
            for name in topics:
                self.require(name)
        return self._selected(None if topics is None else frozenset(topics), retime)

    def decode(self, message: RawMessage) -> Any:
        """Return a message as an object with the fields of its type; WrongType when it cannot be read."""
        return self._decoder.decode(message)

    def missing(self, topic: Topic) -> list[str]:
        """Return the fields of the suite's own type that the bag's type of that name lacks; WrongType when unknown."""
        return self._decoder.missing(topic)

    def require(self, name: str, types: Collection[str] = ()) -> Topic:
        """Return the topic `name`.

        Raises:
            MissingTopic: it is not in the bag; the message names the topics that are.
            WrongType: its type is not one of `types`.
        """
        topic = self.topics.get(name)
        if topic is None:
            there = ", ".join(f"{each.name} ({each.type})" for each in self.topics.values())
            raise MissingTopic(f"{self.path} has no topic {name}; its topics are {there or 'none'}")
        if types and topic.type not in types:
            raise WrongType(f"{self.path}: topic {name} is of type {topic.type}, expected {' or '.join(sorted(types))}")
        return topic

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last message, as far as the bag tells before it is read."""
        if self.begin_ns is None or self.end_ns is None:
            return 0.0
        return (self.end_ns - self.begin_ns) * 1e-9

    def close(self) -> None:
        """Close files and remove what was unpacked."""
        for file in self._files:
            if isinstance(file, SqliteFile):
                file.close()
        self._files = []
        if self._unpacked is not None:
            self._unpacked.cleanup()
            self._unpacked = None

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, paths: Collection[Path]) -> None:
        refusals: list[BagError] = []
        for path in paths:
            try:
                file = self._file(path)
            except (EmptyBag, NotABag) as refusal:  # of a split bag the other files count
                refusals.append(refusal)
                continue
            except OSError as error:
                raise NotABag(f"{path} cannot be read: {error.strerror or error}") from error
            self._files.append(file)
            self._learn(file)
        if not self._files:
            raise refusals[0]
        for each in refusals:
            self._report(each)
        if not sum(topic.count for topic in self.topics.values()) and not self._any_message():
            damage = [each for each in self.problems if isinstance(each, TruncatedBag | CorruptBag)]
            if damage:
                raise type(damage[0])(f"{damage[0]}; no message of it is readable")
            raise EmptyBag(f"{self.path} holds no message: was anything published while it was recorded?")

    def _file(self, path: Path) -> McapFile | SqliteFile:
        if path.suffix == ".zstd":
            path = self._unpack(path)
        return SqliteFile(path, self._report) if path.suffix == ".db3" else McapFile(path, self._report)

    def _learn(self, file: McapFile | SqliteFile) -> None:
        if isinstance(file, SqliteFile):
            topics = list(file.topics().values())
            span = file.span_ns()
        else:
            described = file.topics()
            topics = [described.topic(number) for number in described.channels]
            both = described.begin_ns is not None and described.end_ns is not None
            span = (described.begin_ns or 0, described.end_ns or 0) if both else None
        for topic in topics:
            known = self.topics.get(topic.name)
            if known is None:
                self.topics[topic.name] = topic
            elif known.type == topic.type:  # in another file, or of another publisher
                self.topics[topic.name] = replace(known, count=known.count + topic.count)
            else:
                self._report(
                    WrongType(
                        f"{self.path}: topic {topic.name} has types {known.type} and {topic.type}; the first counts"
                    )
                )
        if span is not None:
            self.begin_ns = span[0] if self.begin_ns is None else min(self.begin_ns, span[0])
            self.end_ns = span[1] if self.end_ns is None else max(self.end_ns, span[1])

    def _any_message(self) -> bool:
        return next(iter(self._selected(None)), None) is not None

    def _selected(
        self, topics: frozenset[str] | None, retime: Callable[[RawMessage], RawMessage] | None = None
    ) -> Iterator[RawMessage]:
        found = (message for file in self._files for message in file.messages())
        wanted = (message for message in found if topics is None or message.topic in topics)
        for message in ordered(map(retime, wanted) if retime else wanted, str(self.path), self._report):
            # whoever was killed left no metadata that would tell; no message begins like that
            if not self._messages_compressed and message.data[:4] != ZSTD_MAGIC:
                yield message
                continue
            try:
                yield replace(message, data=inflate_message(memoryview(message.data)))
            except ValueError as error:
                self._report(CorruptBag(f"{self.path}: messages of {message.topic} are left out: {error}"))

    def _unpack(self, path: Path) -> Path:
        """Return the content of a file that was compressed as a whole, in a temporary folder."""
        if self._unpacked is None:
            self._unpacked = tempfile.TemporaryDirectory(prefix="bag_")
        target = Path(self._unpacked.name) / path.stem
        room = shutil.disk_usage(self._unpacked.name).free // 2
        with path.open("rb") as packed, target.open("wb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            try:
                while piece := reader.read(_COPY_BYTES):
                    room -= len(piece)
                    if room < 0:
                        raise NotABag(f"{path} needs more room than {self._unpacked.name} has: unpack it with zstd -d")
                    file.write(piece)
            except zstandard.ZstdError as error:
                self._report(CorruptBag(f"{path} cannot be decompressed to its end ({error}); what came out is read"))
        return target

    def _report(self, problem: BagError) -> None:
        if str(problem) not in self._said:  # a second reading says the same
            self._said.add(str(problem))
            self.problems.append(problem)
