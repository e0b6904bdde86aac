"""Commands of the executor as messages for the robot: one class per message type behind one interface."""

from __future__ import annotations

import array
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from streaming_vla.policy.layout import ActionLayout
from streaming_vla.runtime.events import Command, CommandKind, Vector

TWIST_FIELDS = 6  # linear x, y, z and angular x, y, z


@dataclass(frozen=True)
class CommandOptions:
    """How actions become commands.

    Args:
        layout: of the actions, A dimensions.
        scale: command units per action unit, [A].
        joint_names: joint of each dimension, [A]; used by the joint types.
        frame: frame_id of stamped messages.
        period_s: duration of one action.
        maximum_lead: command units, [A]: so far may the target of a dimension that is a change run ahead of the
            measured joint; used by the joint types.
        keep_when_stopped: [A], True where a stop keeps the last commanded value, as a gripper must that holds
            something; elsewhere it takes the measured joint. Used by the joint types, for absolute dimensions only.

    Raises:
        ValueError: a length that is not A, or a joint that stands twice.
    """

    layout: ActionLayout
    scale: tuple[float, ...]
    joint_names: tuple[str, ...]
    frame: str
    period_s: float
    maximum_lead: tuple[float, ...]
    keep_when_stopped: tuple[bool, ...]

    def __post_init__(self) -> None:
        for name in ("scale", "joint_names", "maximum_lead", "keep_when_stopped"):
            count = len(getattr(self, name))
            if count != self.layout.size:
                raise ValueError(f"{name} has {count} values, expected one for each of {', '.join(self.layout.names)}")
        if doubled := [name for name, count in Counter(self.joint_names).items() if count > 1]:
            raise ValueError(f"joint_names has {', '.join(doubled)} twice, expected one joint for each dimension")


class CommandWriter(ABC):
    """Turns commands into messages of one type."""

    message_type: type

    def __init__(self, options: CommandOptions) -> None:
        self.options = options
        self.clamped: Counter[str] = Counter()  # commands that were clamped on their way, by limit and dimension
        self._scale = np.asarray(options.scale)

    @abstractmethod
    def write(self, command: Command, stamp: Time) -> Any:
        """Return the message, of `message_type`.

        Raises:
            ValueError: the command cannot be expressed yet; the message says what is missing.
        """

    def rest(self, command: Command) -> Float64MultiArray | None:
        """Return what `write` could not express, for topic `gripper_command`, or None."""
        return None

    def measure(self, positions: Mapping[str, float]) -> str:
        """Take measured joint positions by name; return what is missing to command the robot, empty when nothing is.

        Types without a target need none.
        """
        return ""

    def heard(self) -> bool:
        """Return True once when every joint was measured since the last True: then the whole robot is alive.

        Types without a target know no joints: whatever is measured is a sign of life.
        """
        return True

    def measured(self) -> Vector | None:
        """Return the measured joints in action units, [A]; None before they were heard, or where none are used."""
        return None

    def lose(self) -> None:  # noqa: B027 (types without a target need none)
        """Forget where the robot is, until every joint was measured anew: it was silent for too long."""

    def sent(self) -> Vector | None:
        """Return the newest target in action units, [A]; None where commands are passed on as they are."""
        return None

    def begin(self) -> None:  # noqa: B027 (optional, not missing)
        """Forget the target of the episode before: somebody may have moved the robot since."""

    def _header(self, stamp: Time) -> Header:
        return Header(stamp=stamp, frame_id=self.options.frame)


class ArrayWriter(CommandWriter):
    """std_msgs/Float64MultiArray: the action itself, scaled. Changes are zero in every hold and stop."""

    message_type = Float64MultiArray

    def write(self, command: Command, stamp: Time) -> Float64MultiArray:
        """Return the scaled action, [A]."""
        return Float64MultiArray(data=array.array("d", (command.values * self._scale).tolist()))


class TwistWriter(CommandWriter):
    """geometry_msgs/TwistStamped: changes as velocities, in the order linear x, y, z, angular x, y, z.

    `scale` is m/s or rad/s per action unit. Everything but play is zero.

    Raises:
        ValueError: no dimension is a change, or more than six are.
    """

    message_type = TwistStamped

    def __init__(self, options: CommandOptions) -> None:
        super().__init__(options)
        self._moving = ~np.asarray(options.layout.absolute)
        count = int(self._moving.sum())
        if not 1 <= count <= TWIST_FIELDS:
            raise ValueError(f"command_type twist takes 1 to 6 dimensions that are changes, the action has {count}")

    def write(self, command: Command, stamp: Time) -> TwistStamped:
        """Return the velocities of the dimensions that are changes."""
        velocity = np.zeros(TWIST_FIELDS)
        if command.kind is CommandKind.PLAY:
            moves = (command.values * self._scale)[self._moving]
            velocity[: len(moves)] = moves
        twist = TwistStamped(header=self._header(stamp))
        linear, angular = twist.twist.linear, twist.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = velocity.tolist()
        return twist

    def rest(self, command: Command) -> Float64MultiArray | None:
        """Return the scaled absolute dimensions (a gripper), or None when there are none."""
        values = (command.values * self._scale)[~self._moving]
        return Float64MultiArray(data=array.array("d", values.tolist())) if len(values) else None


class _JointWriter(CommandWriter):
    """Keeps the joint target: changes are added to it, absolute values replace it.

    The first changes start from the measured pose, and their sum never runs ahead of it by more than `maximum_lead`:
    a joint that is blocked would else collect a target that it jumps to when it comes free. A deceleration blends the
    held target into the measured pose, a stop commands the measured pose and forgets the target; both leave the
    dimensions of `keep_when_stopped` at their last commanded value. Where nobody knows any more where the robot is
    (`lose`), both keep the held target: a pose of some time ago would lead the arm back.

    Raises:
        ValueError: a scale of 0, or a change that is to be kept.
    """

    def __init__(self, options: CommandOptions) -> None:
        super().__init__(options)
        self._absolute = np.asarray(options.layout.absolute)
        self._kept = np.asarray(options.keep_when_stopped)
        for index, name in enumerate(options.layout.names):
            if options.scale[index] == 0.0:
                raise ValueError(f"scale of '{name}' is 0, expected what one action unit is worth in command units")
            if self._kept[index] and not self._absolute[index]:
                raise ValueError(f"keep_when_stopped of '{name}' is true, but '{name}' is a change: a stop must end it")
        self._measured: Vector | None = None
        self._held: Vector | None = None
        self._sent: Vector | None = None
        self._known: dict[str, float] = {}  # joints may come in several messages
        self._fresh: set[str] = set()  # joints measured since the whole robot was heard
        self._lost: set[str] = set()  # joints not measured since the robot was silent

    def measure(self, positions: Mapping[str, float]) -> str:
        mine = {name: positions[name] for name in self.options.joint_names if name in positions}
        broken = [name for name, value in mine.items() if not np.isfinite(value)]
        if broken:  # drivers send NaN before the hardware is up
            return f"joint {', '.join(broken)} is not finite in joint_states: bring the robot's hardware up"
        self._known.update(positions)
        self._fresh.update(mine)
        self._lost.difference_update(mine)
        if problem := self._missing():
            return problem
        if self._lost:
            return ""
        self._measured = np.array([self._known[name] for name in self.options.joint_names])
        return ""

    def heard(self) -> bool:
        whole = self._fresh.issuperset(self.options.joint_names)
        if whole:
            self._fresh.clear()
        return whole

    def lose(self) -> None:
        if self._measured is None:  # told again: what has been heard since counts
            return
        self._measured = None
        self._fresh.clear()
        self._lost = set(self.options.joint_names)

    def _missing(self) -> str:
        missing = [name for name in self.options.joint_names if name not in self._known]
        known = ", ".join(self._known) or "none"
        sentence = f"joint {', '.join(missing)} is not in joint_states (they have {known}): set joint_names"
        return sentence if missing else ""

    def measured(self) -> Vector | None:
        return None if self._measured is None else self._measured / self._scale

    def sent(self) -> Vector | None:
        return None if self._sent is None else self._sent / self._scale

    def begin(self) -> None:
        self._held = self._sent = None

    def target(self, command: Command) -> Vector:
        """Return the joint positions to command, [A], in the joints' units."""
        values = command.values * self._scale
        if command.kind is CommandKind.STOP:
            if self._measured is None:
                return np.where(self._kept, values, self._start())
            self._held = self._sent = None
            return np.where(self._kept, values, self._measured)
        if command.kind is CommandKind.DECELERATE:
            held = self._held if self._held is not None else self._start()
            goal = held if self._measured is None else self._measured
            self._sent = np.where(self._kept, values, held + (goal - held) * command.progress)
            return self._sent
        base = values if self._absolute.all() else self._start()
        self._held = self._sent = np.where(self._absolute, values, self._led(base + values))
        return self._sent

    def _led(self, target: Vector) -> Vector:
        """Return `target` [A] where it runs ahead of the measured joints by no more than it may."""
        if self._measured is None:
            return target
        lead = np.asarray(self.options.maximum_lead)
        clamped = np.clip(target, self._measured - lead, self._measured + lead)
        for index in np.flatnonzero((clamped != target) & ~self._absolute):
            self.clamped[f"limit_lead.{self.options.layout.names[index]}"] += 1
        return clamped

    def _start(self) -> Vector:
        if self._sent is not None:
            return self._sent
        if self._measured is not None:
            return self._measured
        raise ValueError(self._missing() or f"joint {', '.join(sorted(self._lost))} is silent in joint_states")


class TrajectoryWriter(_JointWriter):
    """trajectory_msgs/JointTrajectory: one point, reached after one period, so that motion ends with the sender."""

    message_type = JointTrajectory

    def write(self, command: Command, stamp: Time) -> JointTrajectory:
        """Return a trajectory of one point that starts on arrival (stamp zero)."""
        nanoseconds = round(self.options.period_s * 1e9)
        point = JointTrajectoryPoint(
            positions=array.array("d", self.target(command).tolist()),
            time_from_start=Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9),
        )
        header = self._header(Time())
        return JointTrajectory(header=header, joint_names=list(self.options.joint_names), points=[point])


class JointStateWriter(_JointWriter):
    """sensor_msgs/JointState: the joint target as positions."""

    message_type = JointState

    def write(self, command: Command, stamp: Time) -> JointState:
        """Return the target positions, [A]."""
        positions = array.array("d", self.target(command).tolist())
        return JointState(header=self._header(stamp), name=list(self.options.joint_names), position=positions)


WRITERS: dict[str, type[CommandWriter]] = {
    "array": ArrayWriter,
    "twist": TwistWriter,
    "trajectory": TrajectoryWriter,
    "joints": JointStateWriter,
}
