"""Small bags with known content, by this project's writer and by `rosbags`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from streaming_vla.bags.definitions import standard
from streaming_vla.bags.recorder_options import WriterOptions
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter

STORE = standard()
BEGIN_NS = 1_700_000_000_000_000_000
STEP_NS = 50_000_000
STEPS = 40
SIZE = 24
CAMERAS = ("/camera/left/image", "/camera/right/image")
STATE = "/robot_state"
TYPES = {
    CAMERAS[0]: "sensor_msgs/msg/Image",
    CAMERAS[1]: "sensor_msgs/msg/CompressedImage",
    STATE: "std_msgs/msg/Float64MultiArray",
    "/joint_states": "sensor_msgs/msg/JointState",
    "/action": "streaming_vla_interfaces/msg/Action",
}
Content = list[tuple[str, int, bytes]]


def make(kind: str, **fields: Any) -> Any:
    """Return a message of a type."""
    return STORE.types[kind](**fields)


def header(time_ns: int, frame: str = "") -> Any:
    stamp = make("builtin_interfaces/msg/Time", sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def picture(step: int) -> np.ndarray:
    """Return [SIZE, SIZE, 3] uint8 RGB that tells its step."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[..., 0] = 5 * step % 256
    pixels[: step % SIZE, :, 1] = 200
    return pixels


def image(pixels: np.ndarray, time_ns: int, encoding: str = "rgb8") -> Any:
    rows = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1).view(np.uint8)
    return make(
        "sensor_msgs/msg/Image", header=header(time_ns), height=pixels.shape[0], width=pixels.shape[1],
        encoding=encoding, is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1),
    )  # fmt: skip


def compressed(pixels: np.ndarray, time_ns: int) -> Any:
    import cv2

    _, data = cv2.imencode(".png", pixels[..., ::-1])
    return make("sensor_msgs/msg/CompressedImage", header=header(time_ns), format="png", data=data.reshape(-1))


def floats(values: Sequence[float]) -> Any:
    layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    return make("std_msgs/msg/Float64MultiArray", layout=layout, data=np.array(values, np.float64))


def messages(step: int, time_ns: int) -> list[tuple[str, Any]]:
    """Return what the robot says at one step."""
    joints = make(
        "sensor_msgs/msg/JointState", header=header(time_ns), name=["a", "b"], position=np.array([0.1 * step, 1.0]),
        velocity=np.zeros(0), effort=np.zeros(0),
    )  # fmt: skip
    action = make(
        "streaming_vla_interfaces/msg/Action", header=header(time_ns), session="/", episode=1, context=step // 10,
        index=step % 10, flow_time=0.5, values=np.full(4, 0.01 * step, np.float32), more=True,
    )  # fmt: skip
    return [
        (CAMERAS[0], image(picture(step), time_ns)),
        (CAMERAS[1], compressed(picture(step), time_ns)),
        (STATE, floats([0.01 * step, 0.02 * step, 0.0, 1.0])),
        ("/joint_states", joints),
        ("/action", action),
    ]


def content(steps: int = STEPS, times_ns: Sequence[int] | None = None) -> Content:
    """Return (topic, time, CDR) of everything that the robot says."""
    found = []
    for step in range(steps):
        time_ns = BEGIN_NS + step * STEP_NS if times_ns is None else times_ns[step]
        for place, (topic, message) in enumerate(messages(step, time_ns)):
            found.append((topic, time_ns + place, bytes(STORE.serialize_cdr(message, TYPES[topic]))))
    return found


def topic(name: str) -> Topic:
    return described(name, TYPES[name])


@cache
def described(name: str, kind: str) -> Topic:
    definition, _ = STORE.generate_msgdef(kind, ros_version=2)
    return Topic(name, kind, definition=definition, definition_format="ros2msg", type_hash=STORE.hash_rihs01(kind))


def write_own(folder: Path, said: Content, options: WriterOptions | None = None, close: bool = True) -> Path:
    """Write with the project's writer; time of the writer is that of the messages."""
    writer = BagWriter(folder, options)
    now_s = 0.0
    for name, time_ns, data in said:
        now_s = (time_ns - BEGIN_NS) * 1e-9
        writer.tick(now_s)
        writer.write(topic(name), data, time_ns, time_ns, now_s)
    writer.tick(now_s + 10.0)
    if close:
        writer.close(now_s)
    return folder


def write_rosbags(
    folder: Path,
    said: Content,
    storage: StoragePlugin = StoragePlugin.MCAP,
    mode: CompressionMode = CompressionMode.NONE,
    version: Literal[8, 9] = 9,
) -> Path:
    """Write with `rosbags`."""
    writer = Writer(folder, version=version, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {name: writer.add_connection(name, kind, typestore=STORE) for name, kind in TYPES.items()}
        for name, time_ns, data in said:
            writer.write(connections[name], time_ns, data)
    return folder
