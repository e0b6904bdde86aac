"""Bags of a made-up robot for the measurements: its cameras pan over photographs, states and commands are numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streaming_vla.bags.definitions import standard
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter

Pixels = npt.NDArray[np.uint8]
IMAGE, ARRAY, STRING = "sensor_msgs/msg/Image", "std_msgs/msg/Float64MultiArray", "std_msgs/msg/String"
BEGIN_NS = 1_700_000_000_000_000_000
SENSOR_NOISE = 2.0  # levels of 255, standard deviation
STORE = standard()


def photographs(folder: Path, height: int, width: int) -> list[Pixels]:
    """Return the photographs of a folder [3 height / 2, 2 width, 3] BGR, so that there is room to pan."""
    found = [cv2.imread(str(path)) for path in sorted(folder.glob("*.jpg"))]
    if not found:
        raise SystemExit(f"no .jpg in {folder}: give a folder of photographs with --photographs")
    size = (2 * width, 3 * height // 2)
    return [cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in found]


class Views:
    """What a camera sees while it pans over a photograph: another picture at every step, with the noise of a sensor."""

    def __init__(self, pictures: Sequence[Pixels], height: int, width: int) -> None:
        self._pictures, self._height, self._width = pictures, height, width
        random = np.random.default_rng(0)
        self._noise = [random.normal(0.0, SENSOR_NOISE, (height, width, 3)).round().astype(np.int16) for _ in range(7)]

    def __call__(self, step: int, camera: int) -> Pixels:
        picture = self._pictures[(camera + step // 600) % len(self._pictures)]
        left = abs((2 * step) % (2 * self._width) - self._width)
        top = int((np.sin(step / 50) + 1) * self._height / 4)
        cut = picture[top : top + self._height, left : left + self._width].astype(np.int16)
        return (cut + self._noise[step % 7]).clip(0, 255).astype(np.uint8)


def write(
    folder: Path,
    seconds: float,
    hz: float,
    views: Callable[[int, int], Pixels],
    cameras: Sequence[str] = ("front", "wrist"),
    task: str = "look around",
) -> None:
    """Write a bag: pictures, a state of three numbers and a command at every step."""
    types = STORE.types
    writer = BagWriter(folder)
    topics = {f"/camera/{name}/image": IMAGE for name in cameras}
    known: dict[str, Topic] = {}
    for name, kind in {**topics, "/robot_state": ARRAY, "/command": ARRAY, "/instruction": STRING}.items():
        text, _ = STORE.generate_msgdef(kind, ros_version=2)
        known[name] = Topic(name, kind, definition=text, definition_format="ros2msg")
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)

    def say(name: str, kind: str, message: Any, time_ns: int) -> None:
        now_s = (time_ns - BEGIN_NS) * 1e-9
        writer.write(known[name], bytes(STORE.serialize_cdr(message, kind)), time_ns, time_ns, now_s)
        writer.tick(now_s)

    say("/instruction", STRING, types[STRING](data=task), BEGIN_NS)
    random = np.random.default_rng(1)
    for step in range(round(seconds * hz)):
        now_ns = BEGIN_NS + round(step * 1e9 / hz)
        stamp = types["builtin_interfaces/msg/Time"](sec=now_ns // 10**9, nanosec=now_ns % 10**9)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
        for number, name in enumerate(cameras):
            pixels = views(step, number)
            height, width, _ = pixels.shape
            message = types[IMAGE](header=header, height=height, width=width, encoding="bgr8", is_bigendian=0,
                                   step=3 * width, data=pixels.reshape(-1))  # fmt: skip
            say(f"/camera/{name}/image", IMAGE, message, now_ns)
        numbers = random.normal(size=3)
        say("/robot_state", ARRAY, types[ARRAY](layout=layout, data=numbers), now_ns + 1_000_000)
        say("/command", ARRAY, types[ARRAY](layout=layout, data=numbers + 1.0), now_ns + 2_000_000)
    writer.close(seconds)
