"""Running nodes under requests and messages that make no sense: none ends, and the next episode plays."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import JointState
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.machines.events import Mode
from streaming_vla.options.texts import LONGEST
from streaming_vla.ros.base import LATCHED

pytestmark = pytest.mark.ros
NODES = ("executor", "generator", "saliency_monitor")
FORGED = 2**32 - 1
POLICY = {"action_names": ["dx", "dy", "dz", "gripper"], "action_absolute": [False, False, False, True]}


@pytest.fixture(scope="module")
def nodes(suite: Any, probe: Any) -> Iterator[Any]:
    for name in NODES:
        suite.start(name)
    probe.wait_for_nodes(*NODES)
    yield suite
    assert not any(suite.has_ended(name) for name in NODES)


@pytest.mark.parametrize("node", NODES)
def test_parameters_and_transitions_that_do_not_exist_are_refused(nodes: Any, probe: Any, node: str) -> None:
    odd = [
        *(Parameter(name="velocity_limit", value=ParameterValue(type=number)) for number in (0, 5, 6, 7, 8, 9, 77)),
        Parameter(name="", value=ParameterValue(type=3)),
        Parameter(name="a" * 100_000, value=ParameterValue(type=3)),
    ]
    for change in odd:
        [result] = probe.call(SetParameters, f"/{node}/set_parameters", parameters=[change]).results
        assert not result.successful and result.reason
    request = ChangeState.Request()
    request.transition.id = 250
    assert not probe.call(ChangeState, f"/{node}/change_state", transition=request.transition).success
    assert not nodes.has_ended(node)


def test_forged_numbers_leave_the_next_episode_alone(nodes: Any, probe: Any) -> None:
    states = probe.record(wire.ExecutionState, "execution_state")
    episodes = probe.publisher(wire.Episode, "episode", LATCHED)
    own = probe.publisher(wire.ExecutionState, "execution_state", 50)
    contexts = probe.publisher(wire.Context, "context", 10)
    for number in (FORGED, 2**31):
        episodes.publish(wire.Episode(session="/", number=number, active=True, instruction="forged"))
        own.publish(wire.ExecutionState(session="/", episode=number, context=2**40, index=-1))
        contexts.publish(wire.Context(session="/", episode=number, sequence=FORGED, **POLICY))
    probe.wait(lambda: int(probe.figure("executor", "episode_far_ahead")) >= 2, "the forged episode is not counted")
    begun = probe.call(srv.StartEpisode, "/start_episode", instruction="open the drawer")
    assert begun.accepted and begun.episode < 2**30, begun.reason
    probe.wait(lambda: states and states[-1][1].episode == begun.episode, "the executor does not take the episode")
    joints, actions = probe.publisher(JointState, "joint_states"), probe.publisher(wire.Action, "action", 50)
    for context in range(100):  # more than one: what is sent before everybody has found everybody is lost
        actions.publish(wire.Action(session="/", episode=begun.episode, context=FORGED, values=[0.0] * 4))
        joints.publish(JointState(name=["joint"], position=[0.0]))
        actions.publish(wire.Action(session="/", episode=begun.episode, context=context, values=[0.001, 0.0, 0.0, 0.0]))
        probe.spin(0.05)
        if any(state.mode == Mode.PLAYING for _, state in states):
            break
    played = [state.context for _, state in states if state.mode == Mode.PLAYING]
    assert played and max(played) < FORGED
    probe.wait(lambda: int(probe.figure("executor", "action_far_ahead")) >= 1, "the forged context is not counted")


def test_bytes_that_are_no_message_end_nothing(nodes: Any, probe: Any) -> None:
    for kind, topic in ((wire.Action, "action"), (wire.ExecutionState, "execution_state"), (wire.Context, "context")):
        publisher = probe.publisher(kind, topic, 50)
        for size in (0, 3, 4, 40, 4000):
            publisher.publish(b"\x00\x01\x00\x00"[:size] + b"\xff" * max(0, size - 4))
    probe.spin(1.0)
    assert not any(nodes.has_ended(name) for name in NODES)


def test_texts_from_outside_are_cut_in_the_log(nodes: Any, probe: Any) -> None:
    assert probe.call(srv.StartEpisode, "/start_episode", instruction="\x1b[31m" + "a" * 50_000).accepted
    lines = [line for line in nodes.log("saliency_monitor").splitlines() if "aaaa" in line]
    assert len(lines) == 1 and "\x1b" not in lines[0] and len(lines[0]) < 2 * LONGEST
    probe.publisher(JointState, "joint_states").publish(JointState(name=["b" * 90_000] * 2, position=[0.0, 0.0]))
    probe.wait(lambda: "bbbb" in nodes.log("executor"), "the refusal is not said")
    assert all(len(line) < 2 * LONGEST for line in nodes.log("executor").splitlines() if "bbbb" in line)


def test_messages_of_50_mb_are_refused_and_do_not_pile_up(nodes: Any, probe: Any) -> None:
    size = 50_000_000
    numbers = array.array("f", bytes(size))
    about = {"session": "/", "episode": probe.call(srv.StartEpisode, "/start_episode", instruction="push").episode}
    huge: dict[str, tuple[str, str, Any]] = {
        "executor": ("action", "action_wrong_shape", wire.Action(**about, values=numbers)),
        "generator": ("context", "malformed_context", wire.Context(**about, action_names=["a" * size])),
        "saliency_monitor": (
            "execution_state",
            "malformed_execution_state",
            wire.ExecutionState(**about, cumulative_action=numbers, index=-7),
        ),
    }
    for node, (topic, counter, message) in huge.items():
        process, publisher = psutil.Process(nodes.pid(node)), probe.publisher(type(message), topic, 50)
        probe.wait(publisher.get_subscription_count, f"{node} does not listen")
        before, refused = process.memory_info().rss, int(probe.figure(node, counter))
        for number in range(refused + 1, refused + 13):
            publisher.publish(message)
            probe.wait(lambda: int(probe.figure(node, counter)) >= number, f"{node} does not count it", 30.0)  # noqa: B023
        grown = process.memory_info().rss - before
        assert grown < 4 * size, "the middleware keeps a buffer of that size for each that was on its way at once"
