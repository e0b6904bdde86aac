"""Writes a rosbag2 folder of MCAP files that is readable at every moment, also after `kill -9`.

Messages are collected in chunks; a chunk is handed to the operating system when it is full or `flush_s` old, so a
killed process loses at most what came after the last chunk. What the operating system holds is forced to the disk
(fsync) every `sync_s` and when a file ends: a power cut loses at most that much.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from streaming_vla.bags import metadata
from streaming_vla.bags.metadata import FileSpan
from streaming_vla.bags.recorder_options import MB, WriterOptions
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.written_file import LATEST_NS, WrittenFile


class BagWriter:
    """A bag being written; `tick` must be called at least every `flush_s`, all calls from one thread.

    Args:
        folder: of the bag, must not exist.

    Raises:
        FileExistsError: it does.
    """

    def __init__(self, folder: Path, options: WriterOptions | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.options = options or WriterOptions()
        self._counts: dict[Topic, int] = {}  # of files that are ended
        self._spans: list[FileSpan] = []
        self._file: WrittenFile | None = None

    @property
    def messages(self) -> int:
        """Messages taken so far."""
        return sum(self._counts.values()) + (self._file.messages if self._file is not None else 0)

    @property
    def waiting(self) -> int:
        """Messages of these that the operating system does not have yet; those of a chunk that it took in part too."""
        return self._file.waiting if self._file is not None else 0

    def add_topic(self, topic: Topic) -> None:
        """Declare a topic, which the bag then names also without a message."""
        self._counts.setdefault(topic, 0)

    def write(self, topic: Topic, data: bytes | memoryview, log_ns: int, publish_ns: int, now_s: float) -> None:
        """Take a message; a topic whose type differs from that of another one of its name is kept apart from it.

        Args:
            data: CDR.
            log_ns: when it was received, nanoseconds.
            publish_ns: when it was published.
            now_s: monotonic seconds.

        Raises:
            ValueError: a time that no bag can hold.
            OSError: the disk does not take it.
        """
        if not (0 <= log_ns <= LATEST_NS and 0 <= publish_ns <= LATEST_NS):
            raise ValueError(
                f"the times of a message of {topic.name} are {log_ns} and {publish_ns} ns, expected 0 to 2^64"
            )
        self._current(now_s).add(topic, data, log_ns, publish_ns, now_s)

    def tick(self, now_s: float) -> None:
        """Write what is old enough, and begin a new file when it is time."""
        file = self._file
        if file is None:
            return
        options = self.options
        if file.waiting and now_s - file.waiting_since_s >= options.flush_s:
            file.flush()
        if now_s - file.synced_s >= options.sync_s:
            file.sync(now_s)
        long = options.split_s and now_s - file.begun_s >= options.split_s
        if long or (options.split_mb and file.bytes >= options.split_mb * MB):
            self._end_file(now_s)

    def close(self, now_s: float) -> None:
        """End the last file and write the metadata."""
        self._current(now_s)  # a bag without a message is a bag all the same
        self._end_file(now_s)

    def give_up(self) -> None:
        """End a bag that the disk does not take: what is whole stays and is readable, half a chunk is cut off."""
        if self._file is not None:
            self._file.give_up()
        with suppress(OSError):  # then that of the beginning stays
            self._write_metadata()

    def _current(self, now_s: float) -> WrittenFile:
        if self._file is None:
            path = self.folder / f"{self.folder.name}_{len(self._spans)}.mcap"
            self._file = WrittenFile(path, self.options.compression, self.options.chunk_bytes, now_s)
            self._write_metadata()  # also of a bag that is never closed
        return self._file

    def _end_file(self, now_s: float) -> None:
        if self._file is not None:
            self._file.close(now_s)
            self._spans.append(self._file.span)
            self._counts = self._all_counts()
            self._file = None
            self._write_metadata()

    def _all_counts(self) -> dict[Topic, int]:
        counts = dict(self._counts)
        for topic, count in self._file.counts() if self._file is not None else ():
            counts[topic] = counts.get(topic, 0) + count
        return counts

    def _write_metadata(self) -> None:
        topics: dict[tuple[str, str], Topic] = {}
        for topic, count in self._all_counts().items():
            known = topics.setdefault((topic.name, topic.type), replace(topic, count=0))
            topics[topic.name, topic.type] = replace(known, count=known.count + count)
        spans = [*self._spans, *([self._file.span] if self._file is not None else [])]
        metadata.write(self.folder, list(topics.values()), spans)
