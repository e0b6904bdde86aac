"""From bags to data sets: steps are of one moment, end where a source ends, and say what was asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from making import floats, make
from robots import (
    ARRAY,
    EPISODE,
    IMAGE,
    JOINTS,
    LEVEL,
    PER_PICTURE,
    STATE_JOINTS,
    STRING,
    Message,
    commands,
    episode,
    export,
    header,
    image,
    in_time,
    joints,
    options,
    pictures,
    read,
    sound,
    states,
    stream,
    tasks,
    text,
    write,
)
from rosbags.rosbag2 import StoragePlugin

from streaming_vla.bags.errors import BagError, MissingTopic, NoCamera, WrongType
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.films import film_times
from streaming_vla.datasets.parts import Storage

PERIOD_S = 0.05
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def aligned(folder: Path, number: int = 0, levels: float = 0.0) -> None:
    """Check that picture, state and action of every step are of the same moment; `levels` may pictures be off."""
    state, action, shown = read(folder, number)
    assert len(state)
    seen_s = shown / 20
    assert np.abs(state[:, 0] - seen_s).max() < (1.2 + levels / PER_PICTURE) * PERIOD_S  # the newest picture of then
    assert (action[:, 0] > state[:, 0]).all() and (action[:, 0] - state[:, 0]).max() < PERIOD_S + 1e-3
    assert np.allclose(state[:, 1] - state[:, 0], 10, atol=1e-3) and np.allclose(action[:, 2], 1)
    assert np.allclose(np.diff(state[:, 0]), PERIOD_S, atol=0.0101)
    assert np.allclose(np.diff(action[:, 0]), PERIOD_S, atol=1e-3)


@pytest.mark.parametrize("storage", Storage)
def test_what_a_robot_did(tmp_path: Path, storage: Storage) -> None:
    done = export(write(tmp_path / "bag", stream()), tmp_path / "set", options(storage=storage))
    assert (done.episodes, done.problems) == (1, [])
    aligned(tmp_path / "set", levels=0.0 if storage is Storage.png else 2.0)
    sound(tmp_path / "set")
    with Dataset(tmp_path / "set") as data:
        assert data.facts.state_names == STATE_JOINTS and data.facts.action_names == ("a", "b", "grip")
        assert data.facts.action_absolute == (True, True, True) and set(data.facts.state_units) == {"rad or m"}
        assert (data.facts.cameras[0].height, data.facts.rate) == (16, 20)


def test_a_robot_in_a_namespace(tmp_path: Path) -> None:
    said = [(f"/arm{topic}", *rest) for topic, *rest in stream(1.0)]
    told = [("/arm/instruction", STRING, text("lift"), 0.0), ("/instruction", STRING, text("of another robot"), 0.0)]
    bag = write(tmp_path / "bag", in_time(told, said, stream(1.0)))  # type: ignore[arg-type]
    export(bag, tmp_path / "set", options(namespace="arm", instruction=""))
    aligned(tmp_path / "set")
    assert tasks(tmp_path / "set") == ["lift"]


@pytest.mark.parametrize("plugin", StoragePlugin)
@pytest.mark.parametrize("last", [*{each[0]: None for each in stream(0.1)}, "topic by topic"])
def test_the_order_of_the_file_is_not_that_of_time(tmp_path: Path, plugin: StoragePlugin, last: str) -> None:
    """Exactly as in the order of time, whichever topic stands behind the others."""
    said = sorted(stream(5.0), key=lambda each: each[0] if last == "topic by topic" else str(each[0] == last))
    done = export(write(tmp_path / "bag", said, plugin), tmp_path / "set")
    assert (done.episodes, done.problems) == (1, [])
    with Dataset(tmp_path / "set") as data:
        assert [entry.length for entry in data.entries] == [99]
    aligned(tmp_path / "set")


@pytest.mark.parametrize("plugin", StoragePlugin)
def test_a_file_that_goes_backwards_is_told(tmp_path: Path, plugin: StoragePlugin) -> None:
    """Every step back of a topic is a clock that was set: no step may mix what lies on both sides."""
    done = export(write(tmp_path / "bag", stream(5.0)[::-1], plugin), tmp_path / "set")
    assert len(done.problems) == 1 and "the clock jumps back" in done.problems[0]
    for number in range(done.episodes):
        aligned(tmp_path / "set", number)


SOURCES = {"/camera/front/image": "camera", "/joint_states": "state", "/command": "commands"}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("silence_s", [0.3, 0.7, 10_800.0])
def test_an_episode_ends_where_a_source_ends(tmp_path: Path, source: str, silence_s: float) -> None:
    """One source ends after a second, the others go on for a while; everything comes back later."""
    first = [each for each in stream(1.0 + min(silence_s, 0.7)) if each[0] != source or each[3] < 1.0]
    again = stream(1.0, begin_s=1.0 + silence_s)
    first = [each for each in first if each[3] < 1.0 + silence_s]
    export(write(tmp_path / "bag", [*first, *again]), tmp_path / "set")
    state, action, shown = read(tmp_path / "set")
    if silence_s < 0.5:  # one that is shorter than the longest gap is bridged
        assert len(state) > 30
        return
    assert len(state) <= 20
    last_s = {"/camera/front/image": 0.95, "/joint_states": 0.99, "/command": 0.96}[source]
    assert state[-1, 0] <= last_s + 1e-3
    # nothing is frozen: every step has a state, an action and a picture of its own
    assert (np.diff(state[:, 0]) > 0).all() and (np.diff(action[:, 0]) > 0).all() and (np.diff(shown) > 0.5).all()
    state, _, _ = read(tmp_path / "set", 1)
    assert 15 <= len(state) <= 20


@pytest.mark.parametrize("source", SOURCES)
def test_the_end_of_a_bag_is_not_filled_up(tmp_path: Path, source: str) -> None:
    """The last second has no message of one source: the recorder was slow to stop."""
    said = [each for each in stream(2.0) if each[0] != source or each[3] < 1.0]
    export(write(tmp_path / "bag", said), tmp_path / "set", options(longest_gap_s=5.0))
    state, action, shown = read(tmp_path / "set")
    assert len(state) <= 20
    assert (np.diff(state[:, 0]) > 0).all() and (np.diff(action[:, 0]) > 0).all() and (np.diff(shown) > 0.5).all()


def test_a_clock_that_is_set_back_ends_an_episode(tmp_path: Path) -> None:
    said = [*stream(1.0, begin_s=100.0), *stream(1.0)]
    done = export(write(tmp_path / "bag", said), tmp_path / "set")
    assert done.episodes == 2 and "the clock jumps back" in " ".join(done.problems)
    for number in range(2):
        aligned(tmp_path / "set", number)


def test_a_command_that_is_late_is_taken_once(tmp_path: Path) -> None:
    late = np.random.default_rng(0).uniform(-PERIOD_S / 3, PERIOD_S / 3, 40)
    said = [(*each[:3], each[3] + late[place]) for place, each in enumerate(commands(2.0))]
    export(write(tmp_path / "bag", in_time(pictures(2.0), states(2.0), said)), tmp_path / "set")
    _, action, _ = read(tmp_path / "set")
    assert len(action) > 35 and np.allclose(np.diff(action[:, 0]), PERIOD_S, atol=1e-3)


def test_a_picture_that_cannot_be_decoded_ends_an_episode(tmp_path: Path) -> None:
    def cut(message: Message) -> Message:
        if message[0] != "/camera/front/image":
            return message
        pixels = np.full((16, 16, 3), LEVEL + PER_PICTURE * round(20 * message[3]), np.uint8)
        data = cv2.imencode(".png", pixels)[1].reshape(-1)[: 40 if message[3] == 1.0 else None]
        small = make(COMPRESSED, header=header(), format="bgr8; png compressed bgr8", data=data)
        return message[0], COMPRESSED, small, message[3]

    done = export(write(tmp_path / "bag", map(cut, stream(2.0))), tmp_path / "set")
    assert done.episodes == 2
    assert "/camera/front/image are left out: the compressed picture" in " ".join(done.problems)
    aligned(tmp_path / "set", 0)
    aligned(tmp_path / "set", 1)
    assert read(tmp_path / "set", 0)[0][-1, 0] < 1.05 <= read(tmp_path / "set", 1)[0][0, 0]


def test_dropped_pictures_are_told(tmp_path: Path) -> None:
    said = [each for each in stream(4.0) if each[0] != "/camera/front/image" or round(each[3] * 20) % 4]
    done = export(write(tmp_path / "bag", said), tmp_path / "set")
    (told,) = done.problems
    assert "camera front has no new picture for" in told and "(24 %), which show the one before" in told


@pytest.mark.parametrize(
    ("topic", "given", "expected"),
    [
        ([("/instruction", STRING, text("open the door"), 0.0)], "", ["open the door"]),
        ([("/instruction", STRING, text("open the door"), 0.0)], "close it", ["close it"]),
        ([("/instruction", STRING, text("open"), 0.0), ("/instruction", STRING, text("shut"), 1.0)], "",
         ["open", "shut"]),
        ([("/instruction", STRING, text("open"), 0.0), ("/instruction", STRING, text("open"), 1.0)], "", ["open"]),
        ([("/instruction", STRING, text(" open \n"), 0.0)], "", ["open"]),
        ([("/episode", EPISODE, episode(1, "lift"), 0.0), ("/instruction", STRING, text("other"), 0.0)], "", ["lift"]),
        ([("/episode", EPISODE, episode(1, "lift"), 0.0), ("/episode", EPISODE, episode(2, "lower"), 1.0)], "",
         ["lift", "lower"]),
        ([("/episode", EPISODE, episode(1, ""), 0.0)], "do it", ["do it"]),
        ([], "do it", ["do it"]),
    ],
)  # fmt: skip
def test_the_instruction_is_the_bags(tmp_path: Path, topic: list[Message], given: str, expected: list[str]) -> None:
    """As `replay` takes it: the episode's, else the given one, else that of the bag's topic."""
    export(write(tmp_path / "bag", in_time(topic, stream(2.0))), tmp_path / "set", options(instruction=given))
    assert tasks(tmp_path / "set") == expected


@pytest.mark.parametrize(
    "topic",
    [[], [("/instruction", STRING, text("  "), 0.0)], [("/episode", EPISODE, episode(1, ""), 0.0)]],
)
def test_without_an_instruction_nothing_is_written(tmp_path: Path, topic: list[Message]) -> None:
    bag = write(tmp_path / "bag", in_time(topic, stream(1.0)))
    with pytest.raises(BagError, match="instruction"):
        export(bag, tmp_path / "set", options(instruction=""))
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


@pytest.mark.parametrize(
    ("period_s", "rate"),
    [(0.033333, Fraction(30)), (0.0333667, Fraction(30000, 1001)), (0.05, Fraction(20)), (0.07, Fraction(100, 7))],
)
def test_film_and_table_have_one_rate(tmp_path: Path, period_s: float, rate: Fraction) -> None:
    hz = 1 / period_s
    said = in_time(pictures(20.0, hz=hz), states(20.0), commands(20.0, hz=hz))
    given = options({"generator": {"control_period_s": period_s}}, storage=Storage.film)
    export(write(tmp_path / "bag", said), tmp_path / "set", given)
    sound(tmp_path / "set")
    with Dataset(tmp_path / "set") as data:
        assert data.facts.rate == rate
        (entry,) = data.entries
        stored = data.episode(entry).timestamp
        shown = np.array(film_times(entry.films["front"].path))
        assert np.abs(stored - shown).max() < 1e-4 and len(shown) == len(stored) > 19 * rate
        assert np.abs(shown - np.arange(len(shown)) / float(rate)).max() < 1e-6


def test_cameras_of_different_size(tmp_path: Path) -> None:
    said = in_time(stream(1.0), pictures(1.0, camera="wrist", size=(30, 22)))
    cameras = {"cameras": ("front", "wrist"), "camera_topics": ("camera/front/image", "camera/wrist/image")}
    bag = write(tmp_path / "bag", said)
    export(bag, tmp_path / "set", options({"observer": cameras}))
    with Dataset(tmp_path / "set") as data:
        assert [(each.height, each.width) for each in data.facts.cameras] == [(16, 16), (30, 22)]
    turned = {**cameras, "camera_rotations": (0, 90)}
    export(bag, tmp_path / "turned", options({"observer": turned}, storage=Storage.png))
    with Dataset(tmp_path / "turned") as data:
        assert [(each.height, each.width) for each in data.facts.cameras] == [(16, 16), (22, 30)]
    export(bag, tmp_path / "square", options({"observer": turned}, square=20))
    with Dataset(tmp_path / "square") as data:
        assert [(each.height, each.width) for each in data.facts.cameras] == [(20, 20), (20, 20)]


def test_a_camera_that_changes_its_size_is_refused(tmp_path: Path) -> None:
    said = in_time(stream(1.0), [("/camera/front/image", IMAGE, image(9, (32, 32)), 0.5)])
    with pytest.raises(ValueError, match=r"bag: camera front sends 32x32 px after 16x16 px: .* with --square"):
        export(write(tmp_path / "bag", said), tmp_path / "set")
    other = write(tmp_path / "other", in_time(pictures(1.0, size=(32, 32)), states(1.0), commands(1.0)))
    with pytest.raises(DatasetError, match=r"differ in cameras \(front 16x16 and front 32x32\): export them into two"):
        export([write(tmp_path / "one", stream(1.0)), other], tmp_path / "set")
    assert export([tmp_path / "one", other], tmp_path / "set", options(square=16)).episodes == 2


def test_odd_sizes(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", in_time(pictures(1.0, size=(15, 17)), states(1.0), commands(1.0)))
    export(bag, tmp_path / "set", options(storage=Storage.film))
    aligned(tmp_path / "set", levels=2.0)
    with pytest.raises(BagError, match="sizes must be even"):
        export(bag, tmp_path / "other", options(storage=Storage.film420))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])  # the last is infinite for the policy, which takes float32
@pytest.mark.parametrize("topic", ["/command", "/joint_states"])
def test_what_is_not_finite_is_left_out(tmp_path: Path, topic: str, bad: float) -> None:
    said = []
    broken = floats([0.0, bad, 0.0]) if topic == "/command" else joints(STATE_JOINTS, [1.0, bad, 0.5])
    for name, kind, message, time_s in stream(2.0):
        here = name == topic and 1.0 <= time_s < 1.05
        said.append((name, kind, broken if here else message, time_s))
    done = export(write(tmp_path / "bag", said), tmp_path / "set")
    (told,) = [each for each in done.problems if topic in each]
    assert "expected finite" in told
    if topic == "/command":  # nobody knows what the robot did then: the command before is not taken in its place
        assert done.episodes == 2
        assert read(tmp_path / "set", 0)[1][-1, 0] < 1.0 < read(tmp_path / "set", 1)[1][0, 0]
    for number in range(done.episodes):
        assert np.isfinite(read(tmp_path / "set", number)[0]).all()


def test_an_episode_that_was_told_is_over(tmp_path: Path) -> None:
    told = [("/episode", EPISODE, episode(1, "lift"), 0.0), ("/episode", EPISODE, episode(1, "lift", False), 1.0),
            ("/episode", EPISODE, episode(2, "lower"), 1.5)]  # fmt: skip
    export(write(tmp_path / "bag", in_time(told, stream(3.0))), tmp_path / "set")
    assert tasks(tmp_path / "set") == ["lift", "lower"]
    assert read(tmp_path / "set", 0)[1][-1, 0] <= 1.0 and read(tmp_path / "set", 1)[0][0, 0] >= 1.5


@pytest.mark.parametrize(
    ("said", "error", "sentence"),
    [
        ([*states(1.0), *commands(1.0)], NoCamera, "has no picture topic"),
        ([*pictures(1.0, camera="side"), *states(1.0), *commands(1.0)], MissingTopic, "its picture topics are /camera"),
        ([*pictures(1.0), *commands(1.0)], MissingTopic, "no topic joint_states; topics that may hold the"),
        ([*pictures(1.0), *states(1.0)], MissingTopic, "no topic command for the actions; topics that"),
        ([*pictures(1.0), *states(1.0), ("/command", STRING, text("go"), 0.1)], WrongType, "is of type std_msgs/msg"),
        ([*pictures(1.0), *states(1.0), *commands(1.0, begin_s=50.0)], BagError, "never there at the same time"),
        ([*pictures(1.0), *commands(1.0), ("/joint_states", JOINTS, joints(("foot",), [1.0]), 0.1)], BagError,
         "nothing of joint elbow, joint finger, joint shoulder that can be used"),
        ([*pictures(1.0), *states(1.0), ("/command", ARRAY, floats([1.0]), 0.1)], BagError,
         "nothing of a command of a, a command of b, a command of grip, commands that can be used"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told(tmp_path: Path, said: list[Message], error: type[BagError], sentence: str) -> None:
    bag = write(tmp_path / "bag", in_time(said))
    with pytest.raises(ValueError, match=sentence) as refusal:
        export(bag, tmp_path / "set")
    assert isinstance(refusal.value, BagError)
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
