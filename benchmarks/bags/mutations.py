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
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter, WriterOptions

BEGIN_NS = 1_700_000_000_000_000_000
IMAGE, STATE, ACTION = "sensor_msgs/msg/Image", "std_msgs/msg/Float64MultiArray", "streaming_vla_interfaces/msg/Action"
TOPICS = {"/camera/image": IMAGE, "/robot_state": STATE, "/action": ACTION}
STEPS = 12
SPECIAL = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def make_bags(folder: Path) -> list[Path]:
    """Write one small bag per kind of storage; return their folders."""
    said = _content()
    folders = [_own(folder / f"own_{name}", said, WriterOptions(name, 1500)) for name in ("none", "zstd", "lz4")]
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
    return folders


def mutate(folder: Path, target: Path, seed: int) -> str:
    """Copy the bag `folder` to `target` with one to eight damages; return what was done."""
    random_ = random.Random(seed)
    shutil.copytree(folder, target)
    files = sorted(target.iterdir())
    weights = [1 if file.suffix == ".yaml" else 8 for file in files]
    done = []
    for _ in range(random_.choice((1, 1, 1, 2, 4, 8))):
        file = random_.choices(files, weights)[0]
        if file.exists():
            way = random_.choice(_WAYS)
            data = bytearray(file.read_bytes())
            file.write_bytes(way(data, random_))
            done.append(f"{way.__name__} {file.name}")
    if random_.random() < 0.05:
        victim = random_.choice(files)
        victim.unlink()
        done.append(f"removed {victim.name}")
    return ", ".join(done)


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
        state = types[STATE](layout=layout, data=np.arange(4.0))
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
