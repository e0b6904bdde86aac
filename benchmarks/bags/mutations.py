"""Damages small bags in every way that disks, copies and bugs do; a seed gives the same mutation again."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from streaming_vla.bags.definitions import standard
from streaming_vla.bags.recorder_options import WriterOptions
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter

BEGIN_NS = 1_700_000_000_000_000_000
IMAGE, STATE, ACTION = "sensor_msgs/msg/Image", "std_msgs/msg/Float64MultiArray", "streaming_vla_interfaces/msg/Action"
TOPICS = {"/camera/image": IMAGE, "/robot_state": STATE, "/action": ACTION}
STEPS = 12
TOKENS = (
    b"&a ", b"*a", b"<<: ", b"!!python/none ", b"!!binary ", b"---\n", b"...\n", b"%YAML 9.9\n", b": ", b"- ", b"# ",
    b"|\n", b">-\n", b'"', b"'", b"\t", b"\r", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"1e999", b".nan", b".inf", b"-0",
    b"0x7f", b"1_0", b"1:30", b"2020-02-30", b"9" * 400, b"9" * 5000, b"yes", b"null", b"~",
)  # fmt: skip
SPECIAL = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def make_bags(folder: Path) -> tuple[list[Path], list[tuple[str, int, bytes]]]:
    """Write one small bag per kind of storage; return their folders, and topic, time and data of their messages."""
    said = _content()
    small = WriterOptions(chunk_bytes=1500)
    folders = [_own(folder / f"own_{name}", said, small.changed(compression=name)) for name in ("none", "zstd", "lz4")]
    for storage in StoragePlugin:
        for mode in (CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE):
            path = folder / f"{storage.name.lower()}_{mode.name.lower()}"
            writer = Writer(path, version=9, storage_plugin=storage)
            writer.set_compression(mode, CompressionFormat.ZSTD)
            with writer:
                connections = {n: writer.add_connection(n, kind, typestore=standard()) for n, kind in TOPICS.items()}
                for name, time_ns, data in said:
                    writer.write(connections[name], time_ns, data)
            folders.append(path)
    folders.append(_without_chunks(folder / "no_chunks", said))
    return folders, said


def mutate(folder: Path, target: Path, seed: int, ending: str = "") -> str:
    """Copy the bag `folder` to `target` with one to eight damages; return what was done.

    Args:
        ending: of the files that are damaged; all by default, and then a file is missing now and then.
    """
    random_ = random.Random(seed)
    shutil.copytree(folder, target)
    files = sorted(file for file in target.iterdir() if file.name.endswith(ending))
    weights = [1 if file.suffix == ".yaml" else 8 for file in files]
    done = []
    for _ in range(random_.choice((1, 1, 1, 2, 4, 8))):
        file = random_.choices(files, weights)[0]
        if file.exists():
            data = bytearray(file.read_bytes())
            changed, way = change(data, random_, text=file.suffix == ".yaml")
            file.write_bytes(changed)
            done.append(f"{way} {file.name}")
    if not ending and random_.random() < 0.05:
        victim = random_.choice(files)
        victim.unlink()
        done.append(f"removed {victim.name}")
    return ", ".join(done)


def change(data: bytearray, random_: random.Random, text: bool = False) -> tuple[bytes, str]:
    """Return the data with one damage, and its name; of a text, some are made of what its parser has a meaning for."""
    way = random_.choice((*_WAYS, _token, _deep, _lines) if text else _WAYS)
    return way(data, random_), way.__name__


def _token(data: bytearray, random_: random.Random) -> bytes:
    place = random_.randrange(len(data) + 1)
    end = place + random_.choice((0, 0, 1, 3))
    data[place:end] = random_.choice(TOKENS)
    return bytes(data)


def _deep(data: bytearray, random_: random.Random) -> bytes:
    place = random_.randrange(len(data) + 1)
    data[place:place] = random_.choice((b"[", b"{", b"- ", b"{a: ", b"? ")) * random_.choice((3, 60, 3000, 100_000))
    return bytes(data)


def _lines(data: bytearray, random_: random.Random) -> bytes:
    lines = bytes(data).splitlines(keepends=True)
    if lines:
        place, other = random_.randrange(len(lines)), random_.randrange(len(lines))
        if random_.random() < 0.5:
            lines[place], lines[other] = lines[other], lines[place]
        else:
            lines.insert(place, lines[other])
    return b"".join(lines)


def _flip(data: bytearray, random_: random.Random) -> bytes:
    for _ in range(random_.choice((1, 2, 16))):
        if data:
            data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    return bytes(data)


def _special(data: bytearray, random_: random.Random) -> bytes:
    size = random_.choice((1, 2, 4, 8))
    if len(data) > size:
        place = random_.randrange(len(data) - size)
        value = random_.choice(SPECIAL) & ((1 << 8 * size) - 1)
        data[place : place + size] = value.to_bytes(size, random_.choice(("little", "big")))
    return bytes(data)


def _cut_end(data: bytearray, random_: random.Random) -> bytes:
    return bytes(data[: random_.randrange(len(data) + 1)])


def _cut_out(data: bytearray, random_: random.Random) -> bytes:
    begin = random_.randrange(len(data) + 1)
    del data[begin : begin + random_.randrange(1, 600)]
    return bytes(data)


def _overwrite(data: bytearray, random_: random.Random) -> bytes:
    begin, count = random_.randrange(len(data) + 1), random_.randrange(1, 600)
    filler = random_.choice((bytes(count), b"\xff" * count, random_.randbytes(count)))
    end = min(len(data), begin + count)
    data[begin:end] = filler[: end - begin]
    return bytes(data)


def _repeat(data: bytearray, random_: random.Random) -> bytes:
    begin = random_.randrange(len(data) + 1)
    piece = data[begin : begin + random_.randrange(1, 600)]
    place = random_.randrange(len(data) + 1)
    data[place:place] = piece
    return bytes(data)


def _insert(data: bytearray, random_: random.Random) -> bytes:
    place = random_.randrange(len(data) + 1)
    data[place:place] = random_.randbytes(random_.randrange(1, 64))
    return bytes(data)


_WAYS = (_flip, _special, _cut_end, _cut_out, _overwrite, _repeat, _insert)


def _content() -> list[tuple[str, int, bytes]]:
    store = standard()
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    found = []
    for step in range(STEPS):
        pixels = np.random.default_rng(step).integers(0, 255, 8 * 8 * 3).astype(np.uint8)
        image = types[IMAGE](header=header, height=8, width=8, encoding="rgb8", is_bigendian=0, step=24, data=pixels)
        state = types[STATE](layout=layout, data=np.arange(4.0) + step)
        action = types[ACTION](
            header=header, session="/", episode=1, context=0, index=step, flow_time=0.0,
            values=np.zeros(4, np.float32), more=True,
        )  # fmt: skip
        for (name, kind), message in zip(TOPICS.items(), (image, state, action), strict=True):
            found.append((name, BEGIN_NS + step * 10**7, bytes(store.serialize_cdr(message, kind))))
    return found


def _own(path: Path, said: list[tuple[str, int, bytes]], options: WriterOptions) -> Path:
    writer = BagWriter(path, options)
    for name, time_ns, data in said:
        definition, _ = standard().generate_msgdef(TOPICS[name], ros_version=2)
        topic = Topic(name, TOPICS[name], definition=definition, definition_format="ros2msg")
        writer.write(topic, data, time_ns, time_ns, 0.0)
    writer.close(0.0)
    return path


def _without_chunks(path: Path, said: list[tuple[str, int, bytes]]) -> Path:
    path.mkdir()
    with (path / "bag.mcap").open("wb") as file:
        writer = McapWriter(file, compression=CompressionType.NONE, use_chunking=False)
        writer.start("ros2")
        channels = {}
        for name, kind in TOPICS.items():
            text, _ = standard().generate_msgdef(kind, ros_version=2)
            channels[name] = writer.register_channel(
                name, "cdr", writer.register_schema(kind, "ros2msg", text.encode())
            )
        for name, time_ns, data in said:
            writer.add_message(channels[name], time_ns, data, time_ns)
        writer.finish()
    return path
