"""Reads one sqlite3 file of rosbag2, whole or damaged, in blocks of neighbouring messages.

The tables are described in the ROS package rosbag2_storage_sqlite3.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from streaming_vla.bags.errors import BagError, CorruptBag, EmptyBag, NotABag
from streaming_vla.bags.inflate import MAX_BYTES
from streaming_vla.bags.order import Block, make_block
from streaming_vla.bags.topics import RawMessage, Topic, full_type

MAGIC = b"SQLite format 3\0"
TABLES = ("topics", "messages", "message_definitions", "schema")
MOST_DAMAGES = 1000  # places of one file that are searched around
STALL_S = 5.0  # a query that gives no row for so long is stopped: a damaged index can send it in circles
BLOCK_BYTES, BLOCK_ROWS = 1 << 20, 4096
_CHECK_EVERY = 100_000  # steps of sqlite's virtual machine
_SIZE = f"CASE WHEN typeof(data) = 'blob' AND length(data) <= {MAX_BYTES} THEN length(data) END"

_Row = tuple[int, Any, Any, Any]  # id, topic_id, timestamp, data or their size: a column takes values of every type


class SqliteFile:
    """One .db3 file; `report` is told of every damage that is met.

    Attributes:
        distro: of ROS that recorded it, "" when the file does not tell.

    Raises:
        EmptyBag: the file has no byte.
        NotABag: it is not a database, or not one of rosbag2.
    """

    def __init__(self, path: Path, report: Callable[[BagError], None]) -> None:
        self._path = path
        self._report = report
        if path.stat().st_size == 0:
            raise EmptyBag(f"{path} is empty (0 bytes): the recorder had written nothing yet")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise NotABag(f"{path} does not begin as a sqlite3 file does: is it another kind of file?")
        self._counts: Counter[int] = Counter()
        self._database = self._open()
        try:
            self._check_tables()
            self._topics = self._read_topics()
            self.distro = self._read_distro()
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._database.close()
            raise NotABag(
                f"{path} has no readable table of topics ({error}): it is no bag, or damaged there"
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of the file in its order, once."""
        left_out: Counter[str] = Counter()
        found: dict[int, list[tuple[int, int]]] = {}  # time (ns) and id of the messages of each topic in the block
        first = last = size = rows = 0
        for number, topic_id, time_ns, length in self._scan(_SIZE):
            if topic_id not in self._topics:
                left_out["are of topics that nothing describes"] += 1
                continue
            if not isinstance(time_ns, int) or length is None:
                left_out["have a time that is no whole number, or data that are no bytes"] += 1
                continue
            if rows and (rows >= BLOCK_ROWS or size + length > BLOCK_BYTES):
                yield self._block(first, last, found)
                found, rows, size = {}, 0, 0
            found.setdefault(topic_id, []).append((time_ns, number))
            first, last = number if not rows else first, number
            rows, size = rows + 1, size + length
        if rows:
            yield self._block(first, last, found)
        for what, count in left_out.items():
            self._report(CorruptBag(f"{self._path}: {count} messages {what}, left out"))
        self._topics = {number: replace(topic, count=self._counts[number]) for number, topic in self._topics.items()}

    def topics(self) -> list[Topic]:
        """Return the topics; their counts are known after all blocks."""
        return list(self._topics.values())

    def read(self, source: object, first: int, end: int, topics: Collection[str] | None) -> list[RawMessage]:
        """Return the readable messages whose id lies from `first` to before `end`, those of `topics`."""
        found = []
        for _, topic_id, time_ns, data in self._scan("data", first - 1, end):
            topic = self._topics.get(topic_id)
            if topic is None or not isinstance(time_ns, int) or not isinstance(data, bytes):
                continue  # it was told when the blocks were found
            if topics is None or topic.name in topics:
                found.append(RawMessage(topic.name, time_ns, data, 0, topic))
        return found

    def _block(self, first: int, last: int, found: dict[int, list[tuple[int, int]]]) -> Block:
        for topic_id, pairs in found.items():
            self._counts[topic_id] += len(pairs)
        block = make_block(first, last + 1, None, [(self._topics[each], pairs) for each, pairs in found.items()])
        assert block is not None, "it has rows"
        return block

    def _scan(self, column: str, newest: int = -1, end: int = 1 << 62) -> Iterator[_Row]:
        """Yield every readable row between two ids, whatever the types of its columns are.

        Numbers count from 1 and grow; a damaged tree may lead back to where one has been.
        """
        damages = 0
        while damages < MOST_DAMAGES:
            try:
                for row in self._rows(column, newest, end):
                    if not isinstance(row[0], int) or row[0] <= newest:
                        raise ValueError("the numbers of the messages go back")
                    newest = row[0]
                    yield row
                return
            except (sqlite3.Error, ValueError, OverflowError) as error:
                damages += 1
                following = None if _stalled(error) else self._after_damage(column, newest + 1)
                rest = "nothing after it is readable" if following is None else f"goes on at {following}"
                self._report(CorruptBag(f"{self._path}: damaged after message {newest} ({error}); {rest}"))
                if following is None or following >= end:
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

    def _check_tables(self) -> None:
        """Refuse what only looks like a table: a view or a computed column gives rows without end from a small file."""
        for name, kind, text in self._query("SELECT name, type, sql FROM sqlite_master"):
            if name in TABLES and not str(text).startswith("CREATE TABLE"):
                raise ValueError(f"'{name}' is a {kind}, expected an ordinary table")
        for name in TABLES:
            computed = [row[1] for row in self._query(f"PRAGMA table_xinfo({name})") if row[6]]
            if computed:
                raise ValueError(f"column '{computed[0]}' of '{name}' is computed, expected values")

    def _read_topics(self) -> dict[int, Topic]:
        columns = {row[1] for row in self._query("PRAGMA table_info(topics)")}
        if not columns:
            raise ValueError("no table is called topics")
        qos, type_hash = (
            name if name in columns else "''" for name in ("offered_qos_profiles", "type_description_hash")
        )
        definitions: dict[str, tuple[str, str]] = {}
        if list(self._query("PRAGMA table_info(message_definitions)")):
            rows = self._query("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
            definitions = {full_type(str(name)): (str(encoding), str(text)) for name, encoding, text in rows}
        topics = {}
        for number, name, kind, encoding, profiles, digest in self._query(
            f"SELECT id, name, type, serialization_format, {qos}, {type_hash} FROM topics"
        ):
            full = full_type(str(kind))
            form, text = definitions.get(full, ("", ""))
            topics[int(number)] = Topic(
                str(name), full, 0, str(encoding), text, form, str(profiles or ""), str(digest or "")
            )
        return topics

    def _read_distro(self) -> str:
        if "ros_distro" not in {row[1] for row in self._query("PRAGMA table_info(schema)")}:
            return ""
        return str(next(self._query("SELECT ros_distro FROM schema"), ("",))[0])

    def _rows(self, column: str, after: int, end: int, limit: int = -1) -> Iterator[_Row]:
        query = f"SELECT id, topic_id, timestamp, {column} FROM messages WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
        return self._query(query, after, end, limit)

    def _after_damage(self, column: str, first: int) -> int | None:
        """Return the number of the first readable message from `first` on: search in growing steps, then halve."""
        step = 1
        try:
            while step < 1 << 40 and self._readable(column, first + step) is None:
                step *= 2
            low, high = first, first + step  # at `high` it reads, before `low` it does not
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self._readable(column, middle) is None else (low, middle)
            return self._readable(column, high)
        except sqlite3.OperationalError:  # stalled
            return None

    def _readable(self, column: str, number: int) -> int | None:
        """Return the number of the first message from `number` on; None when it cannot be read or there is none."""
        try:
            rows = list(self._rows(column, number - 1, 1 << 62, 1))
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
