"""The observer process: good pictures become one observation, bad ones are refused and counted."""

from __future__ import annotations

import array
import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64MultiArray
from streaming_vla_interfaces.msg import Episode, Observation, ObserveRequest

from streaming_vla.ros.base import LATCHED
from streaming_vla.ros.images import picture_message

pytestmark = pytest.mark.ros
NUMBERS = itertools.count(10)  # of episodes


@pytest.fixture(scope="module")
def robot(suite: Any, probe: Any) -> Any:
    suite.start(
        "observer",
        cameras=["front", "wrist"],
        camera_topics=["front/image", "wrist/compressed"],
        camera_types=["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"],
        camera_rotations=[0, 90],
        image_size=48,
        frame_timeout_s=2.0,
    )
    probe.wait_for_nodes("observer")
    return Robot(probe)


class Robot:
    """What stands around the observer."""

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.observations = probe.record(Observation, "observation", 10)
        self.episodes = probe.publisher(Episode, "episode", LATCHED)
        self.requests = probe.publisher(ObserveRequest, "observe_request")
        self.pictures = probe.publisher(Image, "front/image")
        self.compressed = probe.publisher(CompressedImage, "wrist/compressed")
        self.states = probe.publisher(Float64MultiArray, "robot_state")

    def begin(self, number: int, wait: bool = True) -> None:
        self.episodes.publish(Episode(session="/", number=number, active=True, instruction="open the drawer"))
        if wait:
            self.probe.spin(0.2)

    def ask(self, episode: int, sequence: int) -> None:
        self.requests.publish(ObserveRequest(session="/", episode=episode, sequence=sequence, reason=1))

    def show(self, image: Image | None = None, damaged: bool = False) -> None:
        self.states.publish(Float64MultiArray(data=[0.0, 0.5, 0.25, 1.0]))
        self.pictures.publish(image or good_picture())
        lying = np.zeros((60, 80), np.uint8)
        lying[:, :40] = 255  # lies on its left side: the bright half belongs on top
        data = cv2.imencode(".png", lying)[1].tobytes()
        data = data[: 50 if damaged else None]  # the header is whole
        self.compressed.publish(CompressedImage(format="png", data=array.array("B", data)))

    def show_until_observed(self, image: Image | None = None) -> Observation:
        count = len(self.observations)
        for _ in range(50):
            self.show(image)
            self.probe.spin(0.05)
            if len(self.observations) > count:
                return self.observations[-1][1]
        raise AssertionError("no observation came")


def good_picture() -> Image:
    """Return a grey picture of camera front."""
    return picture_message(np.full((60, 80, 3), 128, np.uint8), "front")


def test_one_request_one_observation(robot: Robot) -> None:
    robot.begin(1)
    robot.ask(1, 0)
    observation = robot.show_until_observed()
    assert (observation.episode, observation.sequence, observation.reason) == (1, 0, 1)
    assert (observation.instruction, observation.session) == ("open the drawer", "/")
    assert list(observation.cameras) == ["front", "wrist"]
    assert {image.format for image in observation.images} == {"jpeg"}
    upright = cv2.imdecode(np.asarray(observation.images[1].data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert upright.shape == (48, 48) and upright[:20].min() > 200 and upright[28:].max() < 50
    assert list(observation.state) == [0.0, 0.5, 0.25, 1.0]
    robot.show()
    robot.probe.spin(0.3)
    assert len(robot.observations) == 1


def test_a_request_may_overtake_the_message_of_its_episode(robot: Robot) -> None:
    robot.ask(3, 0)
    robot.probe.spin(0.2)
    robot.begin(3, wait=False)
    assert robot.show_until_observed().episode == 3


def test_an_episode_of_the_past_holds_no_request_back(robot: Robot) -> None:
    old, number = next(NUMBERS), next(NUMBERS)
    robot.begin(number)
    robot.begin(old)
    robot.ask(number, 0)
    assert robot.show_until_observed().episode == number
    robot.probe.wait(lambda: robot.probe.figure("observer", "old_episode") == "1", "the old episode is not counted")


def test_of_requests_that_overtake_their_episode_the_newest_is_answered(robot: Robot) -> None:
    number = next(NUMBERS)
    robot.ask(number, 0)
    robot.ask(number, 1)
    robot.probe.spin(0.2)
    robot.begin(number, wait=False)
    assert robot.show_until_observed().sequence == 1
    superseded = "early_request_superseded"
    robot.probe.wait(lambda: robot.probe.figure("observer", superseded) == "1", "the other one is not counted")


@pytest.mark.parametrize("changes", [{"encoding": "32FC4"}, {"step": 7}, {"height": 61}, {"width": 0}], ids=str)
def test_a_bad_picture_is_refused_and_counted(robot: Robot, suite: Any, changes: dict[str, Any]) -> None:
    number = next(NUMBERS)
    robot.begin(number)
    count, refused = len(robot.observations), int(robot.probe.figure("observer", "malformed_image"))
    robot.ask(number, 0)
    bad = picture_message(np.zeros((60, 80, 3), np.uint8), "front")
    for name, value in changes.items():
        setattr(bad, name, value)
    for _ in range(5):
        robot.show(bad)
        robot.probe.spin(0.05)
    robot.probe.wait(lambda: int(robot.probe.figure("observer", "malformed_image")) > refused, "nothing is counted")
    assert len(robot.observations) == count
    assert "message on 'front/image' dropped" in suite.log("observer")


def test_a_damaged_picture_is_dropped_and_the_next_good_one_serves_the_request(robot: Robot, suite: Any) -> None:
    number = next(NUMBERS)
    robot.begin(number)
    count = len(robot.observations)
    robot.ask(number, 0)
    robot.show(damaged=True)
    robot.probe.wait(lambda: "picture of camera 'wrist' dropped" in suite.log("observer"), "nothing is said")
    assert len(robot.observations) == count
    observation = robot.show_until_observed()
    assert (observation.episode, observation.sequence) == (number, 0)
    damaged = "damaged_frame.wrist"
    robot.probe.wait(lambda: robot.probe.figure("observer", damaged) == "1", "the picture is not counted")


@pytest.mark.parametrize(
    ("stamp", "expected"), [((1_700_000_000, 123_456_789), (1_700_000_000, 123_456_789)), ((-1, 5), (0, 0))]
)
def test_an_observation_has_the_stamp_of_its_newest_picture(
    robot: Robot, stamp: tuple[int, int], expected: tuple[int, int]
) -> None:
    number = next(NUMBERS)
    robot.begin(number)
    robot.ask(number, 0)
    image = good_picture()
    image.header.stamp = Time(sec=stamp[0], nanosec=stamp[1])
    found = robot.show_until_observed(image).header.stamp
    assert (found.sec, found.nanosec) == expected


def test_other_episodes_and_sessions_are_dropped(robot: Robot) -> None:
    number = next(NUMBERS)
    robot.begin(number)
    count = len(robot.observations)
    robot.ask(5, 0)
    robot.requests.publish(ObserveRequest(session="/other", episode=number, sequence=0, reason=1))
    for _ in range(5):
        robot.show()
        robot.probe.spin(0.05)
    robot.probe.wait(lambda: robot.probe.figure("observer", "other_session") == "1", "other_session is not counted")
    robot.probe.wait(lambda: robot.probe.figure("observer", "request_other_episode") == "1", "episode is not counted")
    assert len(robot.observations) == count


def test_a_silent_camera_is_named(robot: Robot) -> None:
    robot.probe.node.create_publisher(CompressedImage, "side/compressed", 1)
    robot.probe.wait(lambda: "'front' sends nothing" in robot.probe.problem("observer"), "no warning")
    robot.probe.wait(lambda: "/side/compressed" in robot.probe.problem("observer"), "no topics are named")
