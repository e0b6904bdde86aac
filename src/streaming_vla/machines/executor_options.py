"""The options of the executor, the limits of what it commands included."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from streaming_vla.machines.limits import Limits
from streaming_vla.options.option import option
from streaming_vla.options.shared import ActionOptions, NodeOptions, realtime_priority
from streaming_vla.policies.layout import check_counts

PREVIEW = "_preview"  # behind the topics of commands, in a dry run
Positive = Annotated[float, Field(ge=0.001, le=1.0e6)]


class ExecutorOptions(ActionOptions, NodeOptions):
    """How actions are played and become commands."""

    command_topic: str = option(
        "command", "Topic of the robot's commands, as /arm_controller/joint_trajectory; a dry run does not use it."
    )
    joint_states_topic: str = option("joint_states", "Topic of the robot's joint states, the proof that it lives.")
    command_type: Literal["array", "twist", "trajectory", "joints"] = option(
        "array",
        "Message on command_topic: array = std_msgs/Float64MultiArray, twist = geometry_msgs/TwistStamped, "
        "trajectory = trajectory_msgs/JointTrajectory, joints = sensor_msgs/JointState.",
    )
    dry_run: bool = option(
        False,
        "Compute and limit every command, but publish it on `command_preview` (`gripper_command_preview`) only: the "
        "robot is not moved, and a person may move it meanwhile.",
    )
    command_frame: str = option("base_link", "frame_id of stamped commands.")
    scale: tuple[Annotated[float, Field(ge=-1000.0, le=1000.0)], ...] = option(
        (1.0, 1.0, 1.0, 1.0),
        "Command units per action unit and dimension (twist: m/s or rad/s; trajectory and joints: rad or m).",
    )
    offset: tuple[Annotated[float, Field(ge=-1.0e6, le=1.0e6)], ...] = option(
        (0.0,),
        "Command where an absolute action is 0, per dimension or one for all (command = action * scale + offset); of "
        "dimensions that are changes it is 0.",
        "command units",
    )
    maximum_lead: tuple[Positive, ...] = option(
        (0.3, 0.3, 0.3, 0.3),
        "For trajectory and joints: so far may a target run ahead of the measured joint; more is clamped and counted. "
        "What keep_when_stopped names is not bounded: a gripper must be able to press.",
        "command units",
        live=True,
        guards=True,
    )
    keep_when_stopped: tuple[bool, ...] = option(
        (False, False, False, True),
        "For trajectory and joints: true where a deceleration or stop keeps the last commanded value (a gripper), "
        "false where it takes the measured joint; only absolute dimensions can be kept.",
    )
    joint_names: tuple[str, ...] = option(
        ("",),
        "Joint of each dimension for trajectory and joints; one empty name takes action_names. Beside others an empty "
        "name sends an absolute dimension to topic gripper_command.",
    )
    velocity_limit: tuple[Positive, ...] = option(
        (20.0, 20.0, 20.0, 40.0),
        "Largest speed per dimension; faster commands are clamped and counted.",
        "action units/s",
        live=True,
        guards=True,
    )
    jump_limit: tuple[Positive, ...] = option(
        (2.0, 2.0, 2.0, 2.0),
        "Largest difference of two commands in a row per dimension; more is clamped and counted.",
        "action units",
        live=True,
        guards=True,
    )
    hold_s: float = option(
        2.0,
        "First rung when no action is left: no further motion (zero change, or the last target).",
        "s",
        live=True,
        ge=0.0,
        le=600.0,
    )
    decelerate_s: float = option(1.0, "Second rung: controlled stop, then error.", "s", live=True, ge=0.0, le=600.0)
    respawn_hold_s: float = option(
        15.0,
        "So long the robot is held, no rung further, while a node is known to be started again; and so long may the "
        "executor itself be away. It goes on when actions come.",
        "s",
        live=True,
        ge=0.0,
        le=600.0,
    )
    inference_respawn_hold_s: float = option(
        60.0,
        "The same while the node that is started again is inference: it loads a model.",
        "s",
        live=True,
        ge=0.0,
        le=600.0,
    )
    resume_after_error: bool = option(
        False,
        "After an error the robot moves again as soon as actions come, whoever is near it by then; false: in a new "
        "episode only.",
    )
    max_action_age_s: float = option(
        2.0, "An action that was received longer ago is not played.", "s", live=True, guards=True, ge=0.01, le=60.0
    )
    robot_timeout_s: float = option(
        0.5,
        "Without joint states for this long the robot counts as silent: nothing is played. For trajectory and joints "
        "every one of joint_names must have come.",
        "s",
        live=True,
        guards=True,
        ge=0.01,
        le=60.0,
    )
    start_actions: int = option(
        1,
        "Actions that must be queued before the first motion; at most lead_actions, one where that is 0.",
        "actions",
        live=True,
        ge=1,
        le=64,
    )
    realtime_priority: int = realtime_priority(50)

    @property
    def limits(self) -> Limits:
        """Limits of velocity and jump; those of value are in the layout."""
        return Limits(self.velocity_limit, self.jump_limit)

    def at_period(self, period_s: float) -> ExecutorOptions:
        """Return options for another control period with the same limits per action: it moves the robot as far."""
        factor = (1.0 + 1e-9) * self.control_period_s / period_s  # rounding must not clamp what was allowed
        return self.changed(
            control_period_s=period_s, velocity_limit=tuple(factor * limit for limit in self.velocity_limit)
        )

    @property
    def joints(self) -> tuple[str, ...]:
        """Joint of each dimension; empty for what goes to `gripper_command`."""
        return self.action_names if self.joint_names == ("",) else self.joint_names

    @model_validator(mode="after")
    def _check_dimensions(self) -> ExecutorOptions:
        names = ("scale", "maximum_lead", "velocity_limit", "jump_limit", "keep_when_stopped")
        counts = {name: len(getattr(self, name)) for name in names}
        check_counts(counts | {"joint_names": len(self.joints)}, self.action_names)
        self._check_offset()
        self.limits.check(self.layout)
        if doubled := [name for name, count in Counter(self.joints).items() if name and count > 1]:
            raise ValueError(f"joint_names has {', '.join(doubled)} twice, expected one joint for each dimension")
        return self

    def _check_offset(self) -> None:
        if len(self.offset) not in (1, len(self.action_names)):
            names = ", ".join(self.action_names)
            raise ValueError(f"offset has {len(self.offset)} values, expected one for all or one for each of {names}")
        offsets = self.offset * len(self.action_names) if len(self.offset) == 1 else self.offset
        for name, absolute, offset in zip(self.action_names, self.action_absolute, offsets, strict=True):
            if offset and not absolute:
                raise ValueError(f"offset of '{name}' is {offset:g}, but '{name}' is a change: a change of 0 is none")

    @model_validator(mode="after")
    def _check_start(self) -> ExecutorOptions:
        lead = max(1, self.lead_actions)
        if self.start_actions > lead:
            raise ValueError(
                f"start_actions is {self.start_actions}, but the generator sends only {lead} before the first motion, "
                "which then never begins: set lead_actions in section '/**' to at least as many"
            )
        return self
