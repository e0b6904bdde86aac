"""Reading bags that are whole: what other programs wrote is what comes out, and the other way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making import BEGIN_NS, CAMERAS, STATE, STEPS, TYPES, Content, content, write_own, write_rosbags
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionMode, Reader, StoragePlugin

from streaming_vla.bags.errors import MissingTopic, WrongType
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.recorder_options import WriterOptions

SAID = content()
SPLITS = WriterOptions(split_s=0.6, chunk_bytes=4000)
PACKED = [WriterOptions(chunk_bytes=2000).changed(compression=name) for name in ("zstd", "lz4")]
COMPRESSED = (CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE)


def read(path: Path) -> Content:
    with Bag(path) as bag:
        found = [(message.topic, message.time_ns, bytes(message.data)) for message in bag.messages()]
        assert bag.problems == []
    return found


@pytest.mark.parametrize("mode", COMPRESSED)
@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_bags_of_others(tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
    if storage is StoragePlugin.SQLITE3 and mode is CompressionMode.STORAGE:
        pytest.skip("sqlite3 has no compression of its own")
    assert read(write_rosbags(tmp_path / "bag", SAID, storage, mode)) == SAID


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_own_bags(tmp_path: Path, compression: str) -> None:
    folder = write_own(tmp_path / "bag", SAID, WriterOptions(chunk_bytes=5000).changed(compression=compression))
    assert read(folder) == SAID
    assert read(folder / "bag_0.mcap") == SAID


@pytest.mark.parametrize("options", [WriterOptions(), SPLITS, *PACKED])
def test_other_programs_read_own_bags(tmp_path: Path, options: WriterOptions) -> None:
    folder = write_own(tmp_path / "bag", SAID, options)
    with Reader(folder) as reader:
        assert [(c.topic, t, bytes(d)) for c, t, d in reader.messages()] == SAID
        assert reader.message_count == len(SAID)
        assert reader.start_time == BEGIN_NS
        assert {name: info.msgcount for name, info in reader.topics.items()} == dict.fromkeys(TYPES, STEPS)
        assert reader.connections[0].digest.startswith("RIHS01_")
    with AnyReader([folder]) as reader:
        connection, _, data = next(reader.messages())
        assert reader.deserialize(data, connection.msgtype).encoding == "rgb8"
    count = 0
    for file in sorted(folder.glob("*.mcap")):
        with file.open("rb") as stream:
            library = make_reader(stream, validate_crcs=True)
            count += sum(1 for _ in library.iter_messages())
            assert library.get_summary().statistics is not None
    assert count == len(SAID)


def test_splits_are_one_bag(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "bag", SAID, SPLITS)
    assert len(list(folder.glob("*.mcap"))) > 2
    assert read(folder) == SAID
    (folder / "metadata.yaml").unlink()
    assert read(folder) == SAID


def test_split_by_size(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "bag", SAID, WriterOptions(split_mb=0.03, chunk_bytes=2000))
    sizes = [file.stat().st_size for file in folder.glob("*.mcap")]
    assert len(sizes) > 2
    assert max(sizes) < 60_000
    assert read(folder) == SAID


def test_what_a_bag_says_of_itself(tmp_path: Path) -> None:
    with Bag(write_own(tmp_path / "bag", SAID)) as bag:
        assert {name: (topic.type, topic.count) for name, topic in bag.topics.items()} == {
            name: (kind, STEPS) for name, kind in TYPES.items()
        }
        assert bag.begin_ns == BEGIN_NS
        assert bag.duration_s == pytest.approx((STEPS - 1) * 0.05)


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_messages_of_one_topic_are_decoded(tmp_path: Path, storage: StoragePlugin) -> None:
    with Bag(write_rosbags(tmp_path / "bag", SAID, storage)) as bag:
        states = [bag.decode(message).data for message in bag.messages([STATE])]
        assert np.allclose(np.stack(states)[:, 1], 0.02 * np.arange(STEPS))
        actions = [bag.decode(message) for message in bag.messages(["/action"])]
        assert [action.index for action in actions] == [step % 10 for step in range(STEPS)]


def test_own_types_without_a_definition_in_the_bag(tmp_path: Path) -> None:
    folder = write_rosbags(tmp_path / "bag", SAID, StoragePlugin.SQLITE3, version=8)
    import sqlite3

    with sqlite3.connect(next(folder.glob("*.db3"))) as database:
        database.execute("DELETE FROM message_definitions")
    with Bag(folder) as bag:
        assert bag.decode(next(iter(bag.messages(["/action"])))).more is True


def test_a_missing_topic_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    with Bag(write_own(tmp_path / "bag", SAID)) as bag:
        with pytest.raises(MissingTopic, match=r"no topic /camera/top; its topics are .*/robot_state \(std_msgs"):
            bag.messages(["/camera/top"])
        with pytest.raises(WrongType, match="/robot_state is of type std_msgs/msg/Float64MultiArray, expected"):
            bag.require(STATE, ["sensor_msgs/msg/Image"])
        assert bag.require(CAMERAS[0], ["sensor_msgs/msg/Image"]).count == STEPS


def test_a_little_disorder_is_sorted(tmp_path: Path) -> None:
    swapped = [SAID[place ^ 1] if place ^ 1 < len(SAID) else SAID[place] for place in range(len(SAID))]
    assert swapped != SAID
    assert read(write_own(tmp_path / "bag", swapped)) == SAID
