"""Files that were made to do harm: no crash, no hang, no gigabytes; one sentence, and whatever is readable beside it.

All are read in one process of its own, whose memory is measured.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import zstandard
from making import BEGIN_NS, CAMERAS, STATE, TYPES, content, topic, write_own
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from streaming_vla.bags.definitions import parse, standard
from streaming_vla.bags.errors import MissingTopic, NoCamera, NotABag, WrongType
from streaming_vla.bags.inflate import MAX_BYTES
from streaming_vla.bags.ingest import Ingest, IngestOptions
from streaming_vla.bags.mcap_records import MAGIC
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.repair import repair
from streaming_vla.bags.writer import BagWriter

SAID = content()
SECONDS, MEGABYTES = 10.0, 1000.0
READ = """
import json, sys, time
from pathlib import Path
from streaming_vla.bags.errors import BagError
from streaming_vla.bags.reader import Bag
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    begin_s, messages, decoded, problems = time.process_time(), 0, 0, []
    try:
        with Bag(path) as bag:
            for message in bag.messages():
                messages += 1
                try:
                    bag.decode(message)
                    decoded += 1
                except BagError as error:
                    problems.append(str(error))
            problems += map(str, bag.problems)
    except BagError as error:
        problems.append(f"{type(error).__name__}: {error}")
    found[path.stem] = [messages, decoded, problems, time.process_time() - begin_s]
    print(path, file=sys.stderr, flush=True)
# what getrusage tells is partly of the process that started this one
found[""] = int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1000
print(json.dumps(found))
"""


def zeros(size: int) -> bytes:
    """Return a zstd frame of `size` zeros that tells its size."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    piece = bytes(1 << 24)
    return b"".join(compressor.compress(piece) for _ in range(size >> 24)) + compressor.flush()


def record(opcode: int, content_: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BQ", opcode, len(content_) if length is None else length) + content_


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def chunk(compression: str, data: bytes, size: int, crc: int = 0) -> bytes:
    head = struct.pack("<QQQI", BEGIN_NS, BEGIN_NS, size, crc) + text(compression)
    return record(6, head + struct.pack("<Q", len(data)) + data)


def whole(folder: Path) -> bytes:
    """Return an MCAP file of the robot's messages, to be put something into."""
    return next(write_own(folder / "whole", SAID).glob("*.mcap")).read_bytes()


def behind_the_header(data: bytes, more: bytes) -> bytes:
    at = len(MAGIC) + 9 + struct.unpack_from("<Q", data, len(MAGIC) + 1)[0]
    return data[:at] + more + data[at:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "chunk of zstd": lambda: chunk("zstd", zeros(1 << 31), 1 << 31),
    "chunk of zstd that lies": lambda: chunk("zstd", zeros(1 << 31), 1000),
    "chunk of zstd below the limit": lambda: chunk("zstd", zeros(MAX_BYTES - (1 << 24)), MAX_BYTES - (1 << 24)),
    "chunk of lz4": lambda: chunk("lz4", lz4.frame.compress(bytes(600 << 20)), 600 << 20),
    "chunk of lz4 that lies": lambda: chunk("lz4", lz4.frame.compress(bytes(600 << 20)), 1000),
    "chunk of nothing": lambda: chunk("", b"", 1 << 62),
    "chunk of an unknown kind": lambda: chunk("bz2", b"BZh91AY", 1 << 20),
    "schema that is too long": lambda: record(
        3, struct.pack("<H", 9) + text("a") + text("ros2msg") + text("x" * (8 << 20))
    ),
    "channel whose texts are longer than it": lambda: record(4, struct.pack("<HHI", 9, 9, 1 << 31) + bytes(20)),
    "record without end": lambda: record(0x20, b"", 1 << 62),
    "statistics that lie": lambda: record(0x0B, struct.pack("<QHIIIIQQI", 1 << 60, 1, 1, 0, 0, 1, 0, 0, 0)),
}


def test_bombs_in_mcap_files_leave_the_rest_readable(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    plain = whole(tmp_path)
    for name, bomb in BOMBS.items():
        (bags / f"{name}.mcap").write_bytes(behind_the_header(plain, bomb()))
    found = run(bags)
    for name in BOMBS:
        messages, decoded, problems, _ = found[name]
        assert (messages, decoded) == (len(SAID), len(SAID)), (name, problems)
        assert problems or name == "statistics that lie", name
    assert f"claims {1 << 31} bytes, more than {MAX_BYTES}" in " ".join(found["chunk of zstd"][2])
    assert "which no recording is compressed to" in " ".join(found["chunk of zstd below the limit"][2])
    assert "its compression 'bz2' is not known" in " ".join(found["chunk of an unknown kind"][2])


def single(path: Path, kind: str, definition: str, data: bytes, count: int = 1) -> None:
    with path.open("wb") as file:
        writer = McapWriter(file, compression=CompressionType.NONE)
        writer.start("ros2")
        channel = writer.register_channel("/x", "cdr", writer.register_schema(kind, "ros2msg", definition.encode()))
        for place in range(count):
            writer.add_message(channel, BEGIN_NS + place, data, BEGIN_NS)
        writer.finish()


RULE = "=" * 80 + "\n"
NOTHING = f"pkg/E[9999] data\n{RULE}MSG: pkg/E\npkg/F f\n{RULE}MSG: pkg/F\n"
HEAD = b"\0\1\0\0"  # of a message in CDR
LONGEST = HEAD + struct.pack("<I", (1 << 28) - 1)


def messages() -> dict[str, tuple[str, bytes, str]]:
    """Return definition, data and why they are refused."""
    return {
        "zstd": ("uint8[] data\n", zeros(1 << 31), f"claims {1 << 31} bytes"),
        "zstd below the limit": ("uint8[] data\n", zeros(MAX_BYTES - (1 << 24)), "which no recording is compressed to"),
        "sequence": ("uint8[] data\n", LONGEST, "Invalid sequence length|buffer is smaller"),
        "texts": ("string[] data\n", LONGEST, "Invalid sequence length"),
        "array": ("float64[1000000000] data\n", HEAD + bytes(64), "buffer is smaller"),
        "array of texts": ("string[100000000] data\n", HEAD + bytes(64), "more than 10000 fields"),
        "array of nothing": (NOTHING, HEAD, "which has no field"),
        "itself": ("pkg/X data\n", HEAD, "RecursionError"),
        "no end of fields": ("uint8 x\n" * 15000, HEAD + bytes(15000), "more than 10000 fields"),
        "no end of text": ("# " + "x" * (1 << 18) + "\nuint8 y\n", HEAD + b"\7", "has more than 131072 characters"),
    }


def test_messages_and_definitions_that_would_take_gigabytes(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    made = messages()
    for name, (definition, data, _) in made.items():
        single(bags / f"{name}.mcap", "pkg/msg/X", definition, data)
    found = run(bags)
    for name, (_, _, reason) in made.items():
        _, decoded, problems, _ = found[name]
        assert decoded == 0 and problems, name
        assert any(part in " ".join(problems) for part in reason.split("|")), (name, problems)


TOPICS = (
    "CREATE TABLE topics(id INTEGER PRIMARY KEY, name, type, serialization_format, offered_qos_profiles);"
    f"INSERT INTO topics VALUES(1, '{STATE}', '{TYPES[STATE]}', 'cdr', '');"
)
TABLE = "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data);"
COMPUTED = "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data AS (zeroblob(900000000)));"


def endless(name: str, columns: str) -> str:
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    return f"CREATE VIEW {name} AS {numbers} SELECT {columns} FROM n;"


DATABASES = {
    "messages": TOPICS + endless("messages", "x AS id, 1 AS topic_id, x AS timestamp, zeroblob(99) AS data"),
    "topics": TABLE
    + endless("topics", "x AS id, x AS name, x AS type, x AS serialization_format, x AS offered_qos_profiles"),
    "definitions": TOPICS
    + TABLE
    + endless("message_definitions", "x AS topic_type, x AS encoding, x AS encoded_message_definition"),
    "distro": TOPICS + TABLE + endless("schema", "x AS ros_distro"),
    "computed": TOPICS + COMPUTED + "INSERT INTO messages(id, topic_id, timestamp) VALUES(1, 1, 5);",
    "virtual": TOPICS + "CREATE VIRTUAL TABLE messages USING fts5(id, topic_id, timestamp, data);",
}


def test_times_that_no_clock_shows(tmp_path: Path) -> None:
    """The largest and smallest numbers, and a clock that goes back with every message."""
    bags = tmp_path / "bags"
    bags.mkdir()
    row = next(data for name, _, data in SAID if name == STATE)
    extremes = [-(1 << 63), (1 << 63) - 1, 0, -(1 << 63), -1, (1 << 63) - 1, 5]
    with closing(sqlite3.connect(bags / "extremes.db3")) as database:
        database.executescript(TOPICS + TABLE)
        for place, time_ns in enumerate(extremes):
            database.execute("INSERT INTO messages VALUES(?, 1, ?, ?)", (place + 1, time_ns, row))
        database.commit()
    with (bags / "back.mcap").open("wb") as file:
        writer = McapWriter(file, chunk_size=1 << 24, compression=CompressionType.ZSTD)
        writer.start("ros2")
        schema = writer.register_schema(TYPES[STATE], "ros2msg", topic(STATE).definition.encode())
        channel = writer.register_channel(STATE, "cdr", schema)
        for place in range(20_000):
            time_ns = (1 << 63) + (20_000 - place) * 10**9 if place % 2 else place
            writer.add_message(channel, time_ns, row, BEGIN_NS)
        writer.finish()
    found = run(bags)
    assert found["extremes"][:2] == [len(extremes), len(extremes)]
    assert found["back"][:2] == [20_000, 20_000]
    for name in ("extremes", "back"):
        assert ["the clock jumps back" in problem for problem in found[name][2]] == [True]


def test_a_file_that_is_damaged_everywhere(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    pair = record(3, struct.pack("<H", 999) + text("a") + text("ros2msg") + text("")) * 2
    (bags / "junk.mcap").write_bytes(behind_the_header(whole(tmp_path), (pair + b"\0") * 50_000))
    messages, decoded, problems, _ = run(bags)["junk"]
    assert messages == decoded == len(SAID)
    assert len(problems) < 120 and any("more places are damaged" in problem for problem in problems)


def test_texts_of_a_file_forge_no_line(tmp_path: Path) -> None:
    """Names of topics, types and profiles are a stranger's: what is told of them is one line of what can be printed."""
    forged = "/a\n[INFO] all is well\x1b[2J\u202e" + "x" * 100_000
    with (tmp_path / "names.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2")
        for kind in (forged, "b/msg/C"):
            schema = writer.register_schema(kind, "ros2msg", b"uint8 [")
            writer.add_message(writer.register_channel(forged, "cdr", schema), BEGIN_NS, HEAD, BEGIN_NS)
        writer.finish()
    with (tmp_path / "profile.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start(forged)
        writer.finish()
    sentences = []
    with Bag(tmp_path / "names.mcap") as bag:
        for message in bag.messages():
            with pytest.raises(WrongType) as refusal:
                bag.decode(message)
            sentences.append(str(refusal.value))
        sentences += map(str, bag.problems)
        with pytest.raises(MissingTopic) as missing:
            bag.require("/other")
        with pytest.raises(NoCamera) as camera:
            Ingest(bag, IngestOptions({"a": forged}, forged))
    with pytest.raises(NotABag) as profile:
        Bag(tmp_path / "profile.mcap")
    sentences += [str(each.value) for each in (missing, camera, profile)]
    assert len(sentences) >= 6
    for sentence in sentences:
        assert sentence.isprintable() and len(sentence) < 2500


def test_tables_that_are_none(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    for name, script in DATABASES.items():
        with closing(sqlite3.connect(bags / f"{name}.db3")) as database:
            database.executescript(script)
    found = run(bags)
    for name in DATABASES:
        messages, _, [problem], _ = found[name]
        assert messages == 0 and problem.startswith("NotABag: "), (name, problem)
        assert "expected an ordinary table" in problem or "is computed, expected values" in problem


METADATA = {
    "brackets": "[" * 100_000,
    "braces": "{a: " * 100_000,
    "references": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 200)),
    "merges": "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60)),
    "digits": "rosbag2_bagfile_information: {version: " + "9" * 900_000 + "}",
    "size": "# nothing\n" * 200_000,
    "bytes": "\udcff\udcfe",
    "list": "- rosbag2_bagfile_information",
    "name": "rosbag2_bagfile_information: {relative_file_paths: ['../../../etc/passwd', 7, [x], {y: z}]}",
    "topics": "rosbag2_bagfile_information: {topics_with_message_count: [1, {topic_metadata: 3}, {message_count: x}]}",
}


def test_metadata_that_would_end_the_process(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    for name, content_ in METADATA.items():
        folder = write_own(bags / name, SAID)
        (folder / "metadata.yaml").write_text(content_, errors="surrogateescape")
    found = run(bags)
    for name in METADATA:
        messages, decoded, problems, _ = found[name]
        assert messages == decoded == len(SAID), name
        assert bool(problems) == (name != "topics"), (name, problems)


def test_qualities_of_service_that_would_end_the_process(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag")
    writer.write(replace(topic(STATE), qos="[" * 100_000), SAID[2][2], BEGIN_NS, BEGIN_NS, 0.0)
    writer.close(0.0)
    assert repair(tmp_path / "bag", tmp_path / "new")[0] == 1
    assert "offered_qos_profiles: []" in (tmp_path / "new" / "metadata.yaml").read_text()


def test_a_file_that_unpacks_to_more_than_any_recording(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    (bags / "bomb.mcap.zstd").write_bytes(zeros(3 << 30))
    messages, _, [problem], _ = run(bags)["bomb.mcap"]
    assert messages == 0 and "unpacks to more than" in problem


def test_an_honest_recording_of_black_pictures_is_no_bomb(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    black = b"\0\1\0\0" + bytes(40 << 20)
    with (bags / "black.mcap").open("wb") as file:
        writer = McapWriter(file, chunk_size=1, compression=CompressionType.ZSTD)
        writer.start("ros2")
        channel = writer.register_channel(
            CAMERAS[0], "cdr", writer.register_schema("pkg/msg/X", "ros2msg", b"uint8[41943040] x")
        )
        for place in range(3):
            writer.add_message(channel, BEGIN_NS + place, black, BEGIN_NS)
        writer.finish()
    assert run(bags)["black"][:3] == [3, 3, []]


def test_no_type_of_ros_2_is_refused() -> None:
    types = standard()
    assert len(types.fielddefs) > 150
    for name in types.fielddefs:
        assert name in parse(types.generate_msgdef(name, ros_version=2)[0], name)


def run(folder: Path) -> dict[str, Any]:
    """Read every bag of a folder in another process; return messages, decoded, problems and seconds of each."""
    command = [sys.executable, "-c", READ, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("") < MEGABYTES
    for name, (_, _, problems, seconds) in found.items():
        assert seconds < SECONDS, name
        assert all("\n" not in problem for problem in problems), name
    return found
