"""The drivers of an arm as a graph shows them: two cameras, joint states sorted by name, a controller that listens."""

from __future__ import annotations

import threading
from types import TracebackType

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from streaming_vla.bringup.new_robot.joints import SO_ARM
from streaming_vla.ros.images import picture_message

CAMERAS = ("top", "wrist")
PERIOD_S = 0.05
LIMITS = "".join(
    f'<joint name="{name}" type="revolute"><limit lower="-1.9" upper="1.9" effort="1" velocity="1"/></joint>'
    for name in SO_ARM
)


class ArmStandIn:
    """Publishes on a thread of its own until it is closed; a context manager."""

    def __init__(self, domain: int, namespace: str = "/") -> None:
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self._node = node = rclpy.create_node("arm", namespace=namespace, context=self._context)
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._pictures = [node.create_publisher(Image, f"{name}_camera/image_raw", 2) for name in CAMERAS]
        self._joints = node.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self._description = node.create_publisher(String, "robot_description", kept)
        self._description.publish(String(data=f"<robot name='so101'>{LIMITS}</robot>"))
        node.create_subscription(JointTrajectory, "controller/joint_trajectory", lambda message: None, 10)
        node.create_timer(PERIOD_S, self._publish)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def __enter__(self) -> ArmStandIn:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=PERIOD_S)

    def _publish(self) -> None:
        stamp = self._node.get_clock().now().to_msg()
        for name, publisher in zip(CAMERAS, self._pictures, strict=True):
            image = picture_message(np.zeros((48, 64, 3), np.uint8), name)
            image.header.stamp = stamp
            publisher.publish(image)
        joints = JointState(name=sorted(SO_ARM), position=[0.1] * len(SO_ARM))
        joints.header.stamp = stamp
        self._joints.publish(joints)
