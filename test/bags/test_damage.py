"""Damaged bags: one sentence for what is broken, and everything that is readable is read."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from making import BEGIN_NS, STATE, STEP_NS, STEPS, TYPES, Content, content, topic, write_own, write_rosbags
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from streaming_vla.bags.errors import BagError, ClockJump, CorruptBag, EmptyBag, NotABag, TruncatedBag, WrongType
from streaming_vla.bags.mcap_records import CHUNK, Record, records
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.recorder_options import WriterOptions
from streaming_vla.bags.repair import repair
from streaming_vla.bags.source import MemorySource
from streaming_vla.bags.writer import BagWriter

SAID = content()
WAYS = {name: WriterOptions(chunk_bytes=6000).changed(compression=name) for name in ("none", "zstd", "lz4")}


def read(path: Path) -> tuple[Content, list[BagError]]:
    with Bag(path) as bag:
        found = [(message.topic, message.time_ns, bytes(message.data)) for message in bag.messages()]
        for problem in bag.problems:
            assert str(problem).count("\n") == 0
            assert str(path) in str(problem)
        return found, list(bag.problems)


def kinds(problems: list[BagError]) -> set[type[BagError]]:
    return {type(problem) for problem in problems}


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_breaks_off_is_read_to_its_end(tmp_path: Path, way: str) -> None:
    folder = write_own(tmp_path / "bag", SAID, WAYS[way])
    file = folder / "bag_0.mcap"
    whole = file.read_bytes()
    counts = []
    for part in (0.3, 0.5, 0.7, 0.9):
        file.write_bytes(whole[: int(part * len(whole))])
        found, problems = read(folder)
        assert found == SAID[: len(found)]
        assert kinds(problems) == {TruncatedBag} or kinds(problems) == {TruncatedBag, CorruptBag}
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[0] > 0.15 * len(SAID)
    assert counts[-1] > 0.7 * len(SAID)


def test_messages_of_a_cut_chunk_are_read(tmp_path: Path) -> None:
    """One chunk holds everything: what stands before the cut comes out, to the message."""
    folder = write_own(tmp_path / "bag", SAID, WriterOptions(chunk_bytes=1 << 20, flush_s=60.0))
    file = folder / "bag_0.mcap"
    whole = file.read_bytes()
    place = whole.find(SAID[100][2])  # the image of step 20
    file.write_bytes(whole[: place + 100])
    found, _ = read(folder)
    assert found == SAID[:100]


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_chunk_costs_its_own_messages_only(tmp_path: Path, way: str) -> None:
    folder = write_own(tmp_path / "bag", SAID, WAYS[way])
    file = folder / "bag_0.mcap"
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xaa" * 40
    file.write_bytes(data)
    found, problems = read(folder)
    same = [message for message in found if message in SAID]
    assert len(same) > 0.8 * len(SAID)
    assert found[-1] == SAID[-1]
    assert CorruptBag in kinds(problems)


def test_the_first_chunk_does_not_take_the_definitions_with_it(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "bag", SAID, WAYS["zstd"])
    file = folder / "bag_0.mcap"
    data = bytearray(file.read_bytes())
    place = data.find(b"\x28\xb5\x2f\xfd")  # the first compressed frame
    data[place : place + 60] = bytes(60)
    file.write_bytes(data[:-20])  # and no footer
    found, _ = read(folder)
    assert len([message for message in found if message in SAID]) > 0.8 * len(SAID)


def test_a_wrong_length_is_passed_over(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "bag", SAID, WAYS["none"])
    file = folder / "bag_0.mcap"
    data = bytearray(file.read_bytes())
    with Bag(folder) as bag:
        assert bag.problems == []
    place = data.find(b"\x06", len(data) // 3)
    while int.from_bytes(data[place + 1 : place + 9], "little") > 20_000 or data[place + 2 : place + 9].count(0) < 5:
        place = data.find(b"\x06", place + 1)
    data[place + 1 : place + 9] = (1 << 36).to_bytes(8, "little")
    file.write_bytes(data)
    found, problems = read(folder)
    assert found[-1] == SAID[-1]
    assert len(found) > 0.8 * len(SAID)
    assert CorruptBag in kinds(problems)


@pytest.mark.parametrize("opcode", [0x10, 0x20, 0x7F, 0x80, 0x90, 0xFF])
@pytest.mark.parametrize("size", [0, 30, 3_000_000])
@pytest.mark.parametrize("way", ["none", "zstd"])
def test_records_that_the_format_does_not_define_yet_are_ignored(
    tmp_path: Path, opcode: int, size: int, way: str
) -> None:
    """As its specification asks for; in front of a chunk, where other programs put theirs."""
    file = next(write_own(tmp_path / "bag", SAID, WAYS[way]).glob("*.mcap"))
    data = file.read_bytes()
    chunks = [each for each in records(MemorySource(data), 8) if isinstance(each, Record) and each.opcode == CHUNK]
    place = chunks[1].begin - 9
    more = bytes([opcode]) + size.to_bytes(8, "little") + b"\x07" * size
    (tmp_path / "more.mcap").write_bytes(data[:place] + more + data[place:])
    assert read(tmp_path / "more.mcap") == (SAID, [])


@pytest.mark.parametrize("part", [0.4, 0.8])
def test_a_cut_database_is_read_as_far_as_it_goes(tmp_path: Path, part: float) -> None:
    folder = write_rosbags(tmp_path / "bag", SAID, StoragePlugin.SQLITE3)
    file = next(folder.glob("*.db3"))
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data)) // 4096 * 4096])
    found, problems = read(folder)
    assert found
    assert all(message in SAID for message in found)
    assert CorruptBag in kinds(problems)


def test_a_damaged_page_of_a_database_is_passed_over(tmp_path: Path) -> None:
    folder = write_rosbags(tmp_path / "bag", content(200), StoragePlugin.SQLITE3)
    file = next(folder.glob("*.db3"))
    data = bytearray(file.read_bytes())
    pages = len(data) // 4096
    place = (pages // 2) * 4096
    data[place : place + 4096] = b"\xff" * 4096
    file.write_bytes(data)
    found, problems = read(folder)
    assert len(found) > 900
    assert kinds(problems) <= {CorruptBag}


def test_rows_of_a_database_that_are_no_messages_are_told(tmp_path: Path) -> None:
    folder = write_rosbags(tmp_path / "bag", SAID, StoragePlugin.SQLITE3)
    with sqlite3.connect(next(folder.glob("*.db3"))) as database:
        database.execute("UPDATE messages SET topic_id = 99 WHERE id <= 3")
        database.execute("UPDATE messages SET timestamp = 'noon' WHERE id = 4")
        database.execute("UPDATE messages SET data = 'text' WHERE id = 5")
    found, problems = read(folder)
    assert found == SAID[5:]
    assert [str(problem).split(": ", 1)[1] for problem in problems] == [
        "3 messages are of topics that nothing describes, left out",
        "2 messages have a time that is no whole number, or data that are no bytes, left out",
        f"messages that metadata.yaml tells of are not there: {', '.join(f'39 of 40 of {name}' for name in TYPES)} are "
        "readable",
    ]


def test_a_repaired_bag_tells_when_its_messages_were_published(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag")
    for name, time_ns, data in SAID:
        if name == STATE:
            writer.write(topic(name), data, time_ns, time_ns - 7_000_000, 0.0)
    writer.tick(10.0)  # and never closed
    count, problems = repair(tmp_path / "bag", tmp_path / "whole")
    assert count == STEPS and len(problems) == 1
    with Bag(tmp_path / "whole") as bag:
        assert {message.time_ns - message.published_ns for message in bag.messages()} == {7_000_000}


def test_what_no_bag_can_hold_is_left_out_of_a_repaired_one(tmp_path: Path) -> None:
    """And a repair that fails in the middle leaves nothing behind that would be in the way of the next."""
    writer = BagWriter(tmp_path / "bag")
    damaged = replace(topic(STATE), qos="- {history: [")
    for name, time_ns, data in SAID:
        if name == STATE:
            writer.write(damaged, data, time_ns, time_ns, 0.0)
    writer.tick(10.0)
    count, _ = repair(tmp_path / "bag", tmp_path / "whole")
    assert count == STEPS
    assert "offered_qos_profiles: []" in (tmp_path / "whole" / "metadata.yaml").read_text()
    with pytest.raises(FileExistsError, match="name a new folder"):
        repair(tmp_path / "bag", tmp_path / "whole")
    database = write_rosbags(tmp_path / "rows", SAID, StoragePlugin.SQLITE3)
    [file] = database.glob("*.db3")
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("UPDATE messages SET timestamp = -5 WHERE id = 3")
    count, problems = repair(database, tmp_path / "timed")
    assert count == len(SAID) - 1 and "1 messages are left out, their time lies before 1970" in problems[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "rows", "timed", "whole"]


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_compressed_messages_are_known_without_metadata(tmp_path: Path, storage: StoragePlugin) -> None:
    path = write_rosbags(tmp_path / "bag", SAID, storage, CompressionMode.MESSAGE)
    (path / "metadata.yaml").unlink()  # the recorder was killed
    found, _ = read(path)
    assert found == SAID


def test_the_clock_jumps(tmp_path: Path) -> None:
    times = [BEGIN_NS + (step % 15) * STEP_NS * 2 for step in range(STEPS)]  # a simulation that was reset twice
    said = content(STEPS, times)
    found, problems = read(write_rosbags(tmp_path / "bag", said))
    assert sorted(found) == sorted(said)
    assert found == said
    assert kinds(problems) == {ClockJump}
    assert "jumps back by 1.4 s" in str(problems[0])


def test_a_long_pause_is_none_of_the_clock(tmp_path: Path) -> None:
    said = content(STEPS, [BEGIN_NS + step * STEP_NS + (step >= 20) * 60 * 10**9 for step in range(STEPS)])
    found, problems = read(write_own(tmp_path / "bag", said))
    assert found == said
    assert problems == []


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
def test_empty_and_foreign_files(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"")
    with pytest.raises(EmptyBag, match="is empty"):
        Bag(file)
    file.write_bytes(b"GIF89a and more" * 10)
    with pytest.raises(NotABag, match="does not begin as"):
        Bag(file)


def test_no_bag_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotABag, match="does not exist"):
        Bag(tmp_path / "nothing")
    with pytest.raises(NotABag, match="holds no bag"):
        Bag(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NotABag, match="is no bag"):
        Bag(tmp_path / "notes.txt")


def test_a_bag_without_a_message(tmp_path: Path) -> None:
    BagWriter(tmp_path / "bag").close(0.0)
    with pytest.raises(EmptyBag, match="holds no message"):
        Bag(tmp_path / "bag")
    with pytest.raises(EmptyBag, match="holds no message"):
        Bag(write_rosbags(tmp_path / "other", [], StoragePlugin.SQLITE3))


def test_metadata_that_is_broken_or_lies(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "bag", SAID)
    text = (folder / "metadata.yaml").read_text()
    (folder / "metadata.yaml").write_text(text.replace("bag_0.mcap", "gone.mcap"))
    found, problems = read(folder)
    assert found == SAID
    assert "gone.mcap is named in metadata.yaml, but it is not there" in str(problems[0])
    (folder / "metadata.yaml").write_text("]: not yaml")
    found, problems = read(folder)
    assert found == SAID
    assert "is not readable as metadata" in str(problems[0])


def test_a_message_that_is_not_of_its_type(tmp_path: Path) -> None:
    said = [(topic, time, data[:9] if topic == STATE else data) for topic, time, data in SAID]
    folder = write_own(tmp_path / "bag", said)
    with Bag(folder) as bag, pytest.raises(WrongType, match="/robot_state: a message cannot be read as"):
        bag.decode(next(bag.messages([STATE])))


RECORDER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from making import content, topic
from pathlib import Path
from streaming_vla.bags.writer import BagWriter
from streaming_vla.bags.recorder_options import WriterOptions
writer = BagWriter(Path(sys.argv[1]), WriterOptions(flush_s=0.2))
said = content()
begin_s = time.monotonic()
while True:
    for name, time_ns, data in said:
        now_s = time.monotonic()
        writer.write(topic(name), data, time_ns, round(now_s * 1e9), now_s)
        writer.tick(now_s)
    print(time.monotonic() - begin_s, flush=True)
    time.sleep(0.05)
"""


def test_a_killed_recorder_leaves_a_readable_bag(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    command = [sys.executable, "-c", RECORDER, str(folder), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        rounds = 0
        try:
            for line in process.stdout or ():
                rounds += 1
                if float(line) > 1.0:
                    break
        finally:
            process.kill()
    with Bag(folder) as bag:
        count = sum(1 for _ in bag.messages([STATE]))
        assert bag.decode(next(bag.messages([STATE]))).data.shape == (4,)
        assert kinds(bag.problems) - {ClockJump} == {TruncatedBag}
    assert count >= 0.5 * rounds * STEPS  # at least what was written before the last flush
