"""The executor while another node is started again, after a pause of its own process, and after its own death."""

from __future__ import annotations

from dataclasses import replace

import pytest
from executor_cases import OPTIONS, advance, playing, started
from runtime_cases import EPISODE, LAYOUT, PERIOD_S, action, commands, only

from streaming_vla.machines.events import CommandKind, ExecutionState, Mode, NodesAway
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions

WAITS = OPTIONS.changed(respawn_hold_s=3.0, inference_respawn_hold_s=7.0)
LADDER_S = PERIOD_S + OPTIONS.hold_s + OPTIONS.decelerate_s


def away(*nodes: str, supervisor: str = "up") -> NodesAway:
    return NodesAway(supervisor, nodes, tuple(0.5 for _ in nodes))


def mode_at(executor: Executor, now: float) -> Mode:
    advance(executor, now)
    return executor.state(now).mode


@pytest.mark.parametrize(("node", "limit_s"), [("generator", 3.0), ("inference", 7.0)])
def test_a_hold_lasts_as_long_as_a_node_that_is_started_again_may_take(node: str, limit_s: float) -> None:
    executor = playing(WAITS)
    advance(executor, 0.1)
    executor.on_nodes_away(away(node), 0.1)
    assert executor.waited_for == (node,)
    assert mode_at(executor, PERIOD_S + limit_s - 0.01) is Mode.HOLD
    assert mode_at(executor, PERIOD_S + limit_s + 0.01) is Mode.DECELERATE
    assert mode_at(executor, PERIOD_S + limit_s + OPTIONS.decelerate_s + 0.01) is Mode.ERROR


def test_the_robot_goes_on_when_actions_come_while_the_node_is_back_already() -> None:
    executor = playing(WAITS)
    executor.on_nodes_away(away("generator"), 0.02)  # before the queue is dry
    advance(executor, 1.0)
    executor.on_nodes_away(away(), 1.0)
    assert mode_at(executor, 2.5) is Mode.HOLD, "it is back, but its first action takes a while"
    assert commands(executor.on_action(action(1, 0), 2.5))[0].kind is CommandKind.PLAY
    advance(executor, 2.5 + LADDER_S + 0.01)
    assert executor.state(9.0).mode is Mode.ERROR, "the next hold waits for nobody"


def test_what_is_told_in_a_deceleration_puts_the_error_off() -> None:
    executor = playing(WAITS)
    advance(executor, 0.3)
    assert executor.state(0.3).mode is Mode.DECELERATE
    executor.on_nodes_away(away("observer"), 0.3)
    assert mode_at(executor, PERIOD_S + 2.9) is Mode.DECELERATE
    assert mode_at(executor, PERIOD_S + 3.1) is Mode.ERROR


def test_every_supervisor_tells_of_its_own_nodes() -> None:
    executor = playing(WAITS)
    executor.on_nodes_away(away("inference", supervisor="server"), 0.0)
    executor.on_nodes_away(away("observer"), 0.0)
    executor.on_nodes_away(away(), 0.0)
    assert executor.away.names == ("inference",)
    executor.on_nodes_away(away(supervisor="server"), 0.0)
    assert executor.away.names == ()


@pytest.mark.parametrize("frozen_at_s", [0.02, 0.1, 0.3])
def test_rungs_count_from_the_wake_up_of_a_process_that_was_stopped(frozen_at_s: float) -> None:
    executor = playing(OPTIONS.changed(robot_timeout_s=1.0))
    advance(executor, frozen_at_s)
    before = executor.state(frozen_at_s).mode
    woken = executor.poll(frozen_at_s + 3.0)
    states = only(woken, ExecutionState)
    assert [state.mode for state in states] == [Mode.HOLD if before is Mode.PLAYING else before]
    assert states[0].held_s == pytest.approx(frozen_at_s + 3.0 - PERIOD_S), "the pause is no motion"
    executor.on_robot_state(frozen_at_s + 3.01)
    assert commands(executor.on_action(action(1, 0), frozen_at_s + 3.02))[0].kind is CommandKind.PLAY


def test_a_process_that_was_stopped_does_not_play_what_it_had_before() -> None:
    executor = playing(OPTIONS.changed(robot_timeout_s=1.0))
    executor.on_action(action(0, 1), 0.01)
    assert not [command for command in commands(executor.poll(3.0)) if command.kind is CommandKind.PLAY]
    executor.on_robot_state(3.0)
    assert not commands(executor.on_action(action(0, 2), 3.0))


@pytest.mark.parametrize("allowed", [False, True])
def test_after_an_error_the_robot_goes_on_only_where_a_parameter_says_so(allowed: bool) -> None:
    executor = playing(OPTIONS.changed(resume_after_error=allowed))
    advance(executor, 2.0)
    assert executor.state(2.0).mode is Mode.ERROR and executor.state(2.0).resumes is allowed
    sent = [command.kind for command in commands(executor.on_action(action(1, 0), 2.0))]
    assert sent == [CommandKind.PLAY] * allowed


def test_after_an_error_nothing_is_played_for_a_robot_that_is_silent() -> None:
    executor = playing(OPTIONS.changed(resume_after_error=True, robot_timeout_s=1.0))
    advance(executor, 2.0)
    assert not commands(executor.on_action(action(1, 0), 2.0))
    executor.on_robot_state(2.1)
    assert commands(executor.on_action(action(1, 0), 2.1))


@pytest.mark.parametrize("allowed", [False, True])
def test_an_executor_that_is_started_again_leaves_a_stopped_robot_stopped(allowed: bool) -> None:
    executor = Executor(LAYOUT, OPTIONS.changed(resume_after_error=allowed))
    executor.on_robot_state(0.0)
    [state] = only(executor.on_episode(replace(EPISODE, stopped=True), 0.0), ExecutionState)
    assert state.mode is (Mode.WAITING if allowed else Mode.ERROR)
    assert bool(commands(executor.on_action(action(4, 0), 0.1))) is allowed
    executor.on_episode(replace(EPISODE, number=8), 1.0)
    executor.on_robot_state(1.0)
    assert commands(executor.on_action(action(0, 0, episode=8), 1.0)), "a new episode moves it"


def test_word_that_it_had_been_stopped_may_come_late() -> None:
    executor = started()
    assert executor.on_episode(EPISODE, 0.0) == []
    executor.on_action(action(4, 0), 0.0)
    sent = executor.on_episode(replace(EPISODE, stopped=True), 0.01)
    assert [command.kind for command in commands(sent)] == [CommandKind.STOP]
    assert executor.state(0.01).mode is Mode.ERROR
    assert executor.on_episode(replace(EPISODE, stopped=True), 0.02) == [], "said again"


def test_the_defaults() -> None:
    options = ExecutorOptions()
    assert (options.respawn_hold_s, options.inference_respawn_hold_s, options.resume_after_error) == (15.0, 60.0, False)
