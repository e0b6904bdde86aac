"""The options that several nodes share: declared here once, and once in section "/**" of the parameter file.

What must be the same on all of them is read at start only: a running suite whose nodes disagree on, say, the control
period would play its actions at one rate and count them at another, and no node can change the copies of the others.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from streaming_vla.options.option import Options, option
from streaming_vla.policies.layout import ActionLayout

ARRAY, JOINTS = "std_msgs/msg/Float64MultiArray", "sensor_msgs/msg/JointState"  # types of the robot's state
EVERY_JOINT = ("",)  # a list of ROS must not be empty


def realtime_priority(default: int) -> Any:
    """Return the declaration of `realtime_priority` with a node's own default."""
    about = "SCHED_FIFO priority of the node's threads where the system permits it; 0 asks for none."
    return option(default, about, ge=0, le=98)


def _names(value: tuple[str, ...]) -> tuple[str, ...]:
    return () if value == EVERY_JOINT else value


class NodeOptions(Options):
    """Options of every node; each may have its own."""

    autostart: bool = option(False, "Configure and activate without being asked by a lifecycle manager.")


class ActionOptions(Options):
    """What an action is; the same on generator, executor and saliency_monitor."""

    control_period_s: float = option(0.05, "Duration of one action.", "s", ge=0.005, le=1.0)
    action_names: tuple[str, ...] = option(("dx", "dy", "dz", "gripper"), "Name of each dimension of the action.")
    action_absolute: tuple[bool, ...] = option(
        (False, False, False, True),
        "Per dimension: true where the value itself is the command, false where actions are changes that add up.",
    )
    action_low: tuple[float, ...] = option(
        (-1.0, -1.0, -1.0, -1.0), "Smallest allowed value per dimension.", "action units"
    )
    action_high: tuple[float, ...] = option(
        (1.0, 1.0, 1.0, 1.0), "Largest allowed value per dimension.", "action units"
    )
    action_initial: tuple[float, ...] = option(
        (0.0, 0.0, 0.0, -1.0),
        "Value per dimension before the first action; counts for absolute dimensions only.",
        "action units",
    )
    lead_actions: int = option(
        0,
        "Actions that wait at the executor behind the one being played; what is sent cannot be changed any more. 0: "
        "one, two where the system permits no real-time priority, and more when they are seen to come too late. The "
        "generator keeps as many more ready as the measured latencies need.",
        "actions",
        ge=0,
        le=64,
    )

    @property
    def layout(self) -> ActionLayout:
        """The layout of the actions."""
        return ActionLayout(
            self.action_names, self.action_absolute, self.action_low, self.action_high, self.action_initial
        )

    @model_validator(mode="after")
    def _check_layout(self) -> ActionOptions:
        _ = self.layout  # refuses what does not fit together
        return self


def layout_values(layout: ActionLayout) -> dict[str, Any]:
    """Return the `action_*` options of a layout."""
    names = ("names", "absolute", "low", "high", "initial")
    return {f"action_{name}": getattr(layout, name) for name in names}


class ContextOptions(Options):
    """What a context can give; the same on generator and saliency_monitor."""

    trained_delay: int = option(
        -1,
        "Actions behind its picture that a context may begin at, at most, -1: as the policy was trained; with "
        "hand_over_start rezero one that begins later skips as many actions as it is late, and ends earlier. 1000 "
        "skips none.",
        "actions",
        ge=-1,
        le=1000,
    )


class RobotStateOptions(Options):
    """Where the robot's state comes from."""

    robot_state_topic: str = option("robot_state", "Topic of the robot's state, in the policy's order.")
    robot_state_type: Literal["std_msgs/msg/Float64MultiArray", "sensor_msgs/msg/JointState"] = option(
        "std_msgs/msg/Float64MultiArray",
        "Message type of the robot's state: Float64MultiArray, which is the state, or JointState, whose positions are. "
        "Of a bag its own type counts.",
    )
    robot_state_joints: tuple[str, ...] = option(
        EVERY_JOINT,
        "For JointState: joints whose positions are the state, in the policy's order; one empty name takes every joint "
        "in the order of the first message.",
    )
    robot_state_nameless_joints: tuple[str, ...] = option(
        EVERY_JOINT,
        "For JointState messages without names, as servo drivers send them: names of their positions, in order; one "
        "empty name refuses such messages.",
    )
    robot_state_scale: tuple[Annotated[float, Field(ge=-1.0e6, le=1.0e6)], ...] = option(
        (1.0,),
        "What one unit of the policy's state is worth in the robot's, per number or one for all: 0.0174533 for a "
        "policy in degrees and joints in radians.",
        "robot units",
    )
    robot_state_offset: tuple[Annotated[float, Field(ge=-1.0e6, le=1.0e6)], ...] = option(
        (0.0,),
        "The robot's state where the policy's is 0, per number or one for all: state = (heard - offset) / scale.",
        "robot units",
    )

    @property
    def state_joints(self) -> tuple[str, ...]:
        """Joints whose positions are the state; () for every joint of the first message."""
        return _names(self.robot_state_joints)

    @property
    def nameless_joints(self) -> tuple[str, ...]:
        """Names of the positions of messages that have none; () where such are refused."""
        return _names(self.robot_state_nameless_joints)

    @property
    def state_units(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Scale and offset of the state, see commands.units.Units."""
        return self.robot_state_scale, self.robot_state_offset

    @model_validator(mode="after")
    def _check_joints(self) -> RobotStateOptions:
        for name, joints in (
            ("robot_state_joints", self.state_joints),
            ("robot_state_nameless_joints", self.nameless_joints),
        ):
            if "" in joints or len(set(joints)) != len(joints):
                raise ValueError(f"{name} is {list(joints)}, expected the name of every joint once")
            if joints and self.robot_state_type != JOINTS:
                raise ValueError(
                    f"{name} names {', '.join(joints)}, but robot_state_type is {self.robot_state_type}, which has no "
                    f"joints: set it to {JOINTS}"
                )
        joints = self.state_joints
        scales, offsets = self.state_units
        if 0.0 in scales:
            raise ValueError(f"robot_state_scale is {list(scales)}, expected what one unit is worth: no entry may be 0")
        size = len(joints) or max(len(scales), len(offsets))
        if {len(scales), len(offsets)} - {1, size}:
            raise ValueError(
                f"robot_state_scale has {len(scales)} and robot_state_offset {len(offsets)} entries, expected one for "
                f"all or one for each number of the state{f', {size} joints' if joints else ''}"
            )
        return self


class SharedOptions(RobotStateOptions, ContextOptions, ActionOptions, NodeOptions):
    """Section "/**" of the parameter file."""
