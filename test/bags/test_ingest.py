"""From bags to the observer's inputs, and what is said of topics that are not what their names say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import making
import numpy as np
import pytest
from making import (
    BEGIN_NS,
    CAMERAS,
    STATE,
    STEP_NS,
    STEPS,
    STORE,
    TYPES,
    content,
    floats,
    picture,
    write_own,
)  # fmt: skip

from streaming_vla.bags.errors import MissingTopic, NoCamera, WrongType
from streaming_vla.bags.ingest import Commanded, Frame, Ingest, IngestOptions, Said, State
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.topics import Topic
from streaming_vla.commands.robot_state import JOINTS
from streaming_vla.images.decode import pixels_of

LEFT, RIGHT = CAMERAS
OPTIONS = IngestOptions({"left": LEFT, "right": RIGHT[1:]}, "robot_state", ("episode",), action_topic="command")
EPISODE_TYPE = "streaming_vla_interfaces/msg/Episode"


def test_events_come_in_order(tmp_path: Path) -> None:
    with Bag(write_own(tmp_path / "bag", content())) as bag:
        ingest = Ingest(bag, OPTIONS)
        events = list(ingest.events())
    assert [event.time_s for event in events] == sorted(event.time_s for event in events)
    frames = [event for event in events if isinstance(event, Frame)]
    assert {frame.camera for frame in frames} == {"left", "right"}
    assert len(frames) == 2 * STEPS
    for step, frame in enumerate(frame for frame in frames if frame.camera == "right"):
        assert np.array_equal(pixels_of(frame.message, frame.kind)[..., ::-1], picture(step))
        assert frame.stamp_s == pytest.approx(frame.time_s, abs=1e-5)
    states = [event.values for event in events if isinstance(event, State)]
    assert np.allclose(np.stack(states)[:, 0], 0.01 * np.arange(STEPS))
    assert not [event for event in events if isinstance(event, Said)]
    assert not ingest.refused


def test_joints_by_name(tmp_path: Path) -> None:
    with Bag(write_own(tmp_path / "bag", content())) as bag:
        ingest = Ingest(bag, IngestOptions({"left": LEFT}, "joint_states", joints=("b", "a")))
        states = [event.values for event in ingest.events() if isinstance(event, State)]
        assert np.allclose(states[3], [1.0, 0.3])
        ingest = Ingest(bag, IngestOptions({"left": LEFT}, "joint_states", joints=("wrist",)))
        assert not [event for event in ingest.events() if isinstance(event, State)]
        assert ingest.refused == {"malformed./joint_states": STEPS}
        assert "joint wrist is not among a, b" in ingest.said["malformed./joint_states"]


def test_what_is_missing_is_told_with_what_is_there(tmp_path: Path) -> None:
    with Bag(write_own(tmp_path / "bag", content())) as bag:
        with pytest.raises(MissingTopic, match=r"no topic top for camera up; its picture topics are /camera/left"):
            Ingest(bag, IngestOptions({"up": "top"}, STATE))
        with pytest.raises(MissingTopic, match=r"no topic arm; topics that may hold .* /robot_state, /joint_states"):
            Ingest(bag, IngestOptions({"left": LEFT}, "arm"))
        with pytest.raises(WrongType, match="/robot_state is of type"):
            Ingest(bag, IngestOptions({"left": STATE}, STATE))


def test_a_bag_without_a_camera(tmp_path: Path) -> None:
    said = [message for message in content() if message[0] not in CAMERAS]
    with (
        Bag(write_own(tmp_path / "bag", said)) as bag,
        pytest.raises(NoCamera, match="has no picture topic; its topics"),
    ):
        Ingest(bag, OPTIONS)


def commands(kind: str = "std_msgs/msg/Float64MultiArray", values: float = 1.0) -> list[tuple[str, int, bytes]]:
    """Return the robot's content with a command behind it."""
    message = floats([values, 0.0, 0.0, 0.0])
    data = bytes(STORE.serialize_cdr(message, kind)) if kind == TYPES[STATE] else b"\0\1\0\0"
    return [*content(), ("/command", BEGIN_NS + STEPS * STEP_NS, data)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])  # the last is infinite for the policy, which takes float32
def test_a_command_that_is_not_finite_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    monkeypatch.setitem(TYPES, "/command", TYPES[STATE])
    with Bag(write_own(tmp_path / "bag", commands(values=bad))) as bag:
        ingest = Ingest(bag, OPTIONS)
        (event,) = [event for event in ingest.events() if isinstance(event, Commanded)]
    assert event.values is None and ingest.refused == {"malformed./command": 1}
    assert f"/command are left out: the command is {bad:g} at place 0, expected" in ingest.said["malformed./command"]


@pytest.mark.parametrize("kind", ["geometry_msgs/msg/TwistStamped", "trajectory_msgs/msg/JointTrajectory", JOINTS])
def test_commands_that_are_no_actions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A replay compares with actions as they are; an export reads other types too."""
    monkeypatch.setitem(TYPES, "/command", kind)
    with Bag(write_own(tmp_path / "bag", commands(kind))) as bag:
        ingest = Ingest(bag, OPTIONS)
    assert isinstance(ingest.command_problem, WrongType)
    assert f"/command is of type {kind}, but actions are read from" in str(ingest.command_problem)


def test_without_commands_it_is_told(tmp_path: Path) -> None:
    with Bag(write_own(tmp_path / "bag", content())) as bag:
        assert isinstance(Ingest(bag, OPTIONS).command_problem, MissingTopic)


def test_a_topic_of_the_suites_name_may_be_another_robots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "/episode", "std_msgs/msg/Float64MultiArray")
    episode = bytes(STORE.serialize_cdr(floats([1.0]), TYPES["/episode"]))
    with Bag(write_own(tmp_path / "bag", [("/episode", BEGIN_NS, episode), *content()])) as bag:
        ingest = Ingest(bag, OPTIONS)
        assert not [event for event in ingest.events() if isinstance(event, Said)]
    assert list(ingest.said.values()) == [
        f"topic /episode is left out: it is of type {TYPES['/episode']}, the suite's is {EPISODE_TYPE}"
    ]


def test_a_topic_of_another_version_of_the_suite_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def before(name: str) -> Topic:
        text = whole(name).definition
        return replace(whole(name), definition=text.replace("string instruction\n", "") if name == "/episode" else text)

    whole = making.topic
    monkeypatch.setattr(making, "topic", before)
    monkeypatch.setitem(TYPES, "/episode", EPISODE_TYPE)
    with Bag(write_own(tmp_path / "bag", [("/episode", BEGIN_NS, b"\0\1\0\0"), *content()])) as bag:
        ingest = Ingest(bag, OPTIONS)
        assert not [event for event in ingest.events() if isinstance(event, Said)]
    assert list(ingest.said.values()) == [
        f"topic /episode is left out: its {EPISODE_TYPE} has no instruction: another version of the suite wrote it"
    ]
