"""What a file leaves out is found elsewhere, given by a parameter, or told: types, qualities of service, joints."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from describing import SAID, decoded, said_by, write
from making import BEGIN_NS, CAMERAS, STATE, STEPS, STORE, TYPES, topic, write_own
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_typestore

from streaming_vla.bags.errors import NotABag, WrongType
from streaming_vla.bags.ingest import Ingest, IngestOptions, State
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.repair import repair
from streaming_vla.commands.robot_state import JOINTS, StateReader


@pytest.mark.parametrize("repeat_schemas", [True, False])
@pytest.mark.parametrize("repeat_channels", [True, False])
@pytest.mark.parametrize("use_statistics", [True, False])
def test_a_summary_may_leave_out_what_the_data_say(
    tmp_path: Path, repeat_schemas: bool, repeat_channels: bool, use_statistics: bool
) -> None:
    said = [((name, TYPES[name], "ros2msg", topic(name).definition), at, data) for name, at, data in SAID]
    options = {"repeat_schemas": repeat_schemas, "repeat_channels": repeat_channels, "use_statistics": use_statistics}
    path = write(tmp_path / "bag", said, chunk_size=3000, **options)
    with Bag(path) as bag:
        assert {name: (each.type, each.count) for name, each in bag.topics.items()} == {
            name: (kind, STEPS) for name, kind in TYPES.items()
        }
    assert len(decoded(path)) == len(SAID)


def without_definitions(
    path: Path, said: Sequence[tuple[str, str, bytes]], distro: str = "humble", qos: object = ""
) -> Path:
    """Write a database as ROS 2 Foxy to Humble do: topic, type and data of each message; no definitions."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(
            "CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);"
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,"
            "serialization_format TEXT NOT NULL, offered_qos_profiles TEXT);"
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,"
            "data BLOB NOT NULL);"
        )
        database.execute("INSERT INTO schema VALUES(3, ?)", (distro,))
        numbers: dict[str, int] = {}
        for place, (name, kind, data) in enumerate(said):
            if name not in numbers:
                numbers[name] = len(numbers) + 1
                database.execute("INSERT INTO topics VALUES(?, ?, ?, 'cdr', ?)", (numbers[name], name, kind, qos))
            database.execute(
                "INSERT INTO messages VALUES(?, ?, ?, ?)", (place + 1, numbers[name], BEGIN_NS + place, data)
            )
    return path


def test_a_repaired_database_is_decoded_by_other_programs(tmp_path: Path) -> None:
    said = [(name, TYPES[name], data) for name, _, data in SAID[:50]]
    count, problems = repair(without_definitions(tmp_path / "bag.db3", said), tmp_path / "new")
    assert (count, problems) == (50, [])
    with next((tmp_path / "new").glob("*.mcap")).open("rb") as stream:
        others = list(make_reader(stream, decoder_factories=[DecoderFactory()]).iter_decoded_messages())
    assert [each.channel.topic for each in others] == [name for name, _, _ in said]
    joints = [each.decoded_message.position[0] for each in others if each.channel.topic == "/joint_states"]
    assert joints == pytest.approx([0.1 * step for step in range(10)])
    with AnyReader([tmp_path / "new"]) as reader:
        for connection, _, data in reader.messages():
            assert reader.deserialize(data, connection.msgtype) is not None
        assert reader.message_count == 50
    assert len(decoded(tmp_path / "new")) == 50


def test_a_type_that_nobody_defines_is_told_by_a_repair(tmp_path: Path) -> None:
    path = without_definitions(
        tmp_path / "bag.db3", [("/thing", "pkg/msg/Thing", b"\0\1\0\0\7"), (STATE, TYPES[STATE], said_by(STATE)[0])]
    )
    count, problems = repair(path, tmp_path / "new")
    assert count == 2
    assert problems == [
        "topic /thing: nothing defines its type pkg/msg/Thing, so other programs need it installed to read its messages"
    ]
    with Bag(tmp_path / "new") as bag:
        messages = {message.topic: message for message in bag.messages()}
        assert bag.decode(messages[STATE]).data.shape == (4,)
        with pytest.raises(
            WrongType, match="topic /thing has type 'pkg/msg/Thing', which neither the bag nor ROS 2 defines"
        ):
            bag.decode(messages["/thing"])


@pytest.mark.parametrize(("distro", "fields"), [("humble", 7), ("foxy", 7), ("jazzy", 8), ("kilted", 8), ("", 8)])
def test_types_are_those_of_the_ros_that_recorded(tmp_path: Path, distro: str, fields: int) -> None:
    """sensor_msgs/Range got a field between Humble and Jazzy."""
    store = get_typestore(Stores[f"ROS2_{distro.upper() or 'KILTED'}"])
    header = store.types["std_msgs/msg/Header"](
        stamp=store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2), frame_id=""
    )
    values = {
        "header": header,
        "radiation_type": 1,
        "field_of_view": 0.5,
        "min_range": 0.1,
        "max_range": 4.0,
        "range": 2.5,
    }
    names = [name for name, _ in store.fielddefs["sensor_msgs/msg/Range"][1]]
    if "variance" in names:
        values["variance"] = 0.25
    assert len(names) == fields - 1
    data = bytes(store.serialize_cdr(store.types["sensor_msgs/msg/Range"](**values), "sensor_msgs/msg/Range"))
    path = without_definitions(tmp_path / "bag.db3", [("/range", "sensor_msgs/msg/Range", data)], distro)
    [found] = decoded(path)
    assert found.range == 2.5 and getattr(found, "variance", None) == values.get("variance")
    repair(path, tmp_path / "new")
    [again] = decoded(tmp_path / "new")
    assert again.range == 2.5 and getattr(again, "variance", None) == values.get("variance")


@pytest.mark.parametrize("qos", [None, "", "[]", "- history: 3\n  depth: 1\n  durability: 1\n"])
def test_quality_of_service_of_every_form(tmp_path: Path, qos: str | None) -> None:
    path = without_definitions(tmp_path / "bag.db3", [(STATE, TYPES[STATE], said_by(STATE)[0])], qos=qos)
    with Bag(path) as bag:
        assert bag.topics[STATE].qos == (qos or "")
        assert bag.topics[STATE].latched == ("durability: 1" in (qos or ""))
    repair(path, tmp_path / "new")
    with next((tmp_path / "new").glob("*.mcap")).open("rb") as stream:
        [channel] = make_reader(stream).get_summary().channels.values()
    assert channel.metadata["offered_qos_profiles"] == (qos or "")
    assert "None" not in (tmp_path / "new" / "metadata.yaml").read_text()


# ---------------------------------------------------------------- joints without names


def joint_state(names: Sequence[str], positions: Sequence[float]) -> Any:
    return SimpleNamespace(name=list(names), position=np.array(positions))


def test_positions_without_names_are_named_by_a_parameter() -> None:
    reader = StateReader(JOINTS, ("elbow", "shoulder"), 2, nameless=("shoulder", "elbow", "finger"))
    assert reader(joint_state((), (1.0, 2.0, 3.0))).tolist() == [2.0, 1.0]
    assert reader(joint_state(("elbow", "shoulder"), (5.0, 6.0))).tolist() == [5.0, 6.0]  # its own names count
    with pytest.raises(ValueError, match="2 positions for 3 joints, expected a position for every joint"):
        reader(joint_state((), (1.0, 2.0)))
    with pytest.raises(ValueError, match=r"3 positions without a name, .* observer's robot_state_nameless_joints"):
        StateReader(JOINTS)(joint_state((), (1.0, 2.0, 3.0)))
    with pytest.raises(ValueError, match="0 positions for 0 joints"):
        StateReader(JOINTS)(joint_state((), ()))


def test_a_bag_of_positions_without_names(tmp_path: Path) -> None:
    nameless = STORE.types[JOINTS]
    said = []
    for name, time_ns, data in SAID:
        if name != "/joint_states":
            said.append((name, time_ns, data))
            continue
        message = STORE.deserialize_cdr(data, JOINTS)
        bare = nameless(message.header, [], message.position, message.velocity, message.effort)
        said.append((name, time_ns, bytes(STORE.serialize_cdr(bare, JOINTS))))
    with Bag(write_own(tmp_path / "bag", said)) as bag:
        options = IngestOptions({"left": CAMERAS[0]}, "/joint_states", joints=("b", "a"), nameless_joints=("a", "b"))
        states = [event.values for event in Ingest(bag, options).events() if isinstance(event, State)]
    assert np.allclose(states[3], [1.0, 0.3])


# ---------------------------------------------------------------- ROS 1


def test_a_bag_of_ros_1_is_named_with_the_way_to_convert_it(tmp_path: Path) -> None:
    file = tmp_path / "old.bag"
    file.write_bytes(b"#ROSBAG V2.0\n" + bytes(100))
    way = f"is a bag of ROS 1: convert the bag of ROS 1 with 'rosbags-convert --src {file} --dst {tmp_path}/old'"
    for path in (file, tmp_path):
        with pytest.raises(NotABag, match="is a bag of ROS 1") as refusal:
            Bag(path)
        assert way in str(refusal.value)
    (tmp_path / "renamed.mcap").write_bytes(file.read_bytes())
    with pytest.raises(NotABag, match="is a bag of ROS 1"):
        Bag(tmp_path / "renamed.mcap")


def test_the_named_way_converts_it(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    with Ros1Writer(tmp_path / "old.bag") as writer:
        connection = writer.add_connection("/words", "std_msgs/msg/String", typestore=store)
        message = store.types["std_msgs/msg/String"](data="hello")
        writer.write(connection, BEGIN_NS, bytes(store.serialize_ros1(message, "std_msgs/msg/String")))
    command = ["--src", str(tmp_path / "old.bag"), "--dst", str(tmp_path / "old")]
    subprocess.run([sys.executable, "-m", "rosbags.convert", *command], check=True)
    assert [each.data for each in decoded(tmp_path / "old")] == ["hello"]


@pytest.mark.parametrize(
    ("profile", "reason"), [("ros1", "holds messages of ROS 1: convert"), ("px4", "of profile 'px4', expected ros2")]
)
def test_files_of_other_profiles_are_refused(tmp_path: Path, profile: str, reason: str) -> None:
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start(profile)
        writer.finish()
    with pytest.raises(NotABag, match=reason):
        Bag(path)
