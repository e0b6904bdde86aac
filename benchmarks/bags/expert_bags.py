"""Bags of the simulated robot at the wheel of its scripted expert, written without ROS and without waiting for a clock.

One environment step every 50 ms, as the live simulation does it, so that a busy machine changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streaming_vla.bags.definitions import standard
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter
from streaming_vla.sim.metaworld import CAMERAS, MetaWorldRobot
from streaming_vla.sim.tasks import get_task

IMAGE, ARRAY = "sensor_msgs/msg/Image", "std_msgs/msg/Float64MultiArray"
EPISODE = "streaming_vla_interfaces/msg/Episode"
TOPICS = {
    **{f"/camera/{name}/image": IMAGE for name in CAMERAS},
    "/robot_state": ARRAY,
    "/command": ARRAY,
    "/episode": EPISODE,
}
BEGIN_NS, STEP_NS = 1_700_000_000_000_000_000, 50_000_000
COMMAND_NS = 20_000_000  # after the pictures of a step
GAP_STEPS = 20  # between two episodes
LONGEST = 200  # steps
AFTER_SUCCESS = 10  # steps


class _Bag:
    def __init__(self, folder: Path) -> None:
        self._store = standard()
        self._writer = BagWriter(folder)
        self._topics = {}
        for name, kind in TOPICS.items():
            text, _ = self._store.generate_msgdef(kind, ros_version=2)
            self._topics[name] = Topic(name, kind, definition=text, definition_format="ros2msg")

    def make(self, kind: str, **fields: Any) -> Any:
        return self._store.types[kind](**fields)

    def header(self, time_ns: int) -> Any:
        stamp = self.make("builtin_interfaces/msg/Time", sec=time_ns // 10**9, nanosec=time_ns % 10**9)
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id="")

    def numbers(self, values: np.ndarray) -> Any:
        layout = self.make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
        return self.make(ARRAY, layout=layout, data=np.asarray(values, np.float64))

    def say(self, topic: str, time_ns: int, message: Any) -> None:
        data = bytes(self._store.serialize_cdr(message, TOPICS[topic]))
        now_s = (time_ns - BEGIN_NS) * 1e-9
        self._writer.write(self._topics[topic], data, time_ns, time_ns, now_s)
        self._writer.tick(now_s)

    def close(self, time_ns: int) -> None:
        self._writer.close((time_ns - BEGIN_NS) * 1e-9)


def write(folder: Path, episodes: Sequence[tuple[str, int]]) -> None:
    """Write one bag with an episode of each task and seed."""
    robot, bag = MetaWorldRobot(), _Bag(folder)
    step = 0
    for number, (task, seed) in enumerate(episodes, 1):
        robot.reset(task, seed)
        told = {"session": "/", "number": number, "instruction": get_task(task).instructions[0], "stopped": False}
        now_ns = BEGIN_NS + step * STEP_NS
        bag.say("/episode", now_ns, bag.make(EPISODE, header=bag.header(now_ns), active=True, **told))
        left = AFTER_SUCCESS
        for _ in range(LONGEST):
            now_ns = BEGIN_NS + step * STEP_NS
            for name in CAMERAS:
                pixels = robot.render(name)
                height, width, _ = pixels.shape
                image = bag.make(
                    IMAGE, header=bag.header(now_ns), height=height, width=width, encoding="rgb8", is_bigendian=0,
                    step=3 * width, data=np.ascontiguousarray(pixels).reshape(-1),
                )  # fmt: skip
                bag.say(f"/camera/{name}/image", now_ns, image)
            bag.say("/robot_state", now_ns, bag.numbers(robot.state()))
            action = robot.expert_action()
            bag.say("/command", now_ns + COMMAND_NS, bag.numbers(action))
            step += 1
            if robot.step(action):
                left -= 1
            if not left:
                break
        now_ns = BEGIN_NS + step * STEP_NS
        bag.say("/episode", now_ns, bag.make(EPISODE, header=bag.header(now_ns), active=False, **told))
        step += GAP_STEPS
    bag.close(now_ns)
    robot.close()
