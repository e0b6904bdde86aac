"""Commands of the executor as messages: actions as they are, velocities, and every type by its name."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TwistStamped
from std_msgs.msg import Float64MultiArray

from streaming_vla.commands.joint import JointStateWriter, TrajectoryWriter
from streaming_vla.commands.writer import CommandWriter
from streaming_vla.machines.events import Command, CommandKind
from streaming_vla.machines.executor_options import ExecutorOptions

TWIST_FIELDS = 6  # linear x, y, z and angular x, y, z


class ArrayWriter(CommandWriter):
    """std_msgs/Float64MultiArray: the action itself, in command units. Changes are zero in every hold and stop."""

    message_type = Float64MultiArray

    def write(self, command: Command, stamp: Time) -> Float64MultiArray:
        """Return the action in command units, [A]."""
        return Float64MultiArray(data=array.array("d", self._units.to_robot(command.values).tolist()))


class TwistWriter(CommandWriter):
    """geometry_msgs/TwistStamped: changes as velocities, in the order linear x, y, z, angular x, y, z.

    `scale` is m/s or rad/s per action unit. Everything but play is zero.

    Raises:
        ValueError: no dimension is a change, or more than six are.
    """

    message_type = TwistStamped

    def __init__(self, options: ExecutorOptions) -> None:
        super().__init__(options)
        self._own = ~np.asarray(options.layout.absolute)
        count = int(self._own.sum())
        if not 1 <= count <= TWIST_FIELDS:
            raise ValueError(f"command_type twist takes 1 to 6 dimensions that are changes, the action has {count}")

    def write(self, command: Command, stamp: Time) -> TwistStamped:
        """Return the velocities of the dimensions that are changes."""
        velocity = np.zeros(TWIST_FIELDS)
        if command.kind is CommandKind.PLAY:
            moves = self._units.to_robot(command.values)[self._own]
            velocity[: len(moves)] = moves
        twist = TwistStamped(header=self._header(stamp))
        linear, angular = twist.twist.linear, twist.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = velocity.tolist()
        return twist


WRITERS: dict[str, type[CommandWriter]] = {
    "array": ArrayWriter,
    "twist": TwistWriter,
    "trajectory": TrajectoryWriter,
    "joints": JointStateWriter,
}
