"""Every value of the state machines survives the way over the wire."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time as RosTime
from streaming_vla_interfaces import msg

from kv_cache.cache import CacheStats
from streaming_vla.engine.values import ContextReport
from streaming_vla.machines.events import (
    Action,
    Episode,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    Mode,
    NodesAway,
    ObserveRequest,
    Reason,
)
from streaming_vla.options.shared import ActionOptions, layout_values
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.ros import messages
from streaming_vla.ros.policy_mismatch import policy_mismatch

STAMP = Time(sec=3, nanosec=5)
uint32 = st.integers(0, 2**32 - 1)
uint16 = st.integers(0, 2**16 - 1)
float32 = st.floats(width=32, allow_nan=False)
seconds = st.floats(0, 1e6, allow_nan=False)
vectors = st.lists(float32, min_size=0, max_size=8).map(np.array)


def over_the_wire(message: Any) -> Any:
    """Serialise and read back, as the middleware does."""
    return deserialize_message(serialize_message(message), type(message))


def same(left: Any, right: Any) -> bool:
    """Compare two values field by field, arrays and NaN included."""
    for field in dataclasses.fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        equal = np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray | float) else a == b
        if not equal:
            return False
    return True


@given(st.integers(-(2**31), 2**31 - 1), uint32)
def test_a_stamp_is_kept_to_the_nanosecond_and_what_is_none_becomes_the_nearest(sec: int, nanosec: int) -> None:
    found = RosTime(nanoseconds=messages.nanoseconds_from(Time(sec=sec, nanosec=nanosec))).to_msg()
    expected = (sec, min(nanosec, 999_999_999)) if sec >= 0 else (0, 0)
    assert (found.sec, found.nanosec) == expected


@given(st.builds(Episode, uint32, st.booleans(), st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
def test_episode(episode: Episode) -> None:
    assert messages.episode_from(over_the_wire(messages.episode_to(episode, "/", STAMP))) == episode


@given(st.builds(ObserveRequest, uint32, uint32, st.sampled_from(Reason), st.one_of(float32, st.just(math.nan))))
def test_request(request: ObserveRequest) -> None:
    assert same(messages.request_from(over_the_wire(messages.request_to(request, "/", STAMP))), request)


@given(st.builds(Action, uint32, uint32, uint16, float32, vectors, st.booleans()))
def test_action(action: Action) -> None:
    assert same(messages.action_from(over_the_wire(messages.action_to(action, "/", STAMP))), action)


def test_a_nan_action_arrives_as_nan() -> None:
    action = Action(1, 0, 0, 0.0, np.array([math.nan, math.inf, 0.0, 0.0]), True)
    assert same(messages.action_from(over_the_wire(messages.action_to(action, "/", STAMP))), action)


@given(
    st.builds(
        ExecutionState,
        uint32,
        st.sampled_from(Mode),
        st.integers(-1, 2**32 - 1),
        st.integers(-1, 2**16 - 1),
        uint32,
        uint32,
        vectors,
        st.booleans(),
        st.booleans(),
        seconds,
        seconds,
        uint32,
        uint32,
    )
)
def test_execution_state(state: ExecutionState) -> None:
    assert same(messages.execution_state_from(over_the_wire(messages.execution_state_to(state, "/", STAMP))), state)


@pytest.mark.parametrize(("context", "index"), [(2**32, 0), (-2, 0), (0, 2**16), (0, -(2**31))])
def test_a_state_of_an_action_that_cannot_be_is_refused(context: int, index: int) -> None:
    message = msg.ExecutionState(context=context, index=index)
    with pytest.raises(ValueError, match=f"its action is {index} of context {context}, expected -1 to 65535"):
        messages.execution_state_from(message)


@given(
    st.builds(
        GenerateRequest,
        uint32,
        uint32,
        uint32,
        uint16,
        vectors,
        uint16,
        state=st.one_of(st.none(), vectors.filter(len)),
        state_age_s=st.floats(0.0, 1000.0, width=32),
        delay=uint16,
    ),
    st.integers(0, 3),
)
def test_generate_request(request: GenerateRequest, rows: int) -> None:
    size = len(request.position)
    planned = None if not rows or not size else np.arange(rows * size, dtype=np.float64).reshape(rows, size)
    request = dataclasses.replace(request, planned=planned, delay=request.delay if planned is not None else 0)
    assert same(messages.generate_from(over_the_wire(messages.generate_to(request, "/", STAMP))), request)


text = st.text(st.characters(codec="ascii", exclude_characters="\0"))


@given(st.builds(GeneratedAction, uint32, uint32, uint32, uint16, st.booleans(), vectors, text, text))
def test_generated_action(action: GeneratedAction) -> None:
    action = dataclasses.replace(action, compute_s=0.5, queued_s=0.25)
    assert same(messages.generated_from(over_the_wire(messages.generated_to(action, "/", STAMP))), action)


def test_nodes_that_are_away() -> None:
    away = NodesAway("up 7", ("generator", "inference"), (0.5, 2.0))
    assert messages.nodes_away_from(over_the_wire(messages.nodes_away_to(away, "/", STAMP))) == away
    for nodes, away_s in ((["generator"], []), (65 * ["generator"], 65 * [0.0])):
        with pytest.raises(ValueError, match="nodes with"):
            messages.nodes_away_from(msg.NodesAway(nodes=nodes, away_s=away_s))


def test_context_and_cache_statistics() -> None:
    stats = CacheStats("window", 10, 20, 30, 40, 50, 1, 2, 3, (0.5, 0.25))
    report = ContextReport("/arm", 4, 5, 75, 10, 16, 0.5, 0.25, 0.125, stats, 4, history_from=3, remembers=True)
    layout = ActionLayout(("dx", "grip"), (False, True), (-1.0, -1.0), (1.0, 1.0), (0.0, 0.0))
    context = over_the_wire(messages.context_to(report, layout, 0.1, STAMP))
    robot = ActionOptions(**layout_values(layout), control_period_s=0.1)
    assert policy_mismatch(robot, context) == ""
    assert policy_mismatch(robot.changed(action_absolute=(True, True)), context) == (
        "action_absolute is wrong for dx: targets of the policy are grip, the others are changes"
    )
    assert policy_mismatch(robot.changed(control_period_s=0.05), context) == (
        "control_period_s is 0.05, an action of the policy lasts 0.1 s: its actions would be played too fast"
    )
    any_period = over_the_wire(messages.context_to(report, layout, None, STAMP))
    assert policy_mismatch(robot.changed(control_period_s=0.05), any_period) == ""
    assert "the policy acts in none" in policy_mismatch(robot, msg.Context())
    assert dataclasses.astuple(messages.context_from(context)) == (4, 5, 10, 16, 0.125, 4, False, 3, True)
    assert (context.session, context.tokens, context.prefill_s, context.queued_s) == ("/arm", 75, 0.5, 0.25)
    wire = over_the_wire(messages.cache_stats_to(report, STAMP))
    for field in dataclasses.fields(stats):
        value = getattr(wire, field.name)
        assert (tuple(value) if field.name == "scores" else value) == getattr(stats, field.name)


def test_observation() -> None:
    request = ObserveRequest(4, 5, Reason.EARLY)
    pictures = {"front": b"\xff\xd8front", "wrist": b"\xff\xd8wrist"}
    message = over_the_wire(messages.observation_to(request, "/arm", STAMP, pictures, np.array([0.5, 0.25])))
    observation = messages.observation_from(message, ("front", "wrist"))
    assert (observation.session, observation.episode, observation.sequence) == ("/arm", 4, 5)
    assert observation.images == tuple(pictures.values())
    assert observation.state.tolist() == [0.5, 0.25]
    assert message.reason == Reason.EARLY and message.images[1].header.frame_id == "wrist"
    with pytest.raises(ValueError, match="cameras are front, wrist, the policy needs wrist, front"):
        messages.observation_from(message, ("wrist", "front"))


def test_unknown_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="77 is not a valid Mode"):
        messages.execution_state_from(msg.ExecutionState(mode=77))
    with pytest.raises(ValueError, match="0 is not a valid Reason"):
        messages.request_from(msg.ObserveRequest())


@pytest.mark.parametrize("reason", Reason)
def test_the_reasons_are_those_of_the_wire(reason: Reason) -> None:
    assert getattr(msg.ObserveRequest, f"REASON_{reason.name}") == reason


@pytest.mark.parametrize("mode", Mode)
def test_the_modes_are_those_of_the_wire(mode: Mode) -> None:
    assert getattr(msg.ExecutionState, f"MODE_{mode.name}") == mode
