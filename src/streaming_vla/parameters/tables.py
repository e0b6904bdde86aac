"""The parameters of each node."""

from __future__ import annotations

from streaming_vla.parameters.executor import EXECUTOR
from streaming_vla.parameters.recorder import RECORDER
from streaming_vla.parameters.saliency_monitor import SALIENCY_MONITOR
from streaming_vla.parameters.shared import ACTION_LAYOUT, AUTOSTART, CONTROL_PERIOD_S, ROBOT_STATE, realtime_priority
from streaming_vla.parameters.spec import Parameter

OBSERVER = (
    AUTOSTART,
    Parameter("cameras", ("corner2", "gripperPOV"), "Names of the cameras, in the policy's order."),
    Parameter(
        "camera_topics",
        ("camera/corner2/image", "camera/gripperPOV/image"),
        "Picture topic of each camera.",
    ),
    Parameter(
        "camera_types",
        ("sensor_msgs/msg/Image",),
        "Message type of each camera, or one for all: Image (rgb8, bgr8, mono8, bayer, yuv, 16UC1, 32FC1), "
        "CompressedImage (jpeg, png, compressedDepth), or PointCloud2, which becomes a picture of distances.",
        choices=("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/PointCloud2"),
    ),
    Parameter(
        "camera_rotations",
        (0,),
        "How far each camera's picture is turned clockwise to stand upright (0, 90, 180 or 270), or one for all.",
        "degrees",
        low=0,
        high=270,
    ),
    *ROBOT_STATE,
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
        "saliency_model",
        "auto",
        "Look-ahead predictor for the monitor's saliency_of pictures: name of a shipped file, or path of a "
        ".safetensors file; auto takes the one of the model's name with _saliency behind it; empty: none.",
    ),
    Parameter(
        "cache_policy",
        "window",
        "What is kept of the history in the KV cache: everything, the newest tokens, the newest observation alone, or "
        "summaries of older chunks chosen by a gate, all of them, by chance, by past or by expected attention.",
        choices=("full", "window", "newest", "gated", "mean", "random", "attention", "expected"),
    ),
    Parameter(
        "cache_sinks",
        0,
        "First tokens of the episode that every policy but full and newest always keeps.",
        "tokens",
        low=0,
        high=100_000,
    ),
    Parameter(
        "cache_recent",
        0,
        "Newest tokens that every policy but full keeps; 0 keeps the newest observation only. The shipped model was "
        "trained with up to 8 observations of 25 tokens, in the memory tasks 120, and was measured with 1 and 4.",
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
    Parameter(
        "cache_keep_rate",
        0.1,
        "Share of the chunks that policy random keeps, the same ones in every episode; how many gated keeps is up to "
        "its training and to cache_threshold.",
        low=0.0,
        high=1.0,
    ),
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
    realtime_priority(30),
)

GENERATOR = (
    AUTOSTART,
    CONTROL_PERIOD_S,
    *ACTION_LAYOUT,
    *ROBOT_STATE,
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
        "generate_timeout_s",
        0.5,
        "An action that was asked for and has not come for this long is given up.",
        "s",
        low=0.01,
        high=60.0,
        live=True,
    ),
    Parameter(
        "max_context_age_s",
        5.0,
        "A context whose observation was asked for longer ago is not acted on.",
        "s",
        low=0.1,
        high=120.0,
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
        "trained_delay",
        4,
        "Start rezero: actions behind its picture that the policy was trained to begin a context at, at most; one that "
        "begins later leaves out as many actions as it is late. 1000 leaves none out.",
        "actions",
        low=0,
        high=1000,
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
    realtime_priority(40),
)

SIM_ROBOT = (
    AUTOSTART,
    Parameter("task", "drawer-open", "Task at start: one of MT10, or cued-reach, count, return."),
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
