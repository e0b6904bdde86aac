"""A robot without physics for tests of the whole graph: its hand is where the commands have sent it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray

from streaming_vla.ros.images import picture_message

CAMERAS = ("corner2", "gripperPOV")
UNIT = 0.01  # metres of a change of 1
PICTURE_S, STATE_S = 0.05, 0.02


class RobotStandIn:
    """Publishes what `sim_robot` does: two cameras, state and joint states, on a thread of its own.

    Args:
        start: state at the beginning; hand and gripper unless it is given.
        absolute: commands are the new state, not changes of the hand.

    Attributes:
        commands: every command that came, [A], holds included.
    """

    def __init__(self, domain: int, start: Sequence[float] = (0.0, 0.6, 0.2, 1.0), absolute: bool = False) -> None:
        self._start, self._absolute = start, absolute
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self._node = node = rclpy.create_node("robot", context=self._context)
        self._pictures = [node.create_publisher(Image, f"camera/{name}/image", 2) for name in CAMERAS]
        self._states = node.create_publisher(Float64MultiArray, "robot_state", qos_profile_sensor_data)
        self._joints = node.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        node.create_subscription(Float64MultiArray, "command", self._on_command, 10)
        node.create_timer(PICTURE_S, self._publish_pictures)
        node.create_timer(STATE_S, self._publish_state)
        self.begin()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Put the hand at its start and forget the commands."""
        self.commands: list[tuple[float, np.ndarray]] = []
        self._state = np.array(self._start)

    @property
    def hand(self) -> np.ndarray:
        """Where the hand is, [3] metres."""
        return self._state[:3].copy()

    def moves(self) -> np.ndarray:
        """Return the commands that move, [n, 4]: holds are changes of zero."""
        found = [values for _, values in self.commands if np.any(values[:3] != 0.0)]
        return np.array(found).reshape(-1, 4)

    def close(self) -> None:
        """Leave the graph."""
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=STATE_S)

    def _on_command(self, message: Float64MultiArray) -> None:
        values = np.array(message.data)
        self.commands.append((time.monotonic(), values))
        if self._absolute:
            self._state = values
        else:
            self._state[:3] += UNIT * values[:3]
        self._publish_state()

    def _publish_state(self) -> None:
        self._states.publish(Float64MultiArray(data=self._state.tolist()))
        joints = JointState(name=["hand"], position=[float(self._state[0])])
        joints.header.stamp = self._node.get_clock().now().to_msg()
        self._joints.publish(joints)

    def _publish_pictures(self) -> None:
        for name, publisher in zip(CAMERAS, self._pictures, strict=True):
            image = picture_message(np.zeros((96, 96, 3), np.uint8), name)
            image.header.stamp = self._node.get_clock().now().to_msg()
            publisher.publish(image)
