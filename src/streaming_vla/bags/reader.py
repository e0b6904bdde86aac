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
from streaming_vla.bags.inflate import FREE_BYTES, LARGEST_RATIO, ZSTD_MAGIC, inflate_message
from streaming_vla.bags.mcap_file import McapFile
from streaming_vla.bags.order import Block, Clock, Piece, merged
from streaming_vla.bags.sqlite_file import SqliteFile
from streaming_vla.bags.topics import RawMessage, Topic

_COPY_BYTES = 1 << 20


class Bag:
    """A recording; a context manager that frees files at its end.

    Damage does not stop the reading: it is kept in `problems`, one sentence each, and whatever is readable is read.

    Args:
        path: folder of rosbag2, or one storage file.

    Attributes:
        topics: by name, each as it is described first.
        descriptions: every topic as every publisher describes it, each once.
        problems: what was found damaged so far; grows while messages are read.
        begin_ns: time of the first message, None when nothing tells.
        end_ns: time of the last one.
        distro: ROS 2 that recorded the bag, "" when it does not tell.

    Raises:
        NotABag: there is no bag at `path`.
        EmptyBag: it holds no message.
        TruncatedBag, CorruptBag: it is damaged, and no message of it is readable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, Topic] = {}
        self.descriptions: dict[Topic, None] = {}
        self.problems: list[BagError] = []
        self.begin_ns: int | None = None
        self.end_ns: int | None = None
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        self._said: set[str] = set()
        found = metadata.find(path)
        self._messages_compressed = found.messages_compressed
        for problem in found.problems:
            self._report(problem)
        self._pieces: list[Piece] = []
        self._databases: list[SqliteFile] = []
        self.distro = found.distro
        try:
            self._open(found)
        except BaseException:
            self.close()
            raise
        self._decoder = Decoder(self.topics, self.distro, self._report)

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

    def type_of(self, message: RawMessage) -> str:
        """Return the type of a message: publishers of one topic may differ in it."""
        return (message.described or self.topics[message.topic]).type

    def missing(self, topic: Topic) -> list[str]:
        """Return the fields of the suite's own type that the bag's type of that name lacks; WrongType when unknown."""
        return self._decoder.missing(topic)

    def require(self, name: str, types: Collection[str] = ()) -> Topic:
        """Return the topic `name`, of publishers with different types as one of `types` describes it.

        Raises:
            MissingTopic: it is not in the bag; the message names the topics that are.
            WrongType: no publisher of it is of one of `types`.
        """
        topic = self.topics.get(name)
        if topic is None:
            there = ", ".join(f"{each.name} ({each.type})" for each in self.topics.values())
            raise MissingTopic(f"{self.path} has no topic {name}; its topics are {there or 'none'}")
        if types and topic.type not in types:
            others = [each for each in self.descriptions if each.name == name and each.type in types]
            if not others:
                raise WrongType(
                    f"{self.path}: topic {name} is of type {topic.type}, expected {' or '.join(sorted(types))}"
                )
            return replace(others[0], count=topic.count)
        return topic

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last message, as far as the bag tells before it is read."""
        if self.begin_ns is None or self.end_ns is None:
            return 0.0
        return (self.end_ns - self.begin_ns) * 1e-9

    def close(self) -> None:
        """Close files and remove what was unpacked."""
        for database in self._databases:
            database.close()
        self._databases = []
        if self._unpacked is not None:
            self._unpacked.cleanup()
            self._unpacked = None

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, found: metadata.BagFiles) -> None:
        refusals: list[BagError] = []
        clock = Clock(str(self.path), self._report)
        opened = 0
        for path in found.files:
            try:
                file = self._file(path)
                for block in file.blocks():
                    self._pieces += clock.pieces(file, block)
                    self._span(block)
            except (EmptyBag, NotABag) as refusal:  # of a split bag the other files count
                refusals.append(refusal)
                continue
            except OSError as error:
                raise NotABag(f"{path} cannot be read: {error.strerror or error}") from error
            opened += 1
            for topic in file.topics():
                self._learn(topic)
        if not opened:
            raise refusals[0]
        for each in refusals:
            self._report(each)
        for problem in found.disagreements(self.topics):
            self._report(problem)
        if not self._pieces:
            damage = [each for each in self.problems if isinstance(each, TruncatedBag | CorruptBag)]
            if damage:
                raise type(damage[0])(f"{damage[0]}; no message of it is readable")
            raise EmptyBag(f"{self.path} holds no message: was anything published while it was recorded?")

    def _file(self, path: Path) -> McapFile | SqliteFile:
        if path.suffix == ".zstd":
            path = self._unpack(path)
        if path.suffix != ".db3":
            return McapFile(path, self._report)
        database = SqliteFile(path, self._report)
        self._databases.append(database)
        self.distro = self.distro or database.distro
        return database

    def _learn(self, topic: Topic) -> None:
        self.descriptions.setdefault(replace(topic, count=0))
        known = self.topics.get(topic.name)
        if known is None:
            self.topics[topic.name] = topic
            return
        if known.type != topic.type:
            self._report(
                WrongType(
                    f"{self.path}: topic {topic.name} has types {known.type} and {topic.type}; each message is read as "
                    "what it is"
                )
            )
        self.topics[topic.name] = replace(known, count=known.count + topic.count)  # of another file or publisher

    def _span(self, block: Block) -> None:
        self.begin_ns = block.begin_ns if self.begin_ns is None else min(self.begin_ns, block.begin_ns)
        self.end_ns = block.end_ns if self.end_ns is None else max(self.end_ns, block.end_ns)

    def _selected(
        self, topics: frozenset[str] | None, retime: Callable[[RawMessage], RawMessage] | None
    ) -> Iterator[RawMessage]:
        for message in merged(self._pieces, topics, retime):
            # whoever was killed left no metadata that would tell; no message begins like that
            if self._messages_compressed or message.data[:4] == ZSTD_MAGIC:
                try:
                    message.data = inflate_message(memoryview(message.data))
                except ValueError as error:
                    self._report(CorruptBag(f"{self.path}: messages of {message.topic} are left out: {error}"))
                    continue
            yield message

    def _unpack(self, path: Path) -> Path:
        """Return the content of a file that was compressed as a whole, in a temporary folder."""
        if self._unpacked is None:
            self._unpacked = tempfile.TemporaryDirectory(prefix="bag_")
        target = Path(self._unpacked.name) / path.stem
        room = shutil.disk_usage(self._unpacked.name).free // 2
        most = left = max(FREE_BYTES, LARGEST_RATIO * path.stat().st_size)
        with path.open("rb") as packed, target.open("wb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            try:
                while piece := reader.read(_COPY_BYTES):
                    room, left = room - len(piece), left - len(piece)
                    if left < 0:
                        raise NotABag(
                            f"{path} unpacks to more than {most} bytes, which no recording is compressed from"
                        )
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
