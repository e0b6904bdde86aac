"""The observer with a robot whose state is its joint states: named joints in the policy's order, and clear refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from streaming_vla_interfaces.msg import Episode, Observation, ObserveRequest

from streaming_vla.ros.base import LATCHED
from streaming_vla.ros.images import picture_message

pytestmark = pytest.mark.ros
JOINT_STATE = "sensor_msgs/msg/JointState"


@pytest.fixture(scope="module")
def observer(suite: Any, probe: Any) -> Any:
    suite.start(
        "observer",
        cameras=["front"],
        camera_topics=["front/image"],
        robot_state_topic="joint_states",
        robot_state_type=JOINT_STATE,
        robot_state_joints=["wrist", "elbow"],
        robot_state_nameless_joints=["finger", "wrist", "elbow"],
        image_size=48,
        frame_timeout_s=5.0,
    )
    probe.wait_for_nodes("observer")
    return probe


def test_a_state_of_another_type_is_named(observer: Any, domain: int) -> None:
    other = type(observer)(domain)  # of one participant a topic has one type
    other.node.create_publisher(Float64MultiArray, "joint_states", 1)
    sentence = f"'robot state' sends std_msgs/msg/Float64MultiArray on '/joint_states', expected {JOINT_STATE}"
    observer.wait(lambda: sentence in observer.problem("observer"), "the other type is not told")
    assert "set robot_state_type" in observer.problem("observer")
    other.close()


def test_named_joints_become_the_state_and_bad_ones_are_refused(observer: Any, suite: Any) -> None:
    observations = observer.record(Observation, "observation", 10)
    pictures = observer.publisher(Image, "front/image")
    joints = observer.publisher(JointState, "joint_states")
    observer.publisher(Episode, "episode", LATCHED).publish(
        Episode(session="/", number=1, active=True, instruction="open the drawer")
    )
    observer.spin(0.2)
    observer.publisher(ObserveRequest, "observe_request").publish(
        ObserveRequest(session="/", episode=1, sequence=0, reason=1)
    )

    def say(names: list[str], positions: list[float]) -> None:
        pictures.publish(picture_message(np.full((60, 80, 3), 128, np.uint8), "front"))
        joints.publish(JointState(name=names, position=positions))
        observer.spin(0.05)

    refused = (
        (["elbow", "finger"], [0.5, 0.0], "joint wrist is not among elbow, finger: correct the observer's"),
        (["elbow", "wrist"], [0.5, math.nan], "joint wrist at nan, expected finite positions"),
        (["elbow", "wrist"], [0.5], "1 positions for 2 joints, expected a position for every joint"),
        ([], [0.5, 0.25], "2 positions for 3 joints, expected a position for every joint"),
    )
    for names, positions, sentence in refused:  # a warning is said at most once a second

        def told(names: Any = names, positions: Any = positions, sentence: str = sentence) -> bool:
            say(names, positions)
            return f"message on 'joint_states' dropped: {sentence}" in suite.log("observer")

        observer.wait(told, sentence)
    assert int(observer.figure("observer", "malformed_joint_states")) > 0 and not observations
    for _ in range(50):
        say(["elbow", "finger", "wrist"], [0.5, 9.0, 0.25])
        if observations:
            break
    assert list(observations[0][1].state) == [0.25, 0.5]


def test_positions_without_names_are_named_by_a_parameter(observer: Any) -> None:
    observations = observer.record(Observation, "observation", 10)
    pictures = observer.publisher(Image, "front/image")
    joints = observer.publisher(JointState, "joint_states")
    asked = observer.publisher(ObserveRequest, "observe_request")
    observer.publisher(Episode, "episode", LATCHED).publish(
        Episode(session="/", number=2, active=True, instruction="open the drawer")
    )
    observer.spin(0.2)
    asked.publish(ObserveRequest(session="/", episode=2, sequence=0, reason=1))
    for _ in range(50):
        pictures.publish(picture_message(np.full((60, 80, 3), 128, np.uint8), "front"))
        joints.publish(JointState(position=[9.0, 0.25, 0.5]))
        observer.spin(0.05)
        if observations:
            break
    assert list(observations[0][1].state) == [0.25, 0.5]
