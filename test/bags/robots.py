"""Bags of one robot whose numbers tell the time: state and commands are seconds since the begin, pictures count up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from making import STORE, floats, make
from rosbags.rosbag2 import StoragePlugin, Writer

from streaming_vla.bags.export import ExportOptions
from streaming_vla.datasets.check import check_episode, check_films, check_whole
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.parts import Storage
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.workbench.export.options import export_options
from streaming_vla.workbench.export.run import Exported, export_all

T0 = 1_700_000_000.0
NS = 10**9
IMAGE, JOINTS = "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"
ARRAY, STRING = "std_msgs/msg/Float64MultiArray", "std_msgs/msg/String"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
TWIST_STAMPED, TWIST = "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/Twist"
POSE_STAMPED, POSE = "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/Pose"
EPISODE, ACTION = "streaming_vla_interfaces/msg/Episode", "streaming_vla_interfaces/msg/Action"
EXECUTION = "streaming_vla_interfaces/msg/ExecutionState"
STATE_JOINTS = ("shoulder", "elbow", "finger")
ACTIONS = ("a", "b", "grip")
LEVEL, PER_PICTURE = 40, 2  # grey level of picture i is LEVEL + PER_PICTURE * i
Message = tuple[str, str, Any, float]  # topic, type, message, s since T0


def stamp(time_s: float) -> Any:
    sec, nanosec = divmod(round(time_s * NS), NS)
    return make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)


def header(time_s: float = 0.0, frame: str = "") -> Any:
    return make("std_msgs/msg/Header", stamp=stamp(time_s), frame_id=frame)


def image(level: float, size: tuple[int, int] = (16, 16), time_s: float = 0.0) -> Any:
    data = np.full((*size, 3), int(level) % 256, np.uint8)
    return make(IMAGE, header=header(time_s), height=size[0], width=size[1], encoding="bgr8", is_bigendian=0,
                step=3 * size[1], data=data.reshape(-1))  # fmt: skip


def joints(names: Sequence[str], positions: Sequence[float], time_s: float = 0.0) -> Any:
    empty = np.zeros(0)
    return make(JOINTS, header=header(time_s), name=list(names), position=np.array(positions, np.float64),
                velocity=empty, effort=empty)  # fmt: skip


def text(said: str) -> Any:
    return make(STRING, data=said)


def episode(number: int, instruction: str, active: bool = True) -> Any:
    about = {"session": "/", "number": number, "active": active, "instruction": instruction, "stopped": False}
    return make(EPISODE, header=header(), **about)


def trajectory(names: Sequence[str], points: Sequence[tuple[float, Sequence[float]]], start_s: float = 0.0) -> Any:
    """Return a JointTrajectory of points (s from the start, positions)."""
    made = []
    for at_s, positions in points:
        sec, nanosec = divmod(round(at_s * NS), NS)
        after = make("builtin_interfaces/msg/Duration", sec=sec, nanosec=nanosec)
        empty = np.zeros(0)
        made.append(make("trajectory_msgs/msg/JointTrajectoryPoint", positions=np.array(positions, np.float64),
                         velocities=empty, accelerations=empty, effort=empty, time_from_start=after))  # fmt: skip
    return make(TRAJECTORY, header=header(start_s), joint_names=list(names), points=made)


def vector(x: float, y: float, z: float) -> Any:
    return make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def twist(linear: Sequence[float], angular: Sequence[float] = (0.0, 0.0, 0.0)) -> Any:
    return make(TWIST, linear=vector(*linear), angular=vector(*angular))


def twist_stamped(linear: Sequence[float], angular: Sequence[float] = (0.0, 0.0, 0.0)) -> Any:
    return make(TWIST_STAMPED, header=header(), twist=twist(linear, angular))


def pose(x: float, y: float, z: float) -> Any:
    turned = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    return make(POSE, position=make("geometry_msgs/msg/Point", x=x, y=y, z=z), orientation=turned)


def sent(context: int, index: int, values: Sequence[float], number: int = 1) -> Any:
    return make(ACTION, header=header(), session="/", episode=number, context=context, index=index, flow_time=0.5,
                values=np.array(values, np.float32), more=True)  # fmt: skip


def playing(context: int, index: int, mode: int = 2, number: int = 1) -> Any:
    return make(EXECUTION, header=header(), session="/", episode=number, instruction="go", mode=mode, context=context,
                index=index, queue_depth=0, executed=0, cumulative_action=np.zeros(3, np.float32), held=False,
                starved=False, held_s=0.0, starved_s=0.0, hand_overs=0, rejected=0, dry_run=False,
                resumes=False, respawn_hold_s=15.0)  # fmt: skip


def pictures(
    seconds: float, begin_s: float = 0.0, hz: float = 20.0, camera: str = "front", size: tuple[int, int] = (16, 16)
) -> list[Message]:
    """Return the pictures of a camera; picture i comes at i / hz."""
    return [(f"/camera/{camera}/image", IMAGE, image(LEVEL + PER_PICTURE * i, size), begin_s + i / hz)
            for i in range(round(seconds * hz))]  # fmt: skip


def states(seconds: float, begin_s: float = 0.0, hz: float = 100.0) -> list[Message]:
    """Return joint states: the shoulder is at the time, the elbow 10 ahead."""
    return [("/joint_states", JOINTS, joints(STATE_JOINTS, [i / hz, 10 + i / hz, 0.5]), begin_s + i / hz + 0.0005)
            for i in range(round(seconds * hz))]  # fmt: skip


def commands(
    seconds: float,
    begin_s: float = 0.0,
    hz: float = 20.0,
    kind: str = ARRAY,
    make_one: Callable[[float], Any] = lambda r: floats([r, 10 + r, 1.0]),
    topic: str = "/command",
) -> list[Message]:
    """Return commands, each of its own time r, 10 ms behind the pictures."""
    return [(topic, kind, make_one(i / hz + 0.01), begin_s + i / hz + 0.01) for i in range(round(seconds * hz))]


def stream(seconds: float = 2.0, begin_s: float = 0.0) -> list[Message]:
    """Return all of them in the order of time."""
    return in_time(pictures(seconds, begin_s), states(seconds, begin_s), commands(seconds, begin_s))


def in_time(*messages: Iterable[Message]) -> list[Message]:
    """Return messages in the order of time."""
    return sorted((each for some in messages for each in some), key=lambda message: message[3])


def write(folder: Path, messages: Iterable[Message], plugin: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """Write a bag with `rosbags`, its messages in the order in which they are given."""
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        known: dict[str, Any] = {}
        for topic, kind, message, time_s in messages:
            if topic not in known:
                known[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(known[topic], round((T0 + time_s) * NS), bytes(STORE.serialize_cdr(message, kind)))
    return folder


def options(changes: dict[str, dict[str, Any]] | None = None, **given: Any) -> ExportOptions:
    """Return the options of this robot, pictures without loss.

    Args:
        changes: of its parameters, by node; the generator's are the executor's too.
    """
    changes = dict(changes or {})
    generator = changes.pop("generator", {})
    count = len(generator.get("action_names", ACTIONS))
    agreed = {"action_names": ACTIONS, "action_absolute": (True,) * count, "action_low": (-100.0,) * count,
              "action_high": (100.0,) * count, "action_initial": (0.0,) * count, **generator}  # fmt: skip
    played = {"scale": (1.0,) * count, "maximum_lead": (1.0,) * count, "keep_when_stopped": (False,) * count,
              "velocity_limit": (20.0,) * count, "jump_limit": (20.0,) * count}  # fmt: skip
    observer = {"cameras": ("front",), "camera_topics": ("camera/front/image",), "robot_state_topic": "joint_states",
                "robot_state_type": JOINTS, "robot_state_joints": STATE_JOINTS}  # fmt: skip
    mine: dict[str, dict[str, Any]] = {"generator": agreed, "executor": {**agreed, **played}, "observer": observer}
    suite = SuiteOptions()
    for node in mine | changes:
        suite = suite.changed(node, {**mine.get(node, {}), **changes.get(node, {})})
    return export_options(suite, **{"instruction": "do it", "storage": Storage.png, **given})


def export(bags: Path | Sequence[Path], folder: Path, given: ExportOptions | None = None) -> Exported:
    """Export bags in this process."""
    return export_all([bags] if isinstance(bags, Path) else bags, folder, given or options())


def read(folder: Path, number: int = 0, camera: str = "front") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return state [T, S], action [T, A] and the number of the picture that each step shows, [T]."""
    with Dataset(folder) as data:
        found = data.episode(data.entries[number])
        shown = np.array([pixels.mean() for pixels in data.pictures(found, camera)])
        return found.state, found.action, (shown - LEVEL) / PER_PICTURE


def tasks(folder: Path) -> list[str]:
    """Return the task of every episode."""
    with Dataset(folder) as data:
        return [data.instructions(data.episode(entry))[0] for entry in data.entries]


def sound(folder: Path) -> None:
    """Check that nothing is wrong with a data set."""
    with Dataset(folder) as data:
        found = [*check_whole(data), *check_films(data)]
        found += [each for entry in data.entries for each in check_episode(data, data.episode(entry))]
        assert found == []
