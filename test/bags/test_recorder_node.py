"""The recorder process: what is published comes out of the bag, byte for byte, also when the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from streaming_vla.bags.errors import TruncatedBag
from streaming_vla.bags.reader import Bag
from streaming_vla.images.decode import COMPRESSED, pixels_of
from streaming_vla.ros.exit_codes import CONFIG_ERROR

rclpy = pytest.importorskip("rclpy", reason="the ROS interfaces are not built or not sourced")
wire = pytest.importorskip("streaming_vla_interfaces.msg", reason="the message types are not built")

from rclpy.context import Context  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Float64MultiArray, String  # noqa: E402

from streaming_vla.ros.images import picture_message  # noqa: E402
from streaming_vla.ros.type_texts import full_text  # noqa: E402

pytestmark = pytest.mark.ros
DOMAIN = 65
START_TIMEOUT_S = 60.0
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class Robot:
    """Publishes what is to be recorded."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("robot", namespace="/arm", context=self.context)
        self.state = self.node.create_publisher(Float64MultiArray, "robot_state", BEST_EFFORT)
        self.camera = self.node.create_publisher(Image, "camera/image", 2)
        self.action = self.node.create_publisher(wire.Action, "action", 50)
        self.instruction = self.node.create_publisher(String, "instruction", LATCHED)
        self.other = self.node.create_publisher(String, "/elsewhere/chatter", 10)
        self.secret = self.node.create_publisher(String, "secret", 10)
        self.instruction.publish(String(data="open the drawer"))
        self.steps = 0

    def step(self) -> None:
        self.state.publish(Float64MultiArray(data=[float(self.steps), 1.0]))
        self.camera.publish(picture_message(np.full((20, 30, 3), self.steps % 256, np.uint8), "front"))
        self.action.publish(wire.Action(session="/arm", index=self.steps % 1000, values=[0.5]))
        self.other.publish(String(data="x"))
        self.secret.publish(String(data="x"))
        self.steps += 1
        time.sleep(0.02)

    def wait_for_listener(self) -> None:
        end_s = time.monotonic() + START_TIMEOUT_S
        publishers = (self.state, self.camera, self.action, self.instruction)
        while not all(each.get_subscription_count() for each in publishers):
            assert time.monotonic() < end_s, "the recorder does not listen"
            time.sleep(0.05)

    def close(self) -> None:
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def robot() -> Iterator[Robot]:
    robot = Robot()
    yield robot
    robot.close()


def start(folder: Path, **more: str) -> subprocess.Popen[str]:
    settings = {"autostart": "true", "bag_folder": str(folder), "bag_name": "bag", "exclude": "['.*/secret']",
                "flush_s": "0.2", "jpeg_quality": "0", **more}  # fmt: skip
    command = [sys.executable, "-m", "streaming_vla.ros.nodes.recorder", "--ros-args", "-r", "__ns:=/arm"]
    for name, value in settings.items():
        command += ["-p", f"{name}:={value}"]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def stop(process: subprocess.Popen[str], number: int) -> str:
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    return said


def recorded(robot: Robot, process: subprocess.Popen[str], steps: int) -> int:
    """Record so many steps of the robot and end the recorder; return the number of the first one."""
    try:
        robot.wait_for_listener()
        first = robot.steps
        for _ in range(steps):
            robot.step()
        time.sleep(0.3)
        said = stop(process, signal.SIGINT)
    finally:
        process.kill()
    assert process.returncode == 0, said
    return first


def read(path: Path) -> tuple[dict[str, list[Any]], Bag]:
    found: dict[str, list[Any]] = {}
    with Bag(path) as bag:
        for message in bag.messages():
            found.setdefault(message.topic, []).append(bag.decode(message))
    return found, bag


def test_what_is_published_is_recorded(robot: Robot, tmp_path: Path) -> None:
    first = recorded(robot, start(tmp_path), steps=40)
    found, bag = read(tmp_path / "bag")
    assert bag.problems == []
    assert {"/arm/robot_state", "/arm/camera/image", "/arm/action", "/arm/instruction"} <= set(found)
    assert not {"/elsewhere/chatter", "/arm/secret"} & set(found)
    assert [message.index for message in found["/arm/action"]] == list(range(first, first + 40))
    assert [message.data for message in found["/arm/instruction"]] == ["open the drawer"]
    assert found["/arm/camera/image"][-1].data[0] == robot.steps - 1
    assert found["/arm/robot_state"][-1].data[0] == robot.steps - 1
    with Reader(tmp_path / "bag") as reader:
        profile = next(c.ext.offered_qos_profiles[0] for c in reader.connections if c.topic == "/arm/instruction")
        assert profile.durability.name == "TRANSIENT_LOCAL"
        assert all(c.digest.startswith("RIHS01_") for c in reader.connections)


def test_a_killed_recorder_loses_a_second_at_most(robot: Robot, tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        robot.wait_for_listener()
        for _ in range(60):
            robot.step()
        time.sleep(1.0)
        last = robot.steps
        for _ in range(10):
            robot.step()
    finally:
        stop(process, signal.SIGKILL)
    found, bag = read(tmp_path / "bag")
    assert {type(problem) for problem in bag.problems} == {TruncatedBag}
    assert found["/arm/action"][-1].index >= last - 1


def test_topics_are_found_though_a_published_clock_stands(robot: Robot, tmp_path: Path) -> None:
    first = recorded(robot, start(tmp_path, use_sim_time="true"), steps=10)
    found, _ = read(tmp_path / "bag")
    assert [message.index for message in found["/arm/action"]] == list(range(first, first + 10))


@pytest.mark.parametrize("latched_first", [True, False])
def test_latched_and_volatile_publishers_of_one_topic_are_both_recorded(
    robot: Robot, tmp_path: Path, latched_first: bool
) -> None:
    """What was latched before the recorder began is in the bag, and nothing is in it twice."""
    volatile = robot.node.create_publisher(String, "instruction", QoSProfile(depth=10)) if latched_first else None
    process = start(tmp_path)
    try:
        robot.wait_for_listener()
        if volatile is None:
            volatile = robot.node.create_publisher(String, "instruction", QoSProfile(depth=10))
        end_s = time.monotonic() + START_TIMEOUT_S
        while not volatile.get_subscription_count():
            assert time.monotonic() < end_s, "the recorder does not listen to the volatile publisher"
            time.sleep(0.05)
        time.sleep(1.0)  # until both subscriptions know both publishers
        for number in range(5):
            volatile.publish(String(data=f"volatile {number}"))
            robot.instruction.publish(String(data=f"latched {number}"))
            time.sleep(0.1)
        time.sleep(0.3)
        said = stop(process, signal.SIGINT)
    finally:
        process.kill()
    assert process.returncode == 0, said
    found = sorted(message.data for message in read(tmp_path / "bag")[0]["/arm/instruction"])
    expected = ["open the drawer"] + [f"{kind} {number}" for kind in ("latched", "volatile") for number in range(5)]
    assert found == sorted(expected)


def test_raw_pictures_are_stored_as_jpeg(robot: Robot, tmp_path: Path) -> None:
    recorded(robot, start(tmp_path, jpeg_quality="90"), steps=10)
    found, bag = read(tmp_path / "bag")
    assert bag.problems == [] and "/arm/camera/image" not in bag.topics
    assert bag.topics["/arm/camera/image/compressed"].type == COMPRESSED
    last = found["/arm/camera/image/compressed"][-1]
    assert np.abs(pixels_of(last, COMPRESSED).astype(int) - (robot.steps - 1)).max() <= 2
    assert found["/arm/robot_state"][-1].data[0] == robot.steps - 1


def test_a_full_disk_ends_the_recorder_with_an_error(robot: Robot, tmp_path: Path) -> None:
    """The files of the bag may not grow beyond a limit of the system, as on a disk without room."""
    limit = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
    limit += "from streaming_vla.ros.nodes.recorder import main; main(sys.argv)"
    command = [sys.executable, "-c", limit, "--ros-args", "-r", "__ns:=/arm"]
    settings = {
        "autostart": "true",
        "bag_folder": str(tmp_path),
        "bag_name": "bag",
        "flush_s": "0.1",
        "jpeg_quality": "0",
    }
    for name, value in settings.items():
        command += ["-p", f"{name}:={value}"]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        robot.wait_for_listener()
        end_s = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None:
            assert time.monotonic() < end_s, "the recorder goes on without a disk"
            robot.step()
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 1
    assert "[ERROR]" in said and f"bag '{tmp_path}/bag' cannot be written: File too large" in said
    assert "Traceback" not in said
    found, bag = read(tmp_path / "bag")
    assert {type(problem) for problem in bag.problems} == {TruncatedBag}
    pictures = [int(message.data[0]) for message in found["/arm/camera/image"]]
    assert len(pictures) >= 10 and pictures == list(range(pictures[0], pictures[0] + len(pictures)))


INTERRUPTED_IMPORT = """
import os, signal, sys
module, bag = sys.argv[1:]
class Finder:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
sys.meta_path.insert(0, Finder())
from streaming_vla.__main__ import main
sys.argv[1:] = ["record", "--out", bag]
main()
"""


@pytest.mark.parametrize("module", ["typer", "torch", "rclpy"])
def test_an_interrupt_while_importing_ends_the_command_at_once(tmp_path: Path, module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, module, str(tmp_path / "bag")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    assert not (tmp_path / "bag").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_node_is_made_ends_it_in_order(tmp_path: Path, number: int) -> None:
    interrupted = "import os, rclpy, sys; init = rclpy.init; "
    interrupted += f"rclpy.init = lambda **given: (os.kill(os.getpid(), {int(number)}), init(**given)); "
    interrupted += "from streaming_vla.ros.nodes.recorder import main; main(sys.argv)"
    command = [sys.executable, "-c", interrupted, "--ros-args", "-p", f"bag_folder:={tmp_path}"]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    process = start(tmp_path)
    _, said = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == CONFIG_ERROR
    assert said.strip().endswith(f"bag '{tmp_path}/bag' exists already: choose another bag_name, or remove it")


def test_definitions_bring_what_they_refer_to() -> None:
    text = full_text("streaming_vla_interfaces/msg/Observation")
    for name in ("std_msgs/Header", "builtin_interfaces/Time", "sensor_msgs/CompressedImage"):
        assert f"{'=' * 80}\nMSG: {name}\n" in text
    assert "MSG: streaming_vla_interfaces/" not in text
    assert "MSG:" not in full_text("std_msgs/msg/String")
    with pytest.raises(LookupError, match=r"nowhere/msg/Thing is not installed"):
        full_text("nowhere/msg/Thing")
