"""Reads one sqlite3 file of rosbag2, whole or damaged, in the order in which it was written.

The tables are described in the ROS package rosbag2_storage_sqlite3.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from streaming_vla.bags.errors import BagError, CorruptBag, EmptyBag, NotABag
from streaming_vla.bags.topics import RawMessage, Topic

MAGIC = b"SQLite format 3\0"
MOST_DAMAGES = 1000  # places of one file that are searched around
STALL_S = 5.0  # a query that gives no row for so long is stopped: a damaged index can send it in circles
_CHECK_EVERY = 100_000  # steps of sqlite's virtual machine

_Row = tuple[int, Any, Any, Any]  # id, topic_id, timestamp, data: a column takes values of every type


class SqliteFile:
    """One .db3 file; `report` is told of every damage that is met.

    Raises:
        EmptyBag: the file has no byte.
        NotABag: it is not a database, or not one of rosbag2.
    """

    def __init__(self, path: Path, report: Callable[[BagError], None]) -> None:
        self._path = path
        self._report = report
        size = path.stat().st_size
        if size == 0:
            raise EmptyBag(f"{path} is empty (0 bytes): the recorder had written nothing yet")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise NotABag(f"{path} does not begin as a sqlite3 file does: is it another kind of file?")
        self._database = self._open()
        try:
            self._topics = self._read_topics()
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._database.close()
            raise NotABag(
                f"{path} has no readable table of topics ({error}): it is no bag, or damaged there"
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def topics(self) -> dict[int, Topic]:
        """Return the topics by their number in the file."""
        return self._topics

    def span_ns(self) -> tuple[int, int] | None:
        """Return the first and the last time, or None when there is no message or it cannot be read."""
        try:
            ((begin_ns, end_ns),) = self._query("SELECT MIN(timestamp), MAX(timestamp) FROM messages")
        except (sqlite3.Error, ValueError):
            return None
        return (begin_ns, end_ns) if isinstance(begin_ns, int) and isinstance(end_ns, int) else None

    def messages(self) -> Iterator[RawMessage]:
        """Yield every readable message in the order of the file."""
        skipped: Counter[str] = Counter()
        for topic_id, time_ns, data in self._scan():
            if topic_id not in self._topics:
                skipped["are of topics that nothing describes"] += 1
            elif not isinstance(time_ns, int) or not isinstance(data, bytes):
                skipped["have a time that is no whole number, or data that are no bytes"] += 1
            else:
                yield RawMessage(self._topics[topic_id].name, time_ns, data)
        for what, count in skipped.items():
            self._report(CorruptBag(f"{self._path}: {count} messages {what}, left out"))

    def _scan(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield topic, time and data of every row that can be read, whatever their types are."""
        newest = -1  # numbers count from 1 and grow; a damaged tree may lead back to where one has been
        damages = 0
        while damages < MOST_DAMAGES:
            try:
                for number, topic_id, time_ns, data in self._rows(newest):
                    if number <= newest:
                        raise ValueError("the numbers of the messages go back")
                    newest = number
                    yield topic_id, time_ns, data
                return
            except (sqlite3.Error, ValueError, OverflowError) as error:
                damages += 1
                following = None if _stalled(error) else self._after_damage(newest + 1)
                rest = "nothing after it is readable" if following is None else f"goes on at {following}"
                self._report(CorruptBag(f"{self._path}: damaged after message {newest} ({error}); {rest}"))
                if following is None:
                    return
                newest = following - 1

    def _open(self) -> sqlite3.Connection:
        # a journal that was not merged belongs to the data; without one nothing may be written beside the bag
        mode = "mode=ro" if self._path.with_name(f"{self._path.name}-wal").exists() else "immutable=1"
        database = sqlite3.connect(f"file:{quote(str(self._path.absolute()))}?{mode}", uri=True)
        database.text_factory = lambda data: data.decode(errors="replace")
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA writable_schema=ON")  # else sqlite refuses a file that is shorter than it says
        return database

    def _read_topics(self) -> dict[int, Topic]:
        columns = {row[1] for row in self._query("PRAGMA table_info(topics)")}
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        definitions: dict[str, tuple[str, str]] = {}
        if list(self._query("PRAGMA table_info(message_definitions)")):
            rows = self._query("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
            definitions = {str(name): (str(encoding), str(text)) for name, encoding, text in rows}
        topics = {}
        counts = self._counts()
        for number, name, kind, encoding, profiles in self._query(
            f"SELECT id, name, type, serialization_format, {qos} FROM topics"
        ):
            form, text = definitions.get(str(kind), ("", ""))
            topics[int(number)] = Topic(
                str(name), str(kind), counts.get(int(number), 0), str(encoding), text, form, str(profiles)
            )
        if not columns:
            raise ValueError("no table is called topics")
        return topics

    def _counts(self) -> dict[int, int]:
        try:
            rows = list(self._query("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        except (sqlite3.Error, ValueError):
            return {}  # damaged: the messages are counted by whoever reads them
        return {topic_id: count for topic_id, count in rows if isinstance(topic_id, int)}

    def _rows(self, after: int, limit: int = -1) -> Iterator[_Row]:
        query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id LIMIT ?"
        return self._query(query, after, limit)

    def _after_damage(self, first: int) -> int | None:
        """Return the number of the first readable message from `first` on: search in growing steps, then halve."""
        step = 1
        try:
            while step < 1 << 40 and self._readable(first + step) is None:
                step *= 2
            low, high = first, first + step  # at `high` it reads, before `low` it does not
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self._readable(middle) is None else (low, middle)
            return self._readable(high)
        except sqlite3.OperationalError:  # stalled
            return None

    def _readable(self, number: int) -> int | None:
        """Return the number of the first message from `number` on; None when it cannot be read or there is none."""
        try:
            rows = list(self._rows(number - 1, 1))
        except (sqlite3.Error, ValueError, OverflowError) as error:
            if _stalled(error):
                raise
            return None
        return rows[0][0] if rows and rows[0][0] >= number else None

    def _query(self, query: str, *arguments: int) -> Iterator[Any]:
        """Yield the rows of a query; one that stalls is interrupted."""
        limit_s = monotonic() + STALL_S

        def stalled() -> bool:
            return monotonic() > limit_s

        self._database.set_progress_handler(stalled, _CHECK_EVERY)
        for row in self._database.execute(query, arguments):
            yield row
            limit_s = monotonic() + STALL_S  # what the receiver did meanwhile is no stall


def _stalled(error: Exception) -> bool:
    return "interrupted" in str(error)
