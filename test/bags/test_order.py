"""Messages come by log time, however a file holds them, with the memory of a few blocks; when the clock went back."""

from __future__ import annotations

import random
import sqlite3
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import BEGIN_NS, STATE, STEP_NS, STEPS, Content, content, topic, write_own, write_rosbags
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import StoragePlugin

from streaming_vla.bags.errors import BagError, ClockJump
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.topics import RawMessage
from streaming_vla.bags.writer import BagWriter, WriterOptions

SAID = content()
BY_TOPIC = sorted(SAID, key=lambda each: each[0])
LATCHED_QOS = "- history: keep_last\n  depth: 1\n  durability: transient_local\n"


def read(path: Path) -> tuple[Content, list[BagError]]:
    with Bag(path) as bag:
        return [(each.topic, each.time_ns, bytes(each.data)) for each in bag.messages()], list(bag.problems)


def write_mcap(path: Path, said: Sequence[tuple[str, int, bytes]], **options: object) -> Path:
    path = path.with_suffix(".mcap")
    with path.open("wb") as file:
        writer = McapWriter(file, **{"chunk_size": 4000, **options})  # type: ignore[arg-type]
        writer.start("ros2")
        channels: dict[str, int] = {}
        for name, time_ns, data in said:
            if name not in channels:
                each = topic(name)
                schema = writer.register_schema(each.type, "ros2msg", each.definition.encode())
                channels[name] = writer.register_channel(name, "cdr", schema)
            writer.add_message(channels[name], time_ns, data, time_ns)
        writer.finish()
    return path


def without_index(path: Path, said: Content) -> Path:
    """Write a database as by hand, without the index of time stamps."""
    folder = write_rosbags(path, said, StoragePlugin.SQLITE3)
    with closing(sqlite3.connect(next(folder.glob("*.db3")))) as database, database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall():
            database.execute(f"DROP INDEX {name}")
    return folder


def cut_summary(path: Path, said: Content) -> Path:
    path = write_mcap(path, said)
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\x0f\x04" + bytes(7))])  # at the end of the data
    return path


def file_by_file(path: Path, said: Content) -> Path:
    """Write a bag of one file for each run of a topic."""
    path.mkdir()
    start = 0
    for place in range(1, len(said) + 1):
        if place == len(said) or said[place][0] != said[start][0]:
            write_mcap(path / f"bag_{start}", said[start:place])
            start = place
    return path


LAYOUTS: dict[str, Callable[[Path, Content], Path]] = {
    "own": lambda path, said: write_own(path, said, WriterOptions(chunk_bytes=4000)),
    "one chunk": lambda path, said: write_own(path, said, WriterOptions(chunk_bytes=1 << 24, flush_s=60.0)),
    "mcap": write_mcap,
    "mcap zstd": lambda path, said: write_mcap(path, said, compression=CompressionType.ZSTD),
    "no chunks": lambda path, said: write_mcap(path, said, use_chunking=False),
    "no indexes": lambda path, said: write_mcap(path, said, index_types=IndexType.NONE),
    "no summary": cut_summary,
    "rosbags": write_rosbags,
    "sqlite": lambda path, said: write_rosbags(path, said, StoragePlugin.SQLITE3),
    "sqlite without index": without_index,
    "a file for each topic": file_by_file,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bag_written_topic_after_topic_is_read_by_time(tmp_path: Path, layout: str) -> None:
    found, problems = read(LAYOUTS[layout](tmp_path / "bag", BY_TOPIC))
    assert found == SAID
    assert [each for each in problems if "has no end" not in str(each)] == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_the_topics_among_each_other_is_put_right(tmp_path: Path, layout: str, seed: int) -> None:
    """Runs of random lengths, as writers that buffer each topic make them."""
    waiting = {name: [each for each in SAID if each[0] == name] for name in sorted({name for name, _, _ in SAID})}
    random_ = random.Random(seed)
    said: Content = []
    while waiting:
        name = random_.choice(sorted(waiting))
        count = random_.choice((1, 2, 5, 30))
        said += waiting[name][:count]
        del waiting[name][:count]
        waiting = {name: rest for name, rest in waiting.items() if rest}
    found, problems = read(LAYOUTS[layout](tmp_path / "bag", said))
    assert found == SAID
    assert [each for each in problems if "has no end" not in str(each)] == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=80), st.integers(1, 3))
def test_messages_of_one_time_keep_the_order_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]], chunk: int
) -> None:
    """The same as the reader of the format's own library, with many equal times."""
    names = sorted({name for name, _, _ in SAID})
    times = [0] * 4
    said: Content = []
    for number, (place, step) in enumerate(steps):
        times[place] += step * 10**9 // 4
        said.append((names[place], BEGIN_NS + times[place], number.to_bytes(4, "little") * 20))
    path = write_mcap(tmp_path_factory.mktemp("bag") / "bag", said, chunk_size=200 * chunk)
    with path.open("rb") as file:
        expected = [
            (each.topic, message.log_time, message.data) for _, each, message in make_reader(file).iter_messages()
        ]
    assert read(path) == (expected, [])


def test_the_memory_does_not_grow_with_a_bag_written_topic_after_topic(tmp_path: Path) -> None:
    size, count = 100_000, 100
    peaks = []
    for factor in (1, 4):
        said = [
            (name, BEGIN_NS + step * STEP_NS, step.to_bytes(4, "little") * (size // 4))
            for name in ("/camera/left/image", "/camera/right/image", STATE)
            for step in range(factor * count)
        ]
        path = write_mcap(tmp_path / f"bag{factor}", said, chunk_size=500_000, compression=CompressionType.NONE)
        del said
        tracemalloc.start()
        with Bag(path) as bag:
            assert sum(1 for _ in bag.messages()) == 3 * factor * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 8_000_000  # of 30 and 120 MB: a block of each topic, and the one that is read
    assert peaks[1] < 1.3 * peaks[0]


# ---------------------------------------------------------------- the clock


LOOPED = content(STEPS, [BEGIN_NS + (step % 15) * 2 * STEP_NS for step in range(STEPS)])  # a simulation that was reset


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each != "a file for each topic"])
def test_what_comes_after_a_reset_of_the_clock_is_read_after_it(tmp_path: Path, layout: str) -> None:
    found, problems = read(LAYOUTS[layout](tmp_path / "bag", LOOPED))
    assert found == LOOPED
    jumps = [str(each) for each in problems if isinstance(each, ClockJump)]
    assert len(jumps) == 1 and "the clock jumps back by 1.4 s (topic /camera/left/image)" in jumps[0]


def test_a_reset_between_two_files_is_one(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    for number, part in enumerate((SAID[:100], SAID[:100])):
        write_mcap(tmp_path / "bag" / f"bag_{number}", part)
    found, problems = read(tmp_path / "bag")
    assert found == [*SAID[:100], *SAID[:100]]
    assert [type(each) for each in problems] == [ClockJump]


@pytest.mark.parametrize("gaps_s", [(20.0,), (20.0, 3600.0), (1e8,)])
@pytest.mark.parametrize("layout", ["own", "mcap", "sqlite", "no chunks"])
def test_a_silence_is_no_jump(tmp_path: Path, layout: str, gaps_s: tuple[float, ...]) -> None:
    times, now_ns = [], BEGIN_NS
    for step in range(STEPS):
        now_ns += STEP_NS + round(gaps_s[step % len(gaps_s)] * 1e9) * (step % 10 == 9)
        times.append(now_ns)
    said = content(STEPS, times)
    assert read(LAYOUTS[layout](tmp_path / "bag", said)) == (said, [])


@pytest.mark.parametrize("layout", ["own", "mcap", "sqlite", "no chunks"])
def test_a_rare_topic_beside_a_fast_one_is_no_jump(tmp_path: Path, layout: str) -> None:
    """As a planned path every 20 s; its time is not that of the others either."""
    said = [each for each in SAID if each[0] != STATE]
    rare = [(name, time_ns - 15 * 10**9, data) for name, time_ns, data in SAID if name == STATE][::20]
    found, problems = read(LAYOUTS[layout](tmp_path / "bag", [*said[:50], *rare, *said[50:]]))
    assert found == [*rare, *said] and problems == []


@pytest.mark.parametrize("back_ms", [5, 99])
def test_a_little_disorder_of_one_topic_is_sorted(tmp_path: Path, back_ms: int) -> None:
    said: Content = []
    for number, (name, time_ns, data) in enumerate(each for each in SAID if each[0] == STATE):
        said.append((name, time_ns, data))
        if number % 10 == 5:  # another publisher's, that was longer on the way
            said.append((name, time_ns - back_ms * 10**6, data[:-1]))
    found, problems = read(write_own(tmp_path / "bag", said))
    assert found == sorted(said, key=lambda each: each[1]) != said
    assert problems == []


@pytest.mark.parametrize("ages_s", [(3600.0,), (50.0, 3600.0), (3600.0, 50.0, 1.0)])
def test_what_was_latched_long_before_is_kept_and_no_jump(tmp_path: Path, ages_s: tuple[float, ...]) -> None:
    """Several publishers' latched messages come in any order when the recorder begins, with the times of long ago."""
    writer = BagWriter(tmp_path / "bag")
    latched = replace(topic(STATE), name="/instruction", qos=LATCHED_QOS)
    data = next(data for name, _, data in SAID if name == STATE)
    old = [("/instruction", BEGIN_NS - round(age_s * 1e9), data) for age_s in ages_s]
    said = [each for each in SAID if each[0] != STATE]
    for name, time_ns, each in [*said[:10], *old, *said[10:]]:
        writer.write(latched if name == "/instruction" else topic(name), each, time_ns, time_ns, 0.0)
    writer.close(0.0)
    found, problems = read(tmp_path / "bag")
    assert found == [*sorted(old, key=lambda each: each[1]), *said]
    assert problems == []


def test_messages_that_are_given_another_time_are_put_in_its_order(tmp_path: Path) -> None:
    """Within what lies between two jumps of the clock."""

    def retime(message: RawMessage) -> RawMessage:
        return replace(message, time_ns=message.time_ns - (10**9 if message.topic == STATE else 0))

    with Bag(write_own(tmp_path / "bag", LOOPED)) as bag:
        found = [(each.topic, each.time_ns) for each in bag.messages(retime=retime)]
    plain = [retime(RawMessage(*each)) for each in LOOPED]
    parts = [plain[begin : begin + 75] for begin in range(0, len(plain), 75)]  # 15 steps of 5 topics
    assert found == [
        (each.topic, each.time_ns) for part in parts for each in sorted(part, key=lambda each: each.time_ns)
    ]
