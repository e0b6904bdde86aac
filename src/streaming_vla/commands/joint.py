"""Commands of the executor as joint targets."""

from __future__ import annotations

import array
from collections.abc import Mapping

import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from streaming_vla.commands.writer import CommandWriter
from streaming_vla.machines.events import Command, CommandKind, Vector
from streaming_vla.machines.executor_options import ExecutorOptions


class _JointWriter(CommandWriter):
    """Keeps the joint target: changes are added to it, absolute values replace it.

    The first changes start from the measured pose, and a target never runs ahead of it by more than `maximum_lead`: a
    joint that is blocked would else jump to it when it comes free. A deceleration blends the held target into the
    measured pose, a stop commands the measured pose and forgets the target; both leave the dimensions of
    `keep_when_stopped` at their last commanded value. Where nobody knows any more where the robot is (`lose`), the
    newest target stays: a pose of some time ago would lead the arm back. Dimensions without a joint go to
    `gripper_command` and keep their last command too.

    Raises:
        ValueError: a scale of 0, a change that is to be kept or has no joint, or no joint at all.
    """

    def __init__(self, options: ExecutorOptions) -> None:
        super().__init__(options)
        self._absolute = np.asarray(options.layout.absolute)
        self._own = np.array([bool(name) for name in options.joints])
        self._joints = tuple(name for name in options.joints if name)
        self._kept = np.asarray(options.keep_when_stopped) | ~self._own
        if not self._joints:
            raise ValueError("joint_names names no joint: expected at least one, empty only for what a gripper takes")
        for index, name in enumerate(options.layout.names):
            if options.scale[index] == 0.0:
                raise ValueError(f"scale of '{name}' is 0, expected what one action unit is worth in command units")
            if not self._own[index] and not self._absolute[index]:
                raise ValueError(
                    f"joint_names of '{name}' is empty, but '{name}' is a change: gripper_command takes absolute values"
                )
            if self._kept[index] and not self._absolute[index]:
                raise ValueError(f"keep_when_stopped of '{name}' is true, but '{name}' is a change: a stop must end it")
        self._measured: Vector | None = None
        self._held: Vector | None = None
        self._sent: Vector | None = None
        self._known: dict[str, float] = {}  # joints may come in several messages
        self._fresh: set[str] = set()  # joints measured since the whole robot was heard, or lost

    def measure(self, positions: Mapping[str, float]) -> str:
        mine = {name: positions[name] for name in self._joints if name in positions}
        broken = [name for name, value in mine.items() if not np.isfinite(value)]
        if broken:  # drivers send NaN before the hardware is up
            return f"joint {', '.join(broken)} is not finite in joint_states: bring the robot's hardware up"
        self._known.update(positions)
        self._fresh.update(mine)
        if problem := self._missing():
            return problem
        if self._measured is None and self.unheard():
            return ""
        unmeasured = self._units.to_robot(np.asarray(self.options.layout.initial)) if self._sent is None else self._sent
        self._measured = unmeasured.copy()
        self._measured[self._own] = [self._known[name] for name in self._joints]
        return ""

    def heard(self) -> bool:
        whole = self._fresh.issuperset(self._joints)
        if whole:
            self._fresh.clear()
        return whole

    def unheard(self) -> tuple[str, ...]:
        return tuple(name for name in self._joints if name not in self._fresh)

    def lose(self) -> None:
        if self._measured is None:  # told again: what has been heard since counts
            return
        self._measured = None
        self._fresh.clear()

    def _missing(self) -> str:
        missing = [name for name in self._joints if name not in self._known]
        known = ", ".join(self._known) or "none"
        sentence = f"joint {', '.join(missing)} is not in joint_states (they have {known}): set joint_names"
        return sentence if missing else ""

    def measured(self) -> Vector | None:
        return None if self._measured is None else self._units.to_policy(self._measured)

    def sent(self) -> Vector | None:
        return None if self._sent is None else self._units.to_policy(self._sent)

    def begin(self) -> None:
        self._held = self._sent = None

    def target(self, command: Command) -> Vector:
        """Return the joint positions to command, [A], in the joints' units."""
        values = self._units.to_robot(command.values)
        if self._measured is None:
            if command.kind is not CommandKind.PLAY:
                self._sent = np.where(self._kept, values, self._start())
                return self._sent
        elif command.kind is CommandKind.STOP:
            self._held = self._sent = None
            return np.where(self._kept, values, self._measured)
        elif command.kind is CommandKind.DECELERATE:
            held = self._held if self._held is not None else self._start()
            self._sent = np.where(self._kept, values, held + (self._measured - held) * command.progress)
            return self._sent
        base = values if self._absolute.all() else self._start()
        self._held = self._sent = self._led(np.where(self._absolute, values, base + values))
        return self._sent

    def _led(self, target: Vector) -> Vector:
        """Return `target` [A] where it runs ahead of the measured joints by no more than it may."""
        if self._measured is None:
            return target
        lead = np.asarray(self.options.maximum_lead)
        clamped = np.where(self._kept, target, np.clip(target, self._measured - lead, self._measured + lead))
        for index in np.flatnonzero(clamped != target):
            self.clamped[f"limit_lead.{self.options.layout.names[index]}"] += 1
        return clamped

    def _start(self) -> Vector:
        if self._sent is not None:
            return self._sent
        if self._measured is not None:
            return self._measured
        raise ValueError(self._missing() or f"joint {', '.join(self.unheard())} is silent in joint_states")


class TrajectoryWriter(_JointWriter):
    """trajectory_msgs/JointTrajectory: one point, reached after one period, so that motion ends with the sender."""

    message_type = JointTrajectory

    def write(self, command: Command, stamp: Time) -> JointTrajectory:
        """Return a trajectory of one point, of the joints, that starts on arrival (stamp zero)."""
        nanoseconds = round(self.options.control_period_s * 1e9)
        point = JointTrajectoryPoint(
            positions=array.array("d", self.target(command)[self._own].tolist()),
            time_from_start=Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9),
        )
        header = self._header(Time())
        return JointTrajectory(header=header, joint_names=list(self._joints), points=[point])


class JointStateWriter(_JointWriter):
    """sensor_msgs/JointState: the joint target as positions."""

    message_type = JointState

    def write(self, command: Command, stamp: Time) -> JointState:
        """Return the target positions of the joints."""
        positions = array.array("d", self.target(command)[self._own].tolist())
        return JointState(header=self._header(stamp), name=list(self._joints), position=positions)
