"""Follows joint trajectories as `joint_trajectory_controller` of ros2_controllers does. No ROS and no clock in it.

What it takes over: a new trajectory replaces the old one at once and is approached from the present setpoint
(`interpolate_from_desired_state`); positions, velocities and accelerations give linear, cubic and quintic motion; a
trajectory that has ended in the past is refused, and so is one of unknown joints, with joints missing
(`allow_partial_joints_goal`) or with a moving end (`allow_nonzero_velocity_at_trajectory_end`); `cmd_timeout`.
What differs: every hold keeps the setpoint and not the measured position, for a gripper that holds something would let
it go; an empty trajectory cancels, as it did in ROS 1, where ROS 2 refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streaming_vla.sim.so101.trajectory import Trajectory, TrajectoryPoint, TrajectoryRefused, Vector, check, sample


@dataclass(frozen=True)
class ControllerOptions:
    """What a trajectory may be, and how long one is waited for.

    Args:
        partial: a trajectory may leave joints out; these keep their setpoint.
        moving_end: a trajectory may end with a velocity.
        timeout_s: after the end of a trajectory; without a new one until then it counts as lost. 0: never.
    """

    partial: bool = False
    moving_end: bool = False
    timeout_s: float = 0.0


class JointTrajectoryController:
    """The setpoint of every joint over time.

    Args:
        joints: names, in the order of all vectors.
        initial: setpoint at the start, [J] in rad.

    Attributes:
        timeouts: how often no new trajectory came within the time-out.
    """

    def __init__(self, joints: Sequence[str], initial: Vector, options: ControllerOptions | None = None) -> None:
        self.joints = tuple(joints)
        self.options = options or ControllerOptions()
        self.timeouts = 0
        self._points: list[TrajectoryPoint] = []  # times on the clock
        self._waiting = False  # for the trajectory after this one
        self.reset(initial)

    def reset(self, setpoint: Vector) -> None:
        """Forget every trajectory and hold `setpoint`, [J]."""
        still = np.zeros(len(self.joints))
        self._present = TrajectoryPoint(-np.inf, np.array(setpoint, dtype=np.float64), still, still)
        self._points = []
        self._waiting = False

    @property
    def setpoint(self) -> Vector:
        """Where the joints should have been at the last update, [J] in rad."""
        return self._present.positions

    def accept(self, trajectory: Trajectory, now_s: float) -> None:
        """Follow `trajectory` from now on; an empty one cancels what is followed, the setpoint is held.

        Raises:
            TrajectoryRefused: it cannot be followed, or it lies in the past; what is followed goes on.
        """
        if not trajectory.points and not trajectory.joint_names:
            self.cancel(now_s)
            return
        check(trajectory, self.joints, self.options.partial, self.options.moving_end)
        if not trajectory.points:
            self.cancel(now_s)
            return
        start_s = now_s if trajectory.start_s is None else trajectory.start_s
        end_s = start_s + trajectory.points[-1].time_s
        if end_s < now_s:
            raise TrajectoryRefused(f"it ended {now_s - end_s:.3f} s ago: expected one that is not over")
        self.update(now_s)
        points = [self._whole(trajectory.joint_names, point, start_s) for point in trajectory.points]
        if now_s < points[0].time_s:  # else the way from the setpoint to its first point is over already
            points.insert(0, self._present)
        self._points = points
        self._waiting = True

    def cancel(self, now_s: float) -> None:
        """Hold the setpoint of now."""
        self.update(now_s)
        self.reset(self.setpoint)

    def update(self, now_s: float) -> Vector:
        """Return the setpoint at `now_s`, [J] in rad."""
        if not self._points:
            self._present = TrajectoryPoint(now_s, self._present.positions, *self._still())
            return self.setpoint
        self._present = sample(self._points, now_s)
        late_s = now_s - self._points[-1].time_s
        if self._waiting and 0.0 < self.options.timeout_s < late_s:
            self.timeouts += 1
            self._waiting = False
        return self.setpoint

    def _still(self) -> tuple[Vector, Vector]:
        return np.zeros(len(self.joints)), np.zeros(len(self.joints))

    def _whole(self, names: Sequence[str], point: TrajectoryPoint, start_s: float) -> TrajectoryPoint:
        """Return a point of all joints in their order, its time on the clock."""
        columns = [self.joints.index(name) for name in names]

        def spread(given: Vector | None, rest: Vector) -> Vector | None:
            if given is None:
                return None
            values = rest.copy()
            values[columns] = given
            return values

        still = np.zeros(len(self.joints))
        positions = spread(point.positions, self.setpoint)
        assert positions is not None
        return TrajectoryPoint(
            start_s + point.time_s, positions, spread(point.velocities, still), spread(point.accelerations, still)
        )
