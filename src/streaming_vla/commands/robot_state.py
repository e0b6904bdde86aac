"""The robot's state from a message: the same code for the live observer and for bags. No rclpy.

A message is anything with the fields of its ROS type: those of rclpy and those that are read from a bag are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.commands.units import Units
from streaming_vla.options.shared import ARRAY, JOINTS

TYPES = (ARRAY, JOINTS)


class StateReader:
    """Turns the messages of one topic into states.

    Args:
        kind: message type, one of TYPES.
        joints: names of the joints whose positions are the state, in order; () takes those of the first JointState, in
            its order, for all that follow.
        size: numbers that the policy needs; None where nobody knows.
        units: from the robot's to the policy's; None: they are the same.
        nameless: names of the positions of a JointState that has none, in its order: servo drivers send such.
    """

    def __init__(
        self,
        kind: str,
        joints: Sequence[str] = (),
        size: int | None = None,
        units: Units | None = None,
        nameless: Sequence[str] = (),
    ) -> None:
        self._kind, self._joints, self._size, self._units = kind, tuple(joints), size, units or Units()
        self._nameless = tuple(nameless)

    def __call__(self, message: Any) -> npt.NDArray[np.float64]:
        """Return the state [state_size] in policy units, of numbers or of joint positions.

        Raises:
            ValueError: a joint is missing, twice there or at no finite position, names and positions do not match, or
                the state or its units have another size.
        """
        state = self._positions(message) if self._kind == JOINTS else np.array(message.data, dtype=np.float64)
        if self._size is not None and len(state) != self._size:
            raise ValueError(
                f"the state has {len(state)} numbers, the policy needs {self._size}: set the observer's "
                "robot_state_topic and robot_state_joints to what the policy was trained with"
            )
        return self._units.to_policy(state)

    def _positions(self, message: Any) -> npt.NDArray[np.float64]:
        names = tuple(message.name) or self._nameless
        if not names and len(message.position):
            raise ValueError(
                f"{len(message.position)} positions without a name, expected one for every joint: let the driver send "
                "them, or list them in the observer's robot_state_nameless_joints"
            )
        if not names or len(message.position) != len(names):
            raise ValueError(
                f"{len(message.position)} positions for {len(names)} joints, expected a position for every joint"
            )
        wanted = self._joints or names
        places = {name: place for place, name in enumerate(names)}
        missing = [name for name in wanted if name not in places]
        if missing:
            raise ValueError(
                f"joint {', '.join(missing)} is not among {', '.join(names)}: correct the observer's "
                "robot_state_joints, or let one message hold all of the robot's joints"
            )
        if len(places) != len(names):
            raise ValueError(f"a joint is named twice among {', '.join(names)}, expected every joint once")
        state = np.array([message.position[places[name]] for name in wanted], dtype=np.float64)
        bad = [f"{name} at {value}" for name, value in zip(wanted, state, strict=True) if not np.isfinite(value)]
        if bad:
            raise ValueError(f"joint {', '.join(bad)}, expected finite positions: see to the robot's driver")
        self._joints = wanted
        return state
