"""Random messages of every topic, through the shells' converters into the machines and out again: refused or taken.

A converter raises nothing but ValueError, which a node counts and says; a machine raises nothing, and whatever it does
can be sent. Afterwards an episode begins and plays all the same.
"""

from __future__ import annotations

import array
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState, PointCloud2, PointField
from std_msgs.msg import Float64MultiArray, Header
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.commands.robot_state import StateReader
from streaming_vla.images.decode import COMPRESSED, IMAGE, POINTS
from streaming_vla.machines.events import Action, Episode, GenerateRequest, Mode, SaliencyQuestion
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.observer_options import ObserverOptions
from streaming_vla.options.shared import ARRAY, JOINTS
from streaming_vla.ros import messages
from streaming_vla.ros.images import camera_options, check_message, encode_message
from streaming_vla.ros.policy_mismatch import policy_mismatch

pytestmark = pytest.mark.ros
MESSAGES = 3000  # to each machine
PICTURES = 400
EPISODE = 95_000_000  # as a monitor's clock numbers them
STAMP = Time(sec=1, nanosec=2)
WHOLE = {
    "uint8": (0, 1, 2, 3, 4, 5, 6, 255),
    "uint16": (0, 1, 5, 100, 2**16 - 1),
    "uint32": (0, 1, 2, EPISODE, EPISODE, EPISODE, EPISODE + 1, EPISODE - 1, 1_000_000, 2**31, 2**32 - 1),
    "int32": (-(2**31), -1, 0, 1, 70_000, 2**31 - 1),
    "int64": (-(2**63), -1, 0, 1, 2**32, 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
SMALL = (0, 1, 2, 3)  # sequences, contexts and revisions that can be meant
REALS = (0.0, 1.0, -1.0, 0.05, 1e-38, 3e38, float("nan"), float("inf"), float("-inf"))
TEXTS = ("/", "", "open the drawer", "café", "\x1b[31m", "a" * 5000, "rgb8", "jpeg", "plan")


def any_message(kind: type, draw: random.Random) -> Any:
    """Return a message with random fields, often such as mean something, over the wire."""
    message = kind()
    for name, ros_type in kind.get_fields_and_field_types().items():
        setattr(message, name, _any_field(name, ros_type, draw))
    return deserialize_message(serialize_message(message), kind)


def _any_field(name: str, ros_type: str, draw: random.Random) -> Any:
    if ros_type.startswith("sequence<"):
        inside = ros_type.removeprefix("sequence<").removesuffix(">")
        length = draw.choice((0, 1, 4, 4, 4, 5, 9))
        values = [_any_field("", inside, draw) for _ in range(length)]
        return array.array({"float": "f", "double": "d"}[inside], values) if inside in ("float", "double") else values
    if ros_type in WHOLE:
        small = name in ("sequence", "context", "revision", "index", "step") and draw.random() < 0.6
        return draw.choice(SMALL) if small else draw.choice(WHOLE[ros_type])
    if ros_type in ("float", "double"):
        value = draw.choice(REALS) if draw.random() < 0.5 else draw.uniform(-1.0, 1.0)
        return value
    if ros_type == "boolean":
        return draw.random() < (0.98 if name == "active" else 0.5)
    if ros_type == "string":
        return draw.choice(TEXTS)
    return {"std_msgs/Header": Header(stamp=STAMP)}.get(ros_type) or _nested(ros_type, draw)


def _nested(ros_type: str, draw: random.Random) -> Any:
    if ros_type == "sensor_msgs/CompressedImage":
        return CompressedImage(format=draw.choice(TEXTS), data=array.array("B", draw.randbytes(9)))
    return Float64MultiArray().layout


@dataclass
class Machine:
    """A machine, what it hears by message type, and what must still work afterwards."""

    machine: Any
    hears: dict[type, tuple[Callable[[Any], Any], Callable[[Any, float], list[Any]]]]


def sent(effects: list[Any]) -> None:
    """Make the messages of effects, as the shells do."""
    for effect in effects:
        if isinstance(effect, Action):
            messages.action_to(effect, "/", STAMP)
        elif isinstance(effect, GenerateRequest):
            messages.generate_to(effect, "/", STAMP)
        elif isinstance(effect, Episode):
            messages.episode_to(effect, "/", STAMP)
        elif isinstance(effect, SaliencyQuestion):
            messages.saliency_question_to(effect, "/")
        elif hasattr(effect, "reason"):
            messages.request_to(effect, "/", STAMP)
        elif hasattr(effect, "mode"):
            messages.execution_state_to(effect, "/", STAMP)


def executor() -> Machine:
    options = ExecutorOptions()
    machine = Executor(options.layout, options)

    def on_joints(message: JointState, now: float) -> list[Any]:
        return list(machine.on_robot_state(now))

    return Machine(
        machine,
        {
            wire.Episode: (messages.episode_from, machine.on_episode),
            wire.Action: (messages.action_from, machine.on_action),
            JointState: (StateReader(JOINTS, ()), lambda _, now: on_joints(JointState(), now)),
            wire.Context: (partial(policy_mismatch, options), lambda _, now: []),
        },
    )


def generator() -> Machine:
    options = GeneratorOptions()
    machine = Generator(options.layout, options)
    return Machine(
        machine,
        {
            wire.Episode: (messages.episode_from, machine.on_episode),
            wire.ObserveRequest: (messages.request_from, machine.on_request),
            wire.Context: (messages.context_from, machine.on_context),
            wire.ExecutionState: (messages.execution_state_from, machine.on_execution_state),
            wire.GeneratedAction: (messages.generated_from, machine.on_generated),
            Float64MultiArray: (StateReader(ARRAY, ()), machine.on_robot_state),
        },
    )


def monitor(mode: str) -> Machine:
    machine = Monitor(MonitorOptions(mode=mode, early_actions=3), last_episode=EPISODE - 1)
    return Machine(
        machine,
        {
            wire.Context: (messages.context_from, machine.on_context),
            wire.ExecutionState: (messages.execution_state_from, machine.on_execution_state),
        },
    )


def observer() -> Machine:
    options = ObserverOptions()
    machine = Observer(options)

    def on_frame(message: Any, now: float) -> list[Any]:
        stamp_ns = messages.nanoseconds_from(message.header.stamp)
        snapshots = machine.on_frame("corner2", message, stamp_ns, now)
        return snapshots + machine.on_frame("gripperPOV", message, stamp_ns, now)

    return Machine(
        machine,
        {
            wire.Episode: (messages.episode_from, machine.on_episode),
            wire.ObserveRequest: (messages.request_from, machine.on_request),
            Float64MultiArray: (StateReader(ARRAY, ()), machine.on_state),
            Image: (lambda message: check_message(message, IMAGE), on_frame),
        },
    )


def storm(under: Machine, seed: int, count: int = MESSAGES) -> int:
    """Hand random messages over and let time pass; return how many were taken."""
    draw, now, taken = random.Random(seed), 0.0, 0
    kinds = list(under.hears)
    others = [kind for kind in kinds if kind is not wire.Episode]  # an episode must last for the others to be taken
    for _ in range(count):
        now += draw.choice((0.0, 0.01, 0.05, 3.0))
        kind = draw.choice(kinds if draw.random() < 0.1 else others)
        convert, handle = under.hears[kind]
        message = any_message(kind, draw)
        try:
            value = convert(message)
        except ValueError:
            continue
        effects = handle(value, now)
        due_s = under.machine.deadline()
        if due_s is not None and now >= due_s:
            effects = [*effects, *under.machine.poll(now)]
        if not isinstance(under.machine, Observer):
            sent(effects)
        taken += 1
    return taken


@pytest.mark.parametrize("seed", range(2))
def test_an_executor_plays_the_next_episode_after_a_storm(seed: int) -> None:
    under = executor()
    assert storm(under, seed) > MESSAGES // 10
    assert under.machine.counters["episode_far_ahead"]
    number = under.machine.state(0.0).episode + 1
    now = 1e6
    under.machine.on_episode(Episode(number, True, "open"), now)
    under.machine.on_robot_state(now)
    under.machine.on_action(Action(number, 0, 0, 0.0, np.zeros(4), True), now)
    assert under.machine.state(now).mode is Mode.PLAYING


@pytest.mark.parametrize("seed", range(2))
def test_a_generator_goes_on_after_a_storm(seed: int) -> None:
    under = generator()
    assert storm(under, seed) > MESSAGES // 10
    counters = under.machine.counters
    assert counters["episode_far_ahead"] and counters["request_far_ahead"] and counters["context_far_ahead"]


@pytest.mark.parametrize("mode", ["off", "always", "random", "action_norm", "adaptive"])
def test_a_monitor_begins_episodes_after_a_storm(mode: str) -> None:
    under = monitor(mode)
    sent(under.machine.start_episode(0.0, "open the drawer"))
    assert storm(under, 1) > MESSAGES // 10
    counters = under.machine.counters
    assert counters["state_far_ahead"] and counters["context_far_ahead"]
    near = wire.ExecutionState(episode=EPISODE, context=-1, index=-1)
    under.machine.on_execution_state(messages.execution_state_from(near), 1e6)
    effects = under.machine.start_episode(1e6, "open the drawer")
    sent(effects)
    assert effects[0].number < EPISODE + MESSAGES


def test_an_observer_answers_after_a_storm() -> None:
    under = observer()
    assert storm(under, 1) > MESSAGES // 10
    assert under.machine.counters["request_far_ahead"] and under.machine.counters["episode_far_ahead"]


@pytest.mark.parametrize("kind", [wire.GenerateRequest, wire.Observation, srv.PredictSaliency.Request])
def test_what_inference_hears_is_read_or_refused(kind: type) -> None:
    convert: Any = {
        wire.GenerateRequest: messages.generate_from,
        wire.Observation: partial(messages.observation_from, cameras=("front",)),
        srv.PredictSaliency.Request: messages.saliency_question_from,
    }[kind]
    draw = random.Random(2)
    for _ in range(MESSAGES // 4):
        message = any_message(kind, draw)
        try:
            convert(message)
        except ValueError as error:
            assert str(error)


def test_pictures_of_any_size_and_encoding_are_read_or_refused() -> None:
    draw = random.Random(3)
    for _ in range(PICTURES):
        kind = draw.choice((IMAGE, COMPRESSED, POINTS))
        options = camera_options(ObserverOptions(camera_types=(kind,)))["corner2"]
        try:
            encode_message(check_message(_picture(kind, draw), kind), options)
        except ValueError as error:
            assert str(error)


def _picture(kind: str, draw: random.Random) -> Any:
    sizes = (0, 1, 2, 8, 9, 2**16, 2**32 - 1)
    width, height = draw.choice(sizes), draw.choice(sizes)
    data = array.array("B", draw.randbytes(draw.choice((0, 1, 12, 64, 192, 256))))
    if kind == COMPRESSED:
        return CompressedImage(format=draw.choice(("jpeg", "png", "16UC1; compressedDepth", "")), data=data)
    if kind == IMAGE:
        encoding = draw.choice(("rgb8", "mono8", "16UC1", "32FC1", "nv12", "yuyv", "bayer_rggb8", "h264"))
        return Image(width=width, height=height, encoding=encoding, step=draw.choice((*sizes, 24, 32)), data=data)
    fields = [
        PointField(name=name, offset=draw.choice((0, 4, 8, 2**32 - 1)), datatype=draw.choice((0, 7, 8, 99)), count=1)
        for name in draw.choice((("x", "y", "z"), ("z",), (), ("x", "x", "z")))
    ]
    return PointCloud2(
        width=width, height=height, fields=fields, data=data, point_step=draw.choice((0, 4, 12, 2**32 - 1)),
        row_step=draw.choice((0, 12, 96, 2**32 - 1)), is_dense=True,
    )  # fmt: skip
