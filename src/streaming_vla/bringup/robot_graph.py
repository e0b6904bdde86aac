"""Looks at the live graph of a robot: topics, their types, and one message of what has to be known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, String

from streaming_vla.bringup.new_robot.commands import TYPES as COMMAND_TYPES
from streaming_vla.bringup.new_robot.description import joint_ranges
from streaming_vla.bringup.new_robot.facts import ArrayTopic, CommandTopic, JointTopic, PictureTopic, RobotFacts
from streaming_vla.images.decode import IMAGE
from streaming_vla.images.decode import TYPES as PICTURE_TYPES
from streaming_vla.options.shared import ARRAY, JOINTS
from streaming_vla.parameters.sections import full_namespace
from streaming_vla.ros.middleware import begin
from streaming_vla.ros.topics import discover

LISTEN_S = 3.0  # at most; a camera of 1 Hz is heard
DESCRIPTION = "std_msgs/msg/String"
NEWEST = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
KEPT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NO_COMMANDS = ("/joint_states", "/robot_state", "/gripper_command", "/command_preview")


def look(namespace: str) -> RobotFacts:
    """Return what the graph says of the robot in a namespace; takes some seconds.

    Topics elsewhere count where the namespace has none of their kind.
    """
    context = rclpy.Context()
    begin(context)
    node = rclpy.create_node(f"_new_robot_{os.getpid()}", namespace=full_namespace(namespace), context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        discover(node)
        return _Look(node, full_namespace(namespace)).facts(executor)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


class _Look:
    """Subscribes to what is there, and keeps one message of each topic."""

    def __init__(self, node: Node, namespace: str) -> None:
        self._node, self._namespace = node, namespace
        self._heard: dict[str, Any] = {}
        self._types = {name: set(types) for name, types in node.get_topic_names_and_types()}
        self._asked: set[str] = set()

    def facts(self, executor: SingleThreadedExecutor) -> RobotFacts:
        pictures = {name: kind for kind in PICTURE_TYPES for name in self._sent(kind)}
        joints, arrays = self._sent(JOINTS), self._sent(ARRAY)
        infos = {name: f"{name.rsplit('/', 1)[0]}/camera_info" for name in pictures}
        for name, kind in pictures.items():
            if kind == IMAGE:
                self._listen(Image, name)
            if "sensor_msgs/msg/CameraInfo" in self._types.get(infos[name], ()):
                self._listen(CameraInfo, infos[name])
        for name in joints:
            self._listen(JointState, name)
        for name in arrays:
            self._listen(Float64MultiArray, name)
        for name in self._sent(DESCRIPTION):
            if name.endswith("/robot_description"):
                self._listen(String, name, KEPT)
        _spin(executor, LISTEN_S, lambda: self._asked <= self._heard.keys())
        texts = [each.data for name, each in self._heard.items() if name.endswith("/robot_description")]
        return RobotFacts(
            self._namespace,
            tuple(PictureTopic(name, kind, self._size(name, infos[name])) for name, kind in pictures.items()),
            tuple(JointTopic(name, tuple(self._heard[name].name), tuple(map(float, self._heard[name].position)))
                  for name in joints if self._whole(name)),
            tuple(ArrayTopic(name, len(self._heard[name].data)) for name in arrays if name in self._heard),
            tuple(CommandTopic(name, kind) for kind in COMMAND_TYPES for name in self._taken(kind)),
            {joint: limits for text in texts for joint, limits in joint_ranges(text).items()},
        )  # fmt: skip

    def _sent(self, kind: str) -> list[str]:
        """Return the topics of a type that somebody publishes."""
        return self._near([name for name, types in self._types.items()
                           if kind in types and self._node.count_publishers(name)])  # fmt: skip

    def _taken(self, kind: str) -> list[str]:
        """Return the topics of a type that somebody listens to, but for those that tell a state."""
        found = [name for name, types in self._types.items() if kind in types and self._node.count_subscribers(name)]
        told = set(self._sent(JOINTS)) if kind == JOINTS else set()
        return self._near([name for name in found if name not in told and not name.endswith(NO_COMMANDS)])

    def _near(self, names: list[str]) -> list[str]:
        own = [name for name in names if name.startswith(self._namespace.rstrip("/") + "/")]
        return sorted(own or names)

    def _listen(self, kind: type, name: str, qos: QoSProfile = NEWEST) -> None:
        if name not in self._asked:
            self._asked.add(name)
            self._node.create_subscription(kind, name, lambda message: self._heard.setdefault(name, message), qos)

    def _size(self, name: str, info: str) -> tuple[int, int] | None:
        message = self._heard.get(name) or self._heard.get(info)
        return (int(message.width), int(message.height)) if message is not None and message.width else None

    def _whole(self, name: str) -> bool:
        message = self._heard.get(name)
        return message is not None and bool(message.name) and len(message.position) == len(message.name)


def _spin(executor: SingleThreadedExecutor, longest_s: float, done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + longest_s
    while not done() and (left_s := end_s - time.monotonic()) > 0.0:
        executor.spin_once(timeout_sec=min(left_s, 0.1))
