"""What turns commands of the executor into messages for the robot: the interface of every type."""

from __future__ import annotations

import array
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from std_msgs.msg import Float64MultiArray, Header

from streaming_vla.commands.units import Units
from streaming_vla.machines.events import Command, Vector
from streaming_vla.machines.executor_options import ExecutorOptions


class CommandWriter(ABC):
    """Turns commands into messages of one type."""

    message_type: type

    def __init__(self, options: ExecutorOptions) -> None:
        self.options = options
        self.clamped: Counter[str] = Counter()  # commands that were clamped on their way, by limit and dimension
        self._units = Units(options.scale, options.offset)
        self._own = np.ones(len(options.scale), dtype=bool)  # [A], dimensions that `write` expresses

    @abstractmethod
    def write(self, command: Command, stamp: Time) -> Any:
        """Return the message, of `message_type`.

        Raises:
            ValueError: the command cannot be expressed yet; the message says what is missing.
        """

    @property
    def has_rest(self) -> bool:
        """Whether there are dimensions that `write` does not express: absolute ones, for topic `gripper_command`."""
        return not self._own.all()

    def rest(self, command: Command) -> Float64MultiArray:
        """Return the converted values of these dimensions; a hold and a stop keep the last ones."""
        return Float64MultiArray(data=array.array("d", self._units.to_robot(command.values)[~self._own].tolist()))

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

    def unheard(self) -> tuple[str, ...]:
        """Return the joints that were not measured since `heard` was last True."""
        return ()

    def lose(self) -> None:  # noqa: B027 (types without a target need none)
        """Forget where the robot is, until every joint was measured anew: it was silent for too long."""

    def sent(self) -> Vector | None:
        """Return the newest target in action units, [A]; None where commands are passed on as they are."""
        return None

    def begin(self) -> None:  # noqa: B027 (optional, not missing)
        """Forget the target of the episode before: somebody may have moved the robot since."""

    def _header(self, stamp: Time) -> Header:
        return Header(stamp=stamp, frame_id=self.options.command_frame)
