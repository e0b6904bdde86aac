"""The parameters of each node, and those that nodes share."""

from __future__ import annotations

from streaming_vla.parameters.recorder import RECORDER
from streaming_vla.parameters.spec import Parameter

ACTION_NAMES = ("dx", "dy", "dz", "gripper")


def _realtime_priority(default: int) -> Parameter:
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
    "Duration of one action; set it on executor and saliency_monitor.",
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

SHARED = (AUTOSTART, CONTROL_PERIOD_S, *ACTION_LAYOUT)

OBSERVER = (
    AUTOSTART,
    Parameter("cameras", ("corner2", "gripperPOV"), "Names of the cameras, in the policy's order."),
    Parameter(
        "camera_topics",
        ("camera/corner2/image", "camera/gripperPOV/image"),
        "Picture topic of each camera (sensor_msgs/Image: rgb8, bgr8 or mono8).",
    ),
    Parameter("robot_state_topic", "robot_state", "Topic of the robot's state (std_msgs/Float64MultiArray)."),
    Parameter("image_size", 96, "Width and height of the policy's pictures.", "px", low=16, high=1024),
    Parameter("jpeg_quality", 92, "Quality of the encoded pictures.", low=1, high=100, live=True),
    Parameter(
        "max_skew_s",
        0.08,
        "Largest time between the oldest and the newest picture of one observation.",
        "s",
        low=0.0,
        high=10.0,
        live=True,
    ),
    Parameter(
        "max_frame_age_s",
        0.15,
        "A picture or robot state received longer ago is not used; the request waits for a newer one.",
        "s",
        low=0.001,
        high=10.0,
        live=True,
    ),
    Parameter(
        "frame_timeout_s",
        1.0,
        "A request that has waited this long for pictures is dropped.",
        "s",
        low=0.01,
        high=60.0,
        live=True,
    ),
)

INFERENCE = (
    AUTOSTART,
    Parameter("model", "compact_mt10", "Name of a shipped model, or path of a .safetensors checkpoint."),
    Parameter(
        "cache_policy",
        "window",
        "What is kept of the history in the KV cache: everything, the newest tokens, or summaries of older chunks "
        "chosen by a gate, all of them, by chance, by past or by expected attention.",
        choices=("full", "window", "gated", "mean", "random", "attention", "expected"),
    ),
    Parameter(
        "cache_sinks",
        0,
        "First tokens of the episode that every policy but full always keeps.",
        "tokens",
        low=0,
        high=100_000,
    ),
    Parameter(
        "cache_recent",
        0,
        "Newest tokens that every policy but full keeps; 0 keeps the newest observation only. The shipped model was "
        "trained with up to 4 observations of 25 tokens: much longer histories make it fail.",
        "tokens",
        low=0,
        high=1_000_000,
    ),
    Parameter(
        "cache_capacity", 4096, "Tokens that policy full can hold in one episode.", "tokens", low=1, high=1_000_000
    ),
    Parameter(
        "cache_chunk",
        25,
        "Older tokens that are judged together and become one summary; best the tokens of one observation.",
        "tokens",
        low=1,
        high=100_000,
    ),
    Parameter(
        "cache_budget",
        256,
        "Most tokens that a policy with summaries holds; the summaries of lowest utility go first.",
        "tokens",
        low=1,
        high=1_000_000,
        live=True,
    ),
    Parameter(
        "cache_threshold",
        -1.0,
        "Least score of a chunk that policy gated keeps; below 0: as calibrated with the gate.",
        low=-1.0,
        high=2.0,
        live=True,
    ),
    Parameter(
        "cache_gate",
        "",
        "Weights of the gate for policy gated: name of a shipped file, or path of a .safetensors file.",
    ),
    Parameter("cache_keep_rate", 0.1, "Share of the chunks that policy random keeps.", low=0.0, high=1.0),
    Parameter("max_sessions", 4, "Robots that one node serves at most.", low=1, high=256),
    Parameter(
        "sessions",
        (".",),
        "Namespaces of the robots that are served; '.' is the namespace of this node.",
    ),
    Parameter(
        "latency_profile",
        "",
        "Holds answers back as a slower machine or a network would: name of a shipped profile (config/profiles), or "
        "path of a YAML file; empty: none.",
    ),
    _realtime_priority(30),
)

GENERATOR = (
    AUTOSTART,
    CONTROL_PERIOD_S,
    *ACTION_LAYOUT,
    Parameter(
        "release",
        "stream",
        "stream sends each action when it exists, chunk sends all of a context at once (synchronous baseline).",
        choices=("stream", "chunk"),
        live=True,
    ),
    Parameter(
        "overrun",
        True,
        "Go on with the old context, up to its trained horizon, until the new one is ready.",
        live=True,
    ),
    Parameter(
        "lead_actions",
        1,
        "Actions that are kept ready behind the one being played; 0 takes as many as the measured flow steps need.",
        "actions",
        low=0,
        high=64,
        live=True,
    ),
    Parameter(
        "flow_step_timeout_s",
        0.5,
        "A flow step that has not been answered for this long is given up.",
        "s",
        low=0.01,
        high=60.0,
        live=True,
    ),
    Parameter(
        "hand_over_start",
        "rezero",
        "What a new flow starts from: rezero = nothing, episode = sum of all actions of the episode, pending = sum of "
        "those since its picture was taken.",
        choices=("rezero", "episode", "pending"),
        live=True,
    ),
    Parameter(
        "hand_over_jump",
        0.0,
        "Largest change between actions in a row after a hand-over, in dimensions that are changes; 0 sets no bound.",
        "action units",
        low=0.0,
        high=1.0e6,
        live=True,
    ),
    _realtime_priority(40),
)

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
        "For trajectory and joints: so far may the target of a change run ahead of the measured joint; "
        "more is clamped and counted.",
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
        "Joint of each dimension for trajectory and joints; one empty name takes action_names.",
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
        "hold_s", 2.0, "First rung when no action is left: hold the last command.", "s", low=0.0, high=600.0, live=True
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
        "Without joint states for this long the robot counts as silent: nothing is played.",
        "s",
        low=0.01,
        high=60.0,
        live=True,
    ),
    _realtime_priority(50),
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

SALIENCY_MONITOR = (
    AUTOSTART,
    CONTROL_PERIOD_S,
    *ACTION_LAYOUT,
    Parameter(
        "mode",
        "always",
        "off observes only when the queue is dry (sequential), always observes early; random, action_norm (how far the "
        "arm has moved) and adaptive (what the predictor says) choose when, as long as the context lasts.",
        choices=("off", "always", "random", "action_norm", "adaptive"),
        live=True,
    ),
    Parameter(
        "random_rate", 0.5, "Mode random: share of the contexts that are observed early.", low=0.0, high=1.0, live=True
    ),
    Parameter("random_seed", 0, "Mode random: of the draws.", low=0, high=2**31 - 1, live=True),
    Parameter(
        "saliency_threshold",
        1.0,
        "Modes action_norm (action units) and adaptive (units of the predictor): from here on a change is high.",
        low=0.0,
        high=1.0e6,
        live=True,
    ),
    Parameter(
        "saliency_release",
        0.8,
        "Share of the threshold at which a change that was high stays high.",
        low=0.01,
        high=1.0,
        live=True,
    ),
    Parameter(
        "observe_when",
        "salient",
        "salient observes early where the change is high, calm where it is not.",
        choices=("salient", "calm"),
        live=True,
    ),
    Parameter(
        "early_actions",
        0,
        "Actions left when an early observation is asked for; 0 takes it from the measured latencies.",
        "actions",
        low=0,
        high=64,
        live=True,
    ),
    Parameter(
        "lead_actions",
        1,
        "The generator's lead_actions: actions that are already sent and cannot be changed any more; 0 counts them.",
        "actions",
        low=0,
        high=64,
        live=True,
    ),
    Parameter("max_silence_s", 2.0, "Longest time between two observations.", "s", low=0.05, high=600.0, live=True),
    Parameter(
        "request_timeout_s",
        1.5,
        "A request without a context for this long is asked again.",
        "s",
        low=0.05,
        high=60.0,
        live=True,
    ),
    Parameter(
        "warm_up_contexts",
        2,
        "First contexts of the process that are left out of the measured latencies.",
        "contexts",
        low=0,
        high=100,
        live=True,
    ),
    Parameter("auto_start", False, "Start an episode by itself when a new instruction arrives.", live=True),
)

SIM_ROBOT = (
    AUTOSTART,
    Parameter("task", "drawer-open", "Meta-World task at start."),
    Parameter("seed", 10_000, "Places the objects at start.", low=0, high=2**31 - 1),
    Parameter(
        "real_time_factor",
        0.25,
        "Simulated seconds per second; 0.25 is one environment step of 12.5 ms every 50 ms.",
        low=0.01,
        high=2.0,
        live=True,
    ),
    Parameter("image_size", 192, "Width and height of the camera pictures.", "px", low=16, high=1024),
    Parameter("camera_rate_hz", 20.0, "Pictures per second of each camera.", "Hz", low=0.1, high=100.0, live=True),
)

NODES: dict[str, tuple[Parameter, ...]] = {
    "observer": OBSERVER,
    "inference": INFERENCE,
    "generator": GENERATOR,
    "executor": EXECUTOR,
    "saliency_monitor": SALIENCY_MONITOR,
    "sim_robot": SIM_ROBOT,
    "recorder": (AUTOSTART, *RECORDER),
}


def table(node: str) -> dict[str, Parameter]:
    """Return the parameters of `node` by name."""
    return {parameter.name: parameter for parameter in NODES[node]}
