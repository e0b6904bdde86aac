"""What is known of a robot and of a policy before the robot's parameter file is written. No rclpy, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streaming_vla.options.option import Value
from streaming_vla.parameters.sections import full_namespace

if TYPE_CHECKING:  # the contract needs torch
    from streaming_vla.policies.contract import PolicySpec

Range = tuple[float, float]


class UnclearError(ValueError):
    """Something has to be said by the user; the message is one sentence with the option that says it."""


@dataclass(frozen=True)
class PictureTopic:
    """A topic of pictures that has a publisher.

    Args:
        size: width and height, pixels, of a picture or of its camera info; None: no message came.
    """

    name: str
    kind: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class JointTopic:
    """A topic of JointState, and one message of it.

    Args:
        positions: of each joint, rad or m.
    """

    name: str
    joints: tuple[str, ...]
    positions: tuple[float, ...]


@dataclass(frozen=True)
class ArrayTopic:
    """A topic of Float64MultiArray that has a publisher, and how many numbers a message has."""

    name: str
    size: int


@dataclass(frozen=True)
class CommandTopic:
    """A topic that somebody listens to, of a type that the executor can send."""

    name: str
    kind: str


@dataclass(frozen=True)
class RobotFacts:
    """What the live graph says.

    Args:
        namespace: of the robot; topics within are written without it.
        ranges: lower and upper limit of joints (robot_description), rad or m.
    """

    namespace: str = "/"
    pictures: tuple[PictureTopic, ...] = ()
    joints: tuple[JointTopic, ...] = ()
    arrays: tuple[ArrayTopic, ...] = ()
    commands: tuple[CommandTopic, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def written(self, topic: str) -> str:
        """Return a topic as the parameter file has it: relative within the robot's namespace."""
        own = full_namespace(self.namespace).rstrip("/") + "/"
        return topic.removeprefix(own) if topic.startswith(own) else topic

    def absolute(self, topic: str) -> str:
        """Return the full name of a topic that may be relative to the namespace."""
        return topic if topic.startswith("/") else f"{full_namespace(self.namespace).rstrip('/')}/{topic}"


@dataclass(frozen=True)
class PolicyFacts:
    """What a policy, and the data set that it was trained on, say.

    Args:
        model: as the parameter file names it.
        spec: of the policy.
        inference: further options of the inference node.
        data_ranges: smallest and largest value of each action in the training data, None where nothing tells it;
            empty: the layout's limits.
        action_names, state_names: what the numbers are called in the training data; empty: not told.
        action_units: of each action, where the data set says them.
        rate: actions per second; None: not told.
        source: of names, units and rate, for people.
    """

    model: str
    spec: PolicySpec
    inference: Mapping[str, Value] = field(default_factory=dict)
    data_ranges: tuple[Range | None, ...] = ()
    action_names: tuple[str, ...] = ()
    state_names: tuple[str, ...] = ()
    action_units: tuple[str, ...] = ()
    rate: float | None = None
    source: str = ""

    def data_range(self, index: int) -> Range | None:
        """Return the smallest and largest value of an action in training, policy units; None: not known."""
        layout = self.spec.layout
        return self.data_ranges[index] if self.data_ranges else (layout.low[index], layout.high[index])
