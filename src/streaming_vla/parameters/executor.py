"""The parameters of the executor."""

from __future__ import annotations

from streaming_vla.parameters.shared import ACTION_LAYOUT, AUTOSTART, CONTROL_PERIOD_S, realtime_priority
from streaming_vla.parameters.spec import Parameter

EXECUTOR = (
    AUTOSTART,
    CONTROL_PERIOD_S,
    *ACTION_LAYOUT,
    Parameter(
        "command_type",
        "array",
        "Message on `command`: array = std_msgs/Float64MultiArray, twist = geometry_msgs/TwistStamped, "
        "trajectory = trajectory_msgs/JointTrajectory, joints = sensor_msgs/JointState.",
        choices=("array", "twist", "trajectory", "joints"),
    ),
    Parameter("command_frame", "base_link", "frame_id of stamped commands."),
    Parameter(
        "scale",
        (1.0, 1.0, 1.0, 1.0),
        "Command units per action unit and dimension (twist: m/s or rad/s; trajectory and joints: rad or m).",
        low=-1000.0,
        high=1000.0,
    ),
    Parameter(
        "maximum_lead",
        (0.3, 0.3, 0.3, 0.3),
        "For trajectory and joints: so far may a target run ahead of the measured joint; more is clamped and counted. "
        "What keep_when_stopped names is not bounded: a gripper must be able to press.",
        "command units",
        low=0.001,
        high=1.0e6,
        live=True,
    ),
    Parameter(
        "keep_when_stopped",
        (False, False, False, True),
        "For trajectory and joints: true where a deceleration or stop keeps the last commanded value (a gripper), "
        "false where it takes the measured joint; only absolute dimensions can be kept.",
    ),
    Parameter(
        "joint_names",
        ("",),
        "Joint of each dimension for trajectory and joints; one empty name takes action_names. Beside others an empty "
        "name sends an absolute dimension to topic gripper_command.",
    ),
    Parameter(
        "velocity_limit",
        (20.0, 20.0, 20.0, 40.0),
        "Largest speed per dimension; faster commands are clamped and counted.",
        "action units/s",
        low=0.001,
        high=1.0e6,
        live=True,
    ),
    Parameter(
        "jump_limit",
        (2.0, 2.0, 2.0, 2.0),
        "Largest difference of two commands in a row per dimension; more is clamped and counted.",
        "action units",
        low=0.001,
        high=1.0e6,
        live=True,
    ),
    Parameter(
        "hold_s",
        2.0,
        "First rung when no action is left: no further motion (zero change, or the last target).",
        "s",
        low=0.0,
        high=600.0,
        live=True,
    ),
    Parameter("decelerate_s", 1.0, "Second rung: controlled stop, then error.", "s", low=0.0, high=600.0, live=True),
    Parameter(
        "max_action_age_s",
        2.0,
        "An action that was received longer ago is not played.",
        "s",
        low=0.01,
        high=60.0,
        live=True,
    ),
    Parameter(
        "robot_timeout_s",
        0.5,
        "Without joint states for this long the robot counts as silent: nothing is played. For trajectory and joints "
        "every one of joint_names must have come.",
        "s",
        low=0.01,
        high=60.0,
        live=True,
    ),
    realtime_priority(50),
    Parameter(
        "start_actions",
        1,
        "Actions that must be queued before the first motion; at most lead_actions.",
        "actions",
        low=1,
        high=64,
        live=True,
    ),
    Parameter(
        "lead_actions",
        1,
        "The generator's lead_actions: more are never queued before the first motion; 0 counts as 1.",
        "actions",
        low=0,
        high=64,
        live=True,
    ),
)
