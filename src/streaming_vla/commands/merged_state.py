"""The robot's state put together from several messages: drivers that each know some joints, poses, arrays. No rclpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.commands.finite import LARGEST, finite
from streaming_vla.commands.units import Units
from streaming_vla.options.shared import ARRAY, JOINTS

POSE, POSE_STAMPED = "geometry_msgs/msg/Pose", "geometry_msgs/msg/PoseStamped"
TYPES = (JOINTS, ARRAY, POSE_STAMPED, POSE)
POSE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")
POSE_UNITS = ("m", "m", "m", "1", "1", "1", "1")
JOINT_UNIT = "rad or m"  # as sensor_msgs/JointState has them


class MergedState:
    """The newest value of every number of the state, whichever message it came in.

    The state is the joints in the order of `joints`, then what other topics add, in the order of `topics`.

    Args:
        topics: message type of each topic, one of TYPES.
        joints: names of the joints whose positions are wanted; () takes every joint in the order in which it is heard
            until `settle`.
        nameless: names of the positions of a JointState without names.
        units: from the robot's to the policy's; None: they are the same.
    """

    def __init__(
        self,
        topics: Mapping[str, str],
        joints: Sequence[str] = (),
        nameless: Sequence[str] = (),
        units: Units | None = None,
    ) -> None:
        self._units = units or Units()
        self._topics, self._nameless = dict(topics), tuple(nameless)
        has_joints = JOINTS in self._topics.values()
        self._joints = list(joints) if has_joints else []
        self._settled = bool(joints) or not has_joints
        self._positions: dict[str, tuple[float, float]] = {}  # by joint: value and time
        self._parts: dict[str, tuple[npt.NDArray[np.float64], float]] = {}
        self.left_out: set[str] = set()  # joints that are heard and not part of the state

    def take(self, topic: str, message: Any, time_s: float) -> None:
        """Take a message.

        Raises:
            ValueError: it cannot be used; what was known before stays.
        """
        kind = self._topics[topic]
        if kind == JOINTS:
            self._take_joints(message, time_s)
            return
        values = _pose(message, kind) if kind in (POSE, POSE_STAMPED) else np.array(message.data, dtype=np.float64)
        finite(values, "the state")
        known = self._parts.get(topic)
        if known is not None and len(known[0]) != len(values):
            raise ValueError(f"the state has {len(values)} numbers after {len(known[0])}, expected always as many")
        self._parts[topic] = values, time_s

    def settle(self) -> None:
        """Take the joints that have been heard as those of the state, where nobody named them."""
        self._settled = True

    def values(self) -> npt.NDArray[np.float64] | None:
        """Return the state [S] in policy units; None until all of it has been heard.

        Raises:
            ValueError: units are given for another number of values.
        """
        if self.missing():
            return None
        joints = [self._positions[name][0] for name in self._joints]
        rest = [self._parts[topic][0] for topic, kind in self._topics.items() if kind != JOINTS]
        return self._units.to_policy(np.concatenate([np.array(joints, dtype=np.float64), *rest]))

    def oldest_s(self) -> float:
        """Return when the part was heard that was heard longest ago."""
        times = [self._positions[name][1] for name in self._joints]
        return min([*times, *(time_s for _, time_s in self._parts.values())])

    def missing(self) -> list[str]:
        """Return what has not been heard: joints and topics."""
        lacking = [f"joint {name}" for name in self._joints if name not in self._positions]
        lacking += [topic for topic, kind in self._topics.items() if kind != JOINTS and topic not in self._parts]
        if not self._joints and JOINTS in self._topics.values():
            lacking.append("every joint")
        return lacking

    def names(self) -> tuple[str, ...]:
        """Return the name of every number, once all of it has been heard."""
        found = list(self._joints)
        for topic, kind in self._topics.items():
            if kind == ARRAY:
                found += [f"state_{place}" for place in range(len(found), len(found) + len(self._parts[topic][0]))]
            elif kind != JOINTS:
                found += POSE_NAMES
        doubled = len(set(found)) != len(found)
        return tuple(f"{name}_{place}" for place, name in enumerate(found)) if doubled else tuple(found)

    def units(self) -> tuple[str, ...]:
        """Return the unit of every number, empty where the message type does not say, or where it is converted."""
        found = [JOINT_UNIT] * len(self._joints)
        for topic, kind in self._topics.items():
            if kind == ARRAY:
                found += [""] * len(self._parts[topic][0])
            elif kind != JOINTS:
                found += POSE_UNITS
        return tuple(found) if self._units.same else ("",) * len(found)

    def forget(self) -> None:
        """Forget every value: what was heard before is another episode's."""
        self._positions.clear()
        self._parts.clear()

    def _take_joints(self, message: Any, time_s: float) -> None:
        names = tuple(message.name) or self._nameless
        if not names:
            raise ValueError(
                f"{len(message.position)} positions without the names of their joints: give the names, in order, with "
                "--state-names, or as the observer's robot_state_nameless_joints"
            )
        if len(message.position) != len(names):
            raise ValueError(
                f"{len(message.position)} positions for {len(names)} joints, expected a position for every joint"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"a joint is named twice among {', '.join(names)}, expected every joint once")
        heard = dict(zip(names, (float(value) for value in message.position), strict=True))
        if not self._settled:
            self._joints += [name for name in names if name not in self._joints]
        mine = {name: value for name, value in heard.items() if name in self._joints}
        self.left_out.update(set(heard) - set(mine))
        bad = [f"{name} at {value}" for name, value in mine.items() if not abs(value) <= LARGEST]
        if bad:
            raise ValueError(f"joint {', '.join(bad)}, expected finite positions: see to the robot's driver")
        self._positions.update({name: (value, time_s) for name, value in mine.items()})


def _pose(message: Any, kind: str) -> npt.NDArray[np.float64]:
    """Return a pose as x, y, z (m) and the quaternion x, y, z, w."""
    pose = message.pose if kind == POSE_STAMPED else message
    at, turned = pose.position, pose.orientation
    return np.array([at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w], dtype=np.float64)
