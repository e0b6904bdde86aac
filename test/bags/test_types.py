"""Every message is decoded by what its own publisher says of its type, as other programs write it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from describing import SAID, decoded, said_by, write
from making import BEGIN_NS, CAMERAS, STATE, STEPS, TYPES, picture, topic, write_own, write_rosbags
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from streaming_vla.bags.definitions import parse
from streaming_vla.bags.errors import CorruptBag
from streaming_vla.bags.ingest import Frame, Ingest, IngestOptions
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.repair import repair
from streaming_vla.bags.topics import full_type
from streaming_vla.commands.robot_state import JOINTS
from streaming_vla.images.decode import pixels_of

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
