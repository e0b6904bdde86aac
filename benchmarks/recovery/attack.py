"""Random messages on every topic of the suite, and random parameters of every node: does one end, does memory grow?"""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
from conductor import NODES, Conductor
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from streaming_vla_interfaces import msg as wire

from streaming_vla.parameters.nodes import NODES as KINDS
from streaming_vla.ros.base import LATCHED, reliable

AT_ONCE = 20  # messages, or requests, between two looks at what came back
TOPICS: dict[str, type] = {
    "action": wire.Action,
    "context": wire.Context,
    "episode": wire.Episode,
    "execution_state": wire.ExecutionState,
    "generate": wire.GenerateRequest,
    "generated_action": wire.GeneratedAction,
    "nodes_away": wire.NodesAway,
    "observation": wire.Observation,
    "observe_request": wire.ObserveRequest,
    "joint_states": JointState,
    "robot_state": Float64MultiArray,
    "camera/corner2/image": Image,
    "instruction": String,
}
NUMBERS = {"bool": (0, 1), "byte": (0, 255), "uint8": (0, 255), "int8": (-128, 127)} | {
    f"{sign}int{bits}": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("", "u")
    for bits in (16, 32, 64)
}
REALS = (0.0, -1.0, 0.5, 1e-320, 1e30, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "/", "/other", "off", "x" * 5000, "\x1b[31m", "corner2")


def attack(conductor: Conductor, messages: int, parameter_sets: int, seed: int) -> dict[str, Any]:
    """Send both while an episode plays; return counts, ended nodes and growth of memory."""
    draw = random.Random(seed)
    respawns = {name: conductor.suite.respawns(name) for name in NODES}
    conductor.begin_episode()
    _send(conductor, draw, min(messages, 2000))  # what grows once, when it is first used
    before = conductor.rss_mb()
    sent = _send(conductor, draw, messages)
    sets = _set(conductor, draw, parameter_sets)
    time.sleep(3.0)
    after = conductor.rss_mb()
    ended = sum(conductor.suite.respawns(name) - respawns[name] for name in NODES)
    return {
        "messages": sent,
        "parameter_sets": sets,
        "ended": ended,
        "rss_growth_mb": max(after[name] - before[name] for name in NODES),
    }


def _send(conductor: Conductor, draw: random.Random, count: int) -> int:
    node = conductor.node
    publishers = {
        topic: node.create_publisher(kind, topic, LATCHED if topic in ("episode", "nodes_away") else reliable(10))
        for topic, kind in TOPICS.items()
    }
    for number in range(count):
        topic, kind = draw.choice(list(TOPICS.items()))
        message: Any = filled(kind, draw)
        if draw.random() < 0.1:
            raw = bytearray(serialize_message(message))
            for _ in range(4):
                raw[draw.randrange(4, max(5, len(raw))) % len(raw)] = draw.randrange(256)
            message = bytes(raw[: draw.randrange(len(raw) + 1)])
        publishers[topic].publish(message)
        if number % AT_ONCE == 0:
            time.sleep(0.001)
    for publisher in publishers.values():
        node.destroy_publisher(publisher)
    return count


def filled(kind: type, draw: random.Random) -> Any:
    """Return a message of `kind` with anything in its fields."""
    message = kind()
    for field, type_name in kind.get_fields_and_field_types().items():  # type: ignore[attr-defined]
        if field == "session" and draw.random() < 0.8:
            message.session = "/"
        elif (value := _value(type_name, draw)) is not None:
            setattr(message, field, value)
    return message


def _value(type_name: str, draw: random.Random) -> Any:
    if type_name.startswith("sequence<") and type_name.endswith(">"):
        inner, length = type_name[9:-1], draw.choice((0, 1, 3, 4, 7, 300))
        if inner == "uint8":
            return draw.randbytes(length)
        values = [_value(inner, draw) for _ in range(length)]
        return None if None in values else values
    if type_name == "string":
        return draw.choice(TEXTS)
    if type_name in ("float", "double"):
        value = draw.choice(REALS)
        return float(np.float32(value)) if type_name == "float" else value
    if type_name == "boolean":
        return draw.random() < 0.5
    if type_name in NUMBERS:
        low, high = NUMBERS[type_name]
        return draw.choice((low, high, max(low, 0), min(high, 1), min(high, 7)))
    return None  # a message in a message stays as it is made


def _set(conductor: Conductor, draw: random.Random, count: int) -> int:
    node = conductor.node
    clients = {name: node.create_client(SetParameters, f"{name}/set_parameters") for name in NODES}
    names = {name: [*KINDS[name].declared, "use_sim_time", "", "nope"] for name in NODES}
    waiting: list[Any] = []
    for _ in range(count):
        name = draw.choice(NODES)
        change = Parameter(name=draw.choice(names[name]), value=any_value(draw))
        waiting.append(clients[name].call_async(SetParameters.Request(parameters=[change])))
        if len(waiting) >= AT_ONCE:
            conductor.wait(lambda: all(future.done() for future in waiting), 10.0)
            waiting.clear()
    for client in clients.values():
        node.destroy_client(client)
    return count


def any_value(draw: random.Random) -> ParameterValue:
    """Return a value of any type, also of one that does not exist."""
    length = draw.choice((0, 1, 2, 4, 300))
    return ParameterValue(
        type=draw.choice((*range(10), 77)),
        bool_value=draw.random() < 0.5,
        integer_value=draw.choice((0, 1, -1, 64, 2**31, -(2**63), 2**63 - 1)),
        double_value=draw.choice(REALS),
        string_value=draw.choice(TEXTS),
        byte_array_value=[b"1"] * length,
        bool_array_value=[draw.random() < 0.5] * length,
        integer_array_value=[draw.choice((0, 1, -(2**63))) for _ in range(length)],
        double_array_value=[draw.choice(REALS) for _ in range(length)],
        string_array_value=[draw.choice(TEXTS) for _ in range(length)],
    )
