"""Commands of a robot back into actions: what the writers of this folder do, the other way round. No rclpy.

A command says where joints are to go or how fast; an action is that in the policy's own dimensions and units: divided
by `scale` behind `offset`, and, of a dimension that is a change, the difference of two targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.commands.finite import finite
from streaming_vla.commands.sent_actions import ACTION, EXECUTION_STATE, SentActions
from streaming_vla.commands.targets import Reached, Target, trajectory_targets
from streaming_vla.commands.units import Units
from streaming_vla.options.shared import ARRAY, JOINTS

TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
TWIST, TWIST_STAMPED = "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"
TYPES = (ARRAY, TRAJECTORY, JOINTS, TWIST_STAMPED, TWIST, ACTION)
TARGETS = (TRAJECTORY, JOINTS)  # of joints by name
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ActionOptions:
    """How commands become actions of A dimensions.

    Args:
        names: of the dimensions.
        absolute: True where the value itself is the action, False where it is a change.
        joints: joint of each dimension, [A]; empty where a dimension has none.
        scale: command units per action unit, [A].
        period_s: duration of an action.
        offset: command units of an absolute action of 0, [A] or one for all; of changes it is 0.

    Raises:
        ValueError: a length that is not A, or a scale of 0.
    """

    names: tuple[str, ...]
    absolute: tuple[bool, ...]
    joints: tuple[str, ...]
    scale: tuple[float, ...]
    period_s: float
    offset: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("absolute", "joints", "scale"):
            if len(getattr(self, name)) != len(self.names):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} values, expected one for each of {', '.join(self.names)}"
                )
        if zero := [name for name, scale in zip(self.names, self.scale, strict=True) if scale == 0.0]:
            raise ValueError(f"scale of {', '.join(zero)} is 0, expected what one action unit is worth")


class ActionReader:
    """Keeps what the robot was told last and says what action a step is.

    Args:
        topics: message type of each command topic, one of TYPES; the first is the one that must go on coming, what the
            others say holds until they say something else.
        rest: topic of what the first cannot express (gripper_command); None where there is none.

    Raises:
        ValueError: the dimensions cannot be told by such messages.
    """

    def __init__(self, options: ActionOptions, topics: Mapping[str, str], rest: str | None = None) -> None:
        self._options, self._topics, self._rest = options, dict(topics), rest
        self._first = next(iter(self._topics))
        self._units = Units(options.scale, options.offset)
        self._size = len(options.scale)
        self._absolute = np.asarray(options.absolute)
        self._sent = SentActions(len(options.names), options.absolute)
        self._targets: dict[int, Target] = {}
        self._before: Vector | None = None
        self.left_out: set[str] = set()  # joints that are told and no dimension has
        self._own = own_dimensions(options, tuple(self._topics.values()))
        if not self._own.all() and rest is None:
            raise ValueError(
                f"{self._topics[self._first]} does not tell {', '.join(np.array(options.names)[~self._own])}: record "
                "gripper_command as well, or name the topic that tells them with another --action-topic"
            )
        self.told_s: float | None = None  # newest command of the first topic
        self.covered_s: float | None = None  # until when it says what to do

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that is read."""
        return tuple(dict.fromkeys([*self._topics, *([self._rest] if self._rest else [])]))

    def take(self, topic: str, message: Any, time_s: float) -> None:
        """Take a command.

        Raises:
            ValueError: it cannot be used: what the robot was told is not known.
        """
        kind = self._topics.get(topic, ARRAY)
        covered_s = time_s
        if topic == self._rest:
            self._set(np.flatnonzero(~self._own), np.array(message.data, dtype=np.float64), time_s)
            return
        if kind in (TWIST, TWIST_STAMPED):
            self._set(np.flatnonzero(~self._absolute), self._velocity(message, kind), time_s)
        elif kind == ARRAY:
            self._set(np.arange(self._size), np.array(message.data, dtype=np.float64), time_s)
        elif kind == ACTION:
            self._sent.take(message)
            if self._sent.timed:
                return
            covered_s = time_s + self._sent.waiting * self._options.period_s
        elif kind == EXECUTION_STATE:
            if not self._sent.take_state(message):
                return
        else:
            covered_s = self._aim(message, kind, time_s)
        if topic == self._first or kind == EXECUTION_STATE:
            self.told_s, self.covered_s = time_s, max(covered_s, self.covered_s or covered_s)

    def begin(self, now_s: float) -> None:
        """Remember the targets at the begin of a step: changes count from them."""
        self._before = self._reached(now_s)

    def action(self, now_s: float) -> Vector | None:
        """Return the action [A] of the step that ends at `now_s`, in action units; None where it is not known."""
        if ACTION in self._topics.values():
            return self._sent.action(now_s)
        told = self._reached(now_s)
        if told is None or self._before is None:
            return None
        changes = told - self._before if self._topics[self._first] in TARGETS else told
        return self._units.to_policy(np.where(self._absolute, told, changes))

    def missing(self) -> list[str]:
        """Return the dimensions that nobody has told anything about."""
        if ACTION in self._topics.values():
            return []
        return [name for place, name in enumerate(self._options.names) if place not in self._targets]

    def known(self) -> bool:
        """True when every dimension has been told something."""
        return self._sent.known() if ACTION in self._topics.values() else not self.missing()

    def forget(self) -> None:
        """Forget every command: what was told before is another episode's."""
        self._targets.clear()
        self._sent.forget()
        self._before = self.told_s = self.covered_s = None

    def _reached(self, now_s: float) -> Vector | None:
        if len(self._targets) < self._size:
            return None
        return np.array([self._targets[place].value(now_s) for place in range(self._size)], dtype=np.float64)

    def _set(self, places: npt.NDArray[np.int64], values: Vector, time_s: float) -> None:
        if len(values) != len(places):
            names = [self._options.names[place] for place in places]
            raise ValueError(f"the command has {len(values)} numbers, expected one for each of {', '.join(names)}")
        finite(values, "the command")
        for place, value in zip(places.tolist(), values.tolist(), strict=True):
            self._targets[place] = Reached(value)

    def _velocity(self, message: Any, kind: str) -> Vector:
        twist = message.twist if kind == TWIST_STAMPED else message
        each = [getattr(part, axis) for part in (twist.linear, twist.angular) for axis in "xyz"]
        values = np.array(each, dtype=np.float64)
        count = int((~self._absolute).sum())
        if over := np.flatnonzero(values[count:]).tolist():
            axis = ("linear x", "linear y", "linear z", "angular x", "angular y", "angular z")[count + over[0]]
            raise ValueError(
                f"{axis} of the twist is {values[count + over[0]]:g}, but {count} dimensions of the action are changes"
            )
        return values[:count]

    def _aim(self, message: Any, kind: str, time_s: float) -> float:
        """Take joint targets; return until when they say what to do."""
        joints = self._options.joints
        mine = [name for name in joints if name]
        told = tuple(message.joint_names if kind == TRAJECTORY else message.name)
        names = told or (tuple(mine) if kind == JOINTS else ())
        if len(set(names)) != len(names):
            raise ValueError(f"a joint is named twice among {', '.join(names)}, expected every joint once")
        self.left_out.update(set(names) - set(mine))
        if kind == JOINTS:
            values = np.array(message.position, dtype=np.float64)
            if len(values) != len(names):
                raise ValueError(f"{len(values)} positions for {len(names)} joints, expected one for every joint")
            found: dict[str, Target] = {name: Reached(float(value)) for name, value in zip(names, values, strict=True)}
            finite(np.array([value for name, value in zip(names, values, strict=True) if name in mine]), "the command")
            covered_s = time_s
        else:
            found, covered_s = trajectory_targets(message, time_s, self._options.period_s)
        for name, target in found.items():
            if name in mine:
                self._targets[joints.index(name)] = target
        return covered_s


def own_dimensions(options: ActionOptions, kinds: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Return which of the dimensions [A] messages of these types tell.

    Raises:
        ValueError: a twist with no change, or more than six, or targets without a joint.
    """
    absolute = np.asarray(options.absolute)
    own = np.zeros(len(options.names), dtype=bool)
    for kind in kinds:
        if kind in (ARRAY, ACTION):
            own |= True
        elif kind in (TWIST, TWIST_STAMPED):
            if not 1 <= (count := int((~absolute).sum())) <= 6:
                raise ValueError(f"a twist tells 1 to 6 changes, the action has {count}: correct action_absolute")
            own |= ~absolute
        elif kind in TARGETS:
            own |= np.array([bool(name) for name in options.joints])
    return own
