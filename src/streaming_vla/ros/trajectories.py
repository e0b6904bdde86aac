"""trajectory_msgs/JointTrajectory as the simulated controller takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from streaming_vla.sim.so101.trajectory import Trajectory, TrajectoryPoint, TrajectoryRefused, Vector


def trajectory_from(message: JointTrajectory, now_ns: int, time_s: float) -> Trajectory:
    """Return a message as a trajectory on the robot's own clock.

    Args:
        now_ns: ROS time of now.
        time_s: the robot's time of now.

    Raises:
        TrajectoryRefused: it has efforts, which position servos do not take.
    """
    stamp = message.header.stamp
    stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
    return Trajectory(
        tuple(message.joint_names),
        tuple(_point(point, index) for index, point in enumerate(message.points)),
        None if stamp_ns == 0 else time_s + (stamp_ns - now_ns) * 1e-9,
    )


def _point(message: JointTrajectoryPoint, index: int) -> TrajectoryPoint:
    if len(message.effort):
        raise TrajectoryRefused(f"point {index} has efforts: expected positions, velocities and accelerations only")
    after = message.time_from_start
    return TrajectoryPoint(
        after.sec + after.nanosec * 1e-9,
        np.array(message.positions, dtype=np.float64),
        _given(message.velocities),
        _given(message.accelerations),
    )


def _given(values: Any) -> Vector | None:
    return np.array(values, dtype=np.float64) if len(values) else None
