"""trajectory_msgs/JointTrajectory as the simulated controller takes it."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Duration
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


def targets_message(names: Sequence[str], targets: npt.ArrayLike, within_s: float) -> JointTrajectory:
    """Return a trajectory of one point: joint targets [J] that are reached `within_s` after it arrives."""
    positions = array.array("d", np.asarray(targets, dtype=np.float64).tolist())
    nanoseconds = round(within_s * 1e9)
    after = Duration(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
    point = JointTrajectoryPoint(positions=positions, time_from_start=after)
    return JointTrajectory(joint_names=list(names), points=[point])


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
