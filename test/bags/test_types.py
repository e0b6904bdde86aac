"""Every message is decoded by what its own publisher says of its type; names, texts and gaps as other programs write."""

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
from making import BEGIN_NS, CAMERAS, STATE, STEPS, STORE, TYPES, content, picture, topic, write_own, write_rosbags
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from streaming_vla.bags.definitions import parse
from streaming_vla.bags.errors import CorruptBag, NotABag, WrongType
from streaming_vla.bags.ingest import Frame, Ingest, IngestOptions, State
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.repair import repair
from streaming_vla.bags.topics import full_type
from streaming_vla.commands.robot_state import JOINTS, StateReader
from streaming_vla.images.decode import pixels_of

SAID = content()
Channel = tuple[str, str, str, str]  # topic, type, format and text of the definition


def write(path: Path, said: Sequence[tuple[Channel, int, bytes]], **options: Any) -> Path:
    """Write an MCAP file with a channel for each description."""
    path = path.with_suffix(".mcap")
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start("ros2")
        channels: dict[Channel, int] = {}
        for channel, time_ns, data in said:
            if channel not in channels:
                name, kind, form, text = channel
                schema = writer.register_schema(kind, form, text.encode())
                channels[channel] = writer.register_channel(name, "cdr", schema)
            writer.add_message(channels[channel], time_ns, data, time_ns)
        writer.finish()
    return path


def said_by(name: str, count: int = 3) -> list[bytes]:
    return [data for topic_, _, data in SAID if topic_ == name][:count]


def decoded(path: Path) -> list[Any]:
    with Bag(path) as bag:
        found = [bag.decode(message) for message in bag.messages()]
        assert bag.problems == []
    return found


# ---------------------------------------------------------------- names and texts


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("sensor_msgs/JointState", "sensor_msgs/msg/JointState"),
        ("sensor_msgs/msg/JointState", "sensor_msgs/msg/JointState"),
        ("a/action/B_FeedbackMessage", "a/action/B_FeedbackMessage"),
        ("Odd", "Odd"),
        ("", ""),
    ],
)
def test_names_of_two_parts(name: str, full: str) -> None:
    assert full_type(name) == full


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_bags_with_names_of_two_parts_are_read_as_any_other(tmp_path: Path, storage: StoragePlugin) -> None:
    """ROS 2 Crystal and some writers of MCAP leave out `/msg/`."""
    if storage is StoragePlugin.MCAP:
        path = write(
            tmp_path / "bag",
            [
                ((name, TYPES[name].replace("/msg/", "/"), "ros2msg", topic(name).definition), at, data)
                for name, at, data in SAID
            ],
        )
    else:
        path = write_rosbags(tmp_path / "bag", SAID, storage)
        with closing(sqlite3.connect(next(path.glob("*.db3")))) as database, database:
            database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
            database.execute("UPDATE message_definitions SET topic_type = replace(topic_type, '/msg/', '/')")
        (path / "metadata.yaml").write_text((path / "metadata.yaml").read_text().replace("/msg/", "/"))
    with Bag(path) as bag:
        assert {name: each.type for name, each in bag.topics.items()} == TYPES
        ingest = Ingest(bag, IngestOptions({"left": CAMERAS[0]}, "/joint_states", joints=("a",)))
        frames = [event for event in ingest.events() if isinstance(event, Frame)]
        assert len(frames) == STEPS and not ingest.refused and bag.problems == []
        assert np.array_equal(pixels_of(frames[7].message, frames[7].kind)[..., ::-1], picture(7))


@pytest.mark.parametrize("name", sorted(TYPES))
def test_definitions_with_the_line_ends_of_windows(tmp_path: Path, name: str) -> None:
    text = topic(name).definition.replace("\n", "\r\n")
    plain = write(
        tmp_path / "plain", [((name, TYPES[name], "ros2msg", topic(name).definition), BEGIN_NS, said_by(name)[1])]
    )
    path = write(tmp_path / "bag", [((name, TYPES[name], "ros2msg", text), BEGIN_NS, said_by(name)[1])])
    assert repr(decoded(path)) == repr(decoded(plain))


IDL = """\
================================================================================
IDL: pkg_a/msg/Thing
// generated from rosidl_adapter/resource/msg.idl.em
// with input from pkg_a/msg/Thing.msg

#include "std_msgs/msg/Header.idl"

module pkg_a {
  module msg {
    module Thing_Constants {
      const uint8 A = 1;
    };
    typedef double double__3[3];
    @verbatim (language="comment", text=
      "what it is" "\\n"
      "and why")
    struct Thing {
      std_msgs::msg::Header header;

      @unit (value="m")
      double__3 fixed;

      sequence<float> values;
      @default (value=TRUE)
      boolean good;
      octet raw;
      string name;
    };
  };
};

================================================================================
IDL: std_msgs/msg/Header
#include "builtin_interfaces/msg/Time.idl"

module std_msgs {
  module msg {
    struct Header {
      builtin_interfaces::msg::Time stamp;
      string frame_id;
    };
  };
};

================================================================================
IDL: builtin_interfaces/msg/Time
module builtin_interfaces {
  module msg {
    struct Time {
      int32 sec;
      uint32 nanosec;
    };
  };
};
"""
MSG = """\
uint8 A=1
std_msgs/Header header
float64[3] fixed
float32[] values
bool good true
byte raw
string name
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_definitions_in_idl_are_those_in_msg(tmp_path: Path, ends: str) -> None:
    store = get_typestore(Stores.ROS2_KILTED)
    store.register(get_types_from_msg(MSG, "pkg_a/msg/Thing"))
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=3, nanosec=4)
    thing = types["pkg_a/msg/Thing"](
        header=types["std_msgs/msg/Header"](stamp=stamp, frame_id="base"), fixed=np.array([1.0, 2.0, 3.0]),
        values=np.array([0.5, 0.25], np.float32), good=True, raw=7, name="it",
    )  # fmt: skip
    data = bytes(store.serialize_cdr(thing, "pkg_a/msg/Thing"))
    path = write(
        tmp_path / "bag", [(("/thing", "pkg_a/msg/Thing", "ros2idl", IDL.replace("\n", ends)), BEGIN_NS, data)]
    )
    [found] = decoded(path)
    assert (found.header.stamp.sec, found.header.frame_id, found.good, found.raw, found.name) == (
        3,
        "base",
        True,
        7,
        "it",
    )
    assert found.fixed.tolist() == [1.0, 2.0, 3.0] and found.values.tolist() == [0.5, 0.25]


def test_one_type_in_idl_alone() -> None:
    alone = IDL.split("=" * 80)[3].split("\n", 2)[2]
    assert list(parse(alone, "builtin_interfaces/msg/Time", "ros2idl")) == ["builtin_interfaces/msg/Time"]


def test_a_definition_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """That of ROS 2 is taken, but not in silence: the bag said that there is another one."""
    [data] = said_by(STATE, 1)
    path = write(tmp_path / "bag", [((STATE, TYPES[STATE], "ros2msg", "float64[ data\n"), BEGIN_NS, data)])
    with Bag(path) as bag:
        assert bag.decode(next(bag.messages())).data.shape == (4,)
        assert [type(each) for each in bag.problems] == [CorruptBag]
        assert f"topic {STATE}: the bag's definition of {TYPES[STATE]} cannot be read" in str(bag.problems[0])


# ---------------------------------------------------------------- several descriptions


def test_two_versions_of_a_type_on_one_topic_are_each_decoded_by_their_own(tmp_path: Path) -> None:
    older, newer = "uint8 number\n", "uint8 number\nfloat32 weight\nstring name\n"
    said = []
    for step in range(6):
        store, text = get_typestore(Stores.EMPTY), (older, newer)[step % 2]
        store.register(get_types_from_msg(text, "pkg/msg/Thing"))
        fields: dict[str, Any] = {"number": step} if step % 2 == 0 else {"number": step, "weight": 0.5, "name": "x"}
        data = store.serialize_cdr(store.types["pkg/msg/Thing"](**fields), "pkg/msg/Thing")
        said.append((("/thing", "pkg/msg/Thing", "ros2msg", text), BEGIN_NS + step, bytes(data)))
    found = decoded(write(tmp_path / "bag", said))
    assert [each.number for each in found] == list(range(6))
    assert [getattr(each, "weight", None) for each in found] == [None, 0.5] * 3
    repair(tmp_path / "bag.mcap", tmp_path / "new")
    assert [getattr(each, "weight", None) for each in decoded(tmp_path / "new")] == [None, 0.5] * 3


@pytest.mark.parametrize("first", [0, 1])
def test_two_types_on_one_topic_of_a_camera(tmp_path: Path, first: int) -> None:
    pictures = [
        ((CAMERAS[0], TYPES[name], "ros2msg", topic(name).definition), at, data)
        for name, at, data in SAID
        if name in CAMERAS
    ]
    numbers = [
        ((CAMERAS[0], TYPES[STATE], "ros2msg", topic(STATE).definition), at, data)
        for name, at, data in SAID
        if name == STATE
    ]
    joints = [
        (("/joint_states", JOINTS, "ros2msg", topic("/joint_states").definition), at, data)
        for name, at, data in SAID
        if name == "/joint_states"
    ]
    said = sorted([*pictures, *numbers, *joints], key=lambda each: each[1])
    with Bag(write(tmp_path / "bag", said[2 * first :])) as bag:
        ingest = Ingest(bag, IngestOptions({"left": CAMERAS[0]}, "/joint_states"))
        frames = [event for event in ingest.events() if isinstance(event, Frame)]
        assert len(frames) == 2 * (STEPS - first)
        assert {frame.kind for frame in frames} == {TYPES[name] for name in CAMERAS}
        for frame in frames[:6]:
            assert pixels_of(frame.message, frame.kind).shape == picture(0).shape
        assert ingest.refused == {f"undecodable.{CAMERAS[0]}": STEPS}
        assert f"one is of type {TYPES[STATE]}, expected" in ingest.said[f"undecodable.{CAMERAS[0]}"]
        assert "each message is read as what it is" in str(bag.problems[0])


def test_one_topic_may_be_what_several_cameras_show(tmp_path: Path) -> None:
    with Bag(write_own(tmp_path / "bag", SAID)) as bag:
        ingest = Ingest(bag, IngestOptions({"front": CAMERAS[0], "top": CAMERAS[0], "right": CAMERAS[1]}, STATE))
        frames = [event for event in ingest.events() if isinstance(event, Frame)]
    assert [frame.camera for frame in frames[:3]] == ["front", "top", "right"]
    assert {camera: sum(frame.camera == camera for frame in frames) for camera in ("front", "top", "right")} == {
        "front": STEPS, "top": STEPS, "right": STEPS,
    }  # fmt: skip
    ingest.refuse("top", ValueError("damaged"))
    assert ingest.refused == {f"unreadable.{CAMERAS[0]}": 1}


# ---------------------------------------------------------------- what a file leaves out


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
    with pytest.raises(ValueError, match="3 positions without a name, .* observer's robot_state_nameless_joints"):
        StateReader(JOINTS)(joint_state((), (1.0, 2.0, 3.0)))
    with pytest.raises(ValueError, match="0 positions for 0 joints"):
        StateReader(JOINTS)(joint_state((), ()))


def test_a_bag_of_positions_without_names(tmp_path: Path) -> None:
    nameless = STORE.types[JOINTS]
    said = []
    for name, time_ns, data in SAID:
        if name == "/joint_states":
            message = STORE.deserialize_cdr(data, JOINTS)
            bare = nameless(message.header, [], message.position, message.velocity, message.effort)
            data = bytes(STORE.serialize_cdr(bare, JOINTS))
        said.append((name, time_ns, data))
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
