"""From bags to the observer's inputs, to episodes, and to a data set and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import making
import numpy as np
import pytest
from making import (
    BEGIN_NS,
    CAMERAS,
    SIZE,
    STATE,
    STEP_NS,
    STEPS,
    STORE,
    TYPES,
    content,
    floats,
    header,
    make,
    picture,
    write_own,
)  # fmt: skip
from streaming_vla.bags.dataset import DatasetError, DatasetFacts, read_dataset

from streaming_vla.bags.errors import MissingTopic, NoCamera, WrongType
from streaming_vla.bags.export import write_dataset
from streaming_vla.bags.ingest import Frame, Ingest, IngestOptions, Said, State
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.steps import EpisodeSteps, StepOptions, episodes
from streaming_vla.bags.topics import Topic
from streaming_vla.commands.robot_state import JOINTS
from streaming_vla.images.decode import pixels_of

LEFT, RIGHT = CAMERAS
OPTIONS = IngestOptions({"left": LEFT, "right": RIGHT[1:]}, "robot_state", ("episode",), action_topic="command")
EPISODE_TYPE = "streaming_vla_interfaces/msg/Episode"
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def more_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "/command", "std_msgs/msg/Float64MultiArray")
    monkeypatch.setitem(TYPES, "/episode", EPISODE_TYPE)


def with_commands(steps: int = STEPS, change: int | None = None) -> list[tuple[str, int, bytes]]:
    """Return the robot's content with a command at every step; a new episode begins at step `change`."""
    said = content(steps)
    for step in range(steps):
        time_ns = BEGIN_NS + step * STEP_NS + 10
        command = STORE.serialize_cdr(floats([0.1 * step, 0.0, 0.0, -1.0]), TYPES["/command"])
        said.append(("/command", time_ns, bytes(command)))
        if change is not None and step in (0, change):
            number, text = (1, "open the drawer") if step == 0 else (2, "close the drawer")
            episode = make(
                EPISODE_TYPE, header=header(time_ns), session="/", number=number, active=True, instruction=text
            )
            said.append(("/episode", time_ns - 10, bytes(STORE.serialize_cdr(episode, EPISODE_TYPE))))
    return sorted(said, key=lambda each: each[1])


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


@pytest.mark.usefixtures("more_types")
def test_episodes_are_cut_as_they_were_told(tmp_path: Path) -> None:
    with Bag(write_own(tmp_path / "bag", with_commands(change=20))) as bag:
        found = list(episodes(Ingest(bag, OPTIONS), StepOptions(0.05, 16)))
    assert [episode.instruction for episode in found] == ["open the drawer", "close the drawer"]
    assert [len(episode) for episode in found] == pytest.approx([19, 19], abs=1)
    first = found[0]
    assert first.pictures["left"][0].shape == (16, 16, 3)
    steps = np.stack(first.action)[:, 0] / 0.1
    assert np.allclose(np.diff(steps), 1.0, atol=1e-3)  # every step has its own command
    # what was seen at a step comes before what the robot was told then
    assert np.allclose(np.stack(first.state)[:, 0], 0.01 * (steps - 1), atol=1e-6)
    assert all(np.array_equal(pixels, first.pictures["right"][k]) for k, pixels in enumerate(first.pictures["left"]))


@pytest.mark.usefixtures("more_types")
def test_a_command_that_is_late_is_taken_once(tmp_path: Path) -> None:
    late = np.random.default_rng(0).integers(-STEP_NS // 3, STEP_NS // 3, 2 * STEPS).tolist()
    said = [
        (topic, time + late.pop() if topic == "/command" and time > BEGIN_NS + STEP_NS else time, data)
        for topic, time, data in with_commands()
    ]
    with Bag(write_own(tmp_path / "bag", sorted(said, key=lambda each: each[1]))) as bag:
        (found,) = episodes(Ingest(bag, OPTIONS), StepOptions(0.05, 16, instruction="go"))
    assert np.allclose(np.diff(np.stack(found.action)[:, 0]), 0.1, atol=1e-3)


@pytest.mark.usefixtures("more_types")
def test_a_silence_ends_an_episode(tmp_path: Path) -> None:
    said = [
        (topic, time + (time >= BEGIN_NS + 20 * STEP_NS) * 2 * 10**9, data) for topic, time, data in with_commands()
    ]
    with Bag(write_own(tmp_path / "bag", said)) as bag:
        found = list(episodes(Ingest(bag, OPTIONS), StepOptions(0.05, 16, instruction="go")))
    assert len(found) == 2
    assert {episode.instruction for episode in found} == {"go"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])  # the last is infinite for the policy, which takes float32
@pytest.mark.usefixtures("more_types")
def test_what_is_not_finite_is_left_out(tmp_path: Path, bad: float) -> None:
    at = BEGIN_NS + 20 * STEP_NS
    broken = bytes(STORE.serialize_cdr(floats([0.0, bad, 0.0, 0.0]), TYPES["/command"]))
    said = [
        (topic, time, broken if at <= time < at + STEP_NS and topic in (STATE, "/command") else data)
        for topic, time, data in with_commands()
    ]
    with Bag(write_own(tmp_path / "bag", said)) as bag:
        ingest = Ingest(bag, OPTIONS)
        found = list(episodes(ingest, StepOptions(0.05, 16, instruction="go")))
    assert ingest.refused == {"malformed./robot_state": 1, "malformed./command": 1}
    assert f"/command are left out: the command is {bad:g} at place 1, expected" in ingest.said["malformed./command"]
    actions = [np.stack(episode.action)[:, 0] / 0.1 for episode in found]
    assert len(actions) == 2 and actions[0][-1] < 20 < actions[1][0]
    for action in actions:  # the command before the one that was left out is not taken in its place
        assert np.allclose(np.diff(action), 1.0, atol=1e-3)


@pytest.mark.usefixtures("more_types")
def test_a_picture_that_cannot_be_decoded_ends_an_episode(tmp_path: Path) -> None:
    at = BEGIN_NS + 20 * STEP_NS
    kind = TYPES[CAMERAS[1]]

    def cut_off(data: bytes) -> bytes:
        message = STORE.deserialize_cdr(data, kind)
        message.data = message.data[:40]
        return bytes(STORE.serialize_cdr(message, kind))

    said = [
        (topic, time, cut_off(data) if topic == CAMERAS[1] and at <= time < at + STEP_NS else data)
        for topic, time, data in with_commands()
    ]
    with Bag(write_own(tmp_path / "bag", said)) as bag:
        ingest = Ingest(bag, OPTIONS)
        found = list(episodes(ingest, StepOptions(0.05, 16, instruction="go")))
    assert ingest.refused == {f"unreadable.{CAMERAS[1]}": 1}
    assert f"{CAMERAS[1]} are left out: the compressed picture" in ingest.said[f"unreadable.{CAMERAS[1]}"]
    assert [len(episode) for episode in found] == pytest.approx([20, STEPS - 21], abs=2)


@pytest.mark.parametrize("kind", ["geometry_msgs/msg/TwistStamped", "trajectory_msgs/msg/JointTrajectory", JOINTS])
def test_commands_that_are_no_actions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(TYPES, "/command", kind)
    folder = write_own(tmp_path / "bag", [*content(), ("/command", BEGIN_NS + STEPS * STEP_NS, b"\0\1\0\0")])
    with Bag(folder) as bag, pytest.raises(WrongType, match=rf"/command is of type {kind}, but actions are read from"):
        list(episodes(Ingest(bag, OPTIONS), StepOptions(0.05, 16, instruction="go")))


@pytest.mark.usefixtures("more_types")
def test_a_topic_of_the_suites_name_may_be_another_robots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "/episode", "std_msgs/msg/Float64MultiArray")
    episode = bytes(STORE.serialize_cdr(floats([1.0]), TYPES["/episode"]))
    with Bag(write_own(tmp_path / "bag", [("/episode", BEGIN_NS, episode), *with_commands()])) as bag:
        ingest = Ingest(bag, OPTIONS)
        (found,) = episodes(ingest, StepOptions(0.05, 16, instruction="go"))
    assert found.instruction == "go"
    assert list(ingest.said.values()) == [
        f"topic /episode is left out: it is of type {TYPES['/episode']}, the suite's is {EPISODE_TYPE}"
    ]


@pytest.mark.usefixtures("more_types")
def test_a_topic_of_another_version_of_the_suite_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def before(name: str) -> Topic:
        text = whole(name).definition
        return replace(whole(name), definition=text.replace("string instruction\n", "") if name == "/episode" else text)

    whole = making.topic
    monkeypatch.setattr(making, "topic", before)
    with Bag(write_own(tmp_path / "bag", [("/episode", BEGIN_NS, b"\0\1\0\0"), *with_commands()])) as bag:
        ingest = Ingest(bag, OPTIONS)
        (found,) = episodes(ingest, StepOptions(0.05, 16, instruction="go"))
    assert found.instruction == "go"
    assert list(ingest.said.values()) == [
        f"topic /episode is left out: its {EPISODE_TYPE} has no instruction: another version of the suite wrote it"
    ]


def test_actions_are_needed(tmp_path: Path) -> None:
    with (
        Bag(write_own(tmp_path / "bag", content())) as bag,
        pytest.raises(MissingTopic, match="no topic command for the"),
    ):
        list(episodes(Ingest(bag, OPTIONS), StepOptions(0.05, 16)))


@pytest.mark.usefixtures("more_types")
def test_a_data_set_gives_back_what_the_robot_did(tmp_path: Path) -> None:
    facts = DatasetFacts(20.0, ("left", "right"), SIZE, NAMES, NAMES)
    with Bag(write_own(tmp_path / "bag", with_commands(change=20))) as bag:
        found = list(episodes(Ingest(bag, OPTIONS), StepOptions(0.05, SIZE)))
    folder = tmp_path / "data"
    assert write_dataset(folder, iter(found), facts) == 2
    information = json.loads((folder / "meta/info.json").read_text())
    assert information["total_frames"] == sum(map(len, found))
    assert information["features"]["observation.images.left"]["shape"] == [SIZE, SIZE, 3]
    for episode, read in zip(found, read_dataset(folder), strict=True):
        assert read["instruction"] == episode.instruction
        assert np.array_equal(read["state"], np.stack(episode.state))
        assert np.array_equal(read["action"], np.stack(episode.action))
        assert read["offset"].shape == (len(episode), 2, 2)
        begin, end = read["offset"][-1, 1]
        pixels = cv2.imdecode(read["jpeg"][begin:end], cv2.IMREAD_COLOR)
        assert np.abs(pixels.astype(int) - episode.pictures["right"][-1]).mean() < 8  # the film is not lossless
    with pytest.raises(DatasetError, match="exists already"):
        write_dataset(folder, iter(found), facts)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no LeRobot data set"):
        next(read_dataset(tmp_path))
    with pytest.raises(DatasetError, match="hold no episode"):
        write_dataset(tmp_path / "data", iter([]), DatasetFacts(20.0, ("left",), SIZE, NAMES, NAMES))


@pytest.mark.usefixtures("more_types")
def test_a_refused_export_leaves_nothing(tmp_path: Path) -> None:
    facts = DatasetFacts(20.0, ("left", "right"), SIZE, NAMES, NAMES)
    with Bag(write_own(tmp_path / "bag", with_commands(change=20))) as bag:
        found = list(episodes(Ingest(bag, OPTIONS), StepOptions(0.05, SIZE)))

    def then_refused() -> Iterator[EpisodeSteps]:
        yield found[0]
        assert not (tmp_path / "data").exists() and (tmp_path / ".data.partial").is_dir()
        raise MissingTopic("the second bag has no camera")

    (tmp_path / ".data.partial/meta").mkdir(parents=True)  # of a process that was killed
    with pytest.raises(MissingTopic):
        write_dataset(tmp_path / "data", then_refused(), facts)
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    assert write_dataset(tmp_path / "data", iter(found), facts) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "data"]
