"""The parameters that several nodes have."""

from __future__ import annotations

from streaming_vla.parameters.spec import Parameter

ACTION_NAMES = ("dx", "dy", "dz", "gripper")


def realtime_priority(default: int) -> Parameter:
    """Return the parameter with a node's own default."""
    return Parameter(
        "realtime_priority",
        default,
        "SCHED_FIFO priority of the node's threads where the system permits it; 0 asks for none.",
        low=0,
        high=98,
    )


AUTOSTART = Parameter("autostart", False, "Configure and activate without being asked by a lifecycle manager.")
CONTROL_PERIOD_S = Parameter(
    "control_period_s",
    0.05,
    "Duration of one action; the same on generator, executor and saliency_monitor.",
    "s",
    low=0.005,
    high=1.0,
    live=True,
)
ACTION_LAYOUT = (
    Parameter("action_names", ACTION_NAMES, "Name of each dimension of the action."),
    Parameter(
        "action_absolute",
        (False, False, False, True),
        "Per dimension: true where the value itself is the command, false where actions are changes that add up.",
    ),
    Parameter("action_low", (-1.0, -1.0, -1.0, -1.0), "Smallest allowed value per dimension.", "action units"),
    Parameter("action_high", (1.0, 1.0, 1.0, 1.0), "Largest allowed value per dimension.", "action units"),
    Parameter(
        "action_initial",
        (0.0, 0.0, 0.0, -1.0),
        "Value per dimension before the first action; counts for absolute dimensions only.",
        "action units",
    ),
)
ROBOT_STATE = (
    Parameter("robot_state_topic", "robot_state", "Topic of the robot's state, in the policy's order."),
    Parameter(
        "robot_state_type",
        "std_msgs/msg/Float64MultiArray",
        "Message type of the robot's state: Float64MultiArray, which is the state, or JointState, whose positions are. "
        "Of a bag its own type counts.",
        choices=("std_msgs/msg/Float64MultiArray", "sensor_msgs/msg/JointState"),
    ),
    Parameter(
        "robot_state_joints",
        ("",),
        "For JointState: joints whose positions are the state, in the policy's order; one empty name takes every joint "
        "in the order of the first message.",
    ),
)

SHARED = (AUTOSTART, CONTROL_PERIOD_S, *ACTION_LAYOUT, *ROBOT_STATE)
