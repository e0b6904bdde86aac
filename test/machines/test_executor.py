"""The executor: what it plays, when, and what it does when nothing comes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from executor_cases import OPTIONS, advance, playing, started
from hypothesis import given
from hypothesis import strategies as st
from runtime_cases import EPISODE, LAYOUT, PERIOD_S, action, commands, only

from streaming_vla.machines.events import Action, CommandKind, Episode, ExecutionState, Mode
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.limits import Limits


def test_first_action_plays_at_once_and_is_reported() -> None:
    executor = started()
    effects = executor.on_action(action(3, 0, (0.1, 0.2, 0.3)), 1.0)
    [command] = commands(effects)
    [state] = only(effects, ExecutionState)
    assert command.kind is CommandKind.PLAY
    assert command.values == pytest.approx([0.1, 0.2, 0.3])
    assert (state.mode, state.context, state.index, state.executed, state.queue_depth) == (Mode.PLAYING, 3, 0, 1, 0)
    assert state.cumulative_action == pytest.approx([0.1, 0.2, 0.3])
    assert (state.held, state.starved, state.starved_s) == (False, False, 0.0)


def test_a_dry_run_is_said_and_changes_no_command() -> None:
    dry, wet = (playing(OPTIONS.changed(dry_run=dry_run)) for dry_run in (True, False))
    assert (dry.state(0.0).dry_run, wet.state(0.0).dry_run) == (True, False)
    shown, sent = (commands(each.poll(PERIOD_S + OPTIONS.hold_s)) for each in (dry, wet))
    assert [(each.kind, each.values.tolist()) for each in shown] == [(each.kind, each.values.tolist()) for each in sent]


def test_first_absolute_value_is_limited_from_the_measured_robot() -> None:
    executor = Executor(LAYOUT, OPTIONS.changed(jump_limit=(1.0, 1.0, 0.2)))
    executor.on_episode(EPISODE, 0.0)
    executor.on_robot_state(0.0, np.array([7.0, 8.0, 0.5]))
    [first] = commands(executor.on_action(action(0, 0, (0.1, 0.2, -1.0)), 0.0))
    assert first.values == pytest.approx([0.1, 0.2, 0.3]), "changes start from rest, wherever the robot is"
    executor.on_robot_state(0.01, np.array([7.0, 8.0, 0.9]))
    executor.on_action(action(0, 1, (0.1, 0.2, -1.0)), 0.02)
    [second] = commands(executor.poll(PERIOD_S))
    assert second.values[2] == pytest.approx(0.1), "later ones from the command before"


def test_what_follows_a_deceleration_is_limited_from_what_the_robot_was_told_in_it() -> None:
    """A command type with joint targets moves the held target to the measured joint: from there the arm goes on."""
    executor = playing(OPTIONS.changed(jump_limit=(1.0, 1.0, 0.2)))
    held = advance(executor, PERIOD_S + OPTIONS.hold_s + 2 * PERIOD_S)
    last = commands(held)[-1]
    assert last.kind is CommandKind.DECELERATE and last.values[2] == pytest.approx(-0.8)
    executor.on_told(np.array([5.0, 5.0, -0.4]))
    now = PERIOD_S + OPTIONS.hold_s + 2.5 * PERIOD_S
    effects = executor.on_action(action(0, 1, (0.1, 0.2, 0.9)), now)
    assert commands(effects)[-1].values == pytest.approx([0.1, 0.2, -0.2])
    assert only(effects, ExecutionState)[-1].cumulative_action[2] == pytest.approx(-0.2)


def test_a_hold_keeps_what_a_bounded_command_was_turned_into() -> None:
    """A command type with joint targets bounds them by the measured pose: the rest is no debt that a hold pays."""
    executor = playing(OPTIONS)
    last = executor.state(0.0).cumulative_action
    executor.on_told(np.array([5.0, 5.0, -0.5]))
    assert executor.state(0.0).cumulative_action == pytest.approx([last[0], last[1], -0.5]), "changes are not values"
    [held] = commands(executor.poll(PERIOD_S))
    assert held.kind is CommandKind.HOLD and held.values == pytest.approx([0.0, 0.0, -0.5])


def test_a_longer_period_that_is_set_in_a_hold_is_the_distance_of_its_commands_from_then_on() -> None:
    executor = playing(OPTIONS.changed(hold_s=100.0))
    executor.poll(PERIOD_S + 40 * PERIOD_S)
    executor.update(OPTIONS.changed(hold_s=100.0, control_period_s=4 * PERIOD_S))
    due_s = []
    for _ in range(3):
        due_s.append(executor.deadline() or 0.0)
        executor.poll(due_s[-1])
    assert due_s == pytest.approx([45 * PERIOD_S, 49 * PERIOD_S, 53 * PERIOD_S])


def test_no_motion_before_proof_of_life() -> None:
    executor = Executor(LAYOUT, OPTIONS)
    executor.on_episode(EPISODE, 0.0)
    effects = executor.on_action(action(0, 0), 0.1)
    assert not commands(effects)
    assert only(effects, ExecutionState)[-1].queue_depth == 1
    assert not commands(executor.poll(0.2))
    assert commands(executor.on_robot_state(0.3))[0].kind is CommandKind.PLAY
    assert executor.state(0.3).starved_s == 0.0


def test_a_robot_heard_too_long_ago_is_no_proof_of_life() -> None:
    executor = started(OPTIONS.changed(robot_timeout_s=0.1))
    assert not commands(executor.on_action(action(0, 0), 0.1))
    assert commands(executor.on_robot_state(0.15))


def test_waits_for_start_actions() -> None:
    executor = started(OPTIONS.changed(start_actions=2, lead_actions=2))
    assert not commands(executor.on_action(action(0, 0), 0.0))
    assert commands(executor.on_action(action(0, 1), 0.01))


@given(st.lists(st.floats(0.0, 0.9), min_size=1, max_size=40))
def test_ticks_are_anchored_and_do_not_drift(lateness: list[float]) -> None:
    executor = started(OPTIONS.changed(max_action_age_s=60.0, robot_timeout_s=60.0))
    for index in range(len(lateness) + 1):
        executor.on_action(action(0, index), 5.0)
    for tick, late in enumerate(lateness, start=1):
        due = executor.deadline()
        assert due == pytest.approx(5.0 + tick * PERIOD_S, abs=1e-9)
        assert executor.poll(due - 1e-6) == []
        effects = executor.poll(due + late * PERIOD_S)
        assert [command.kind for command in commands(effects)] == [CommandKind.PLAY]
    assert executor.counters["late_tick"] == 0


def test_a_long_pause_gives_no_burst() -> None:
    executor = started()
    for index in range(5):
        executor.on_action(action(0, index), 0.0)
    effects = executor.poll(0.3)
    assert [command.kind for command in commands(effects)] == [CommandKind.PLAY]
    assert executor.state(0.3).index == 1
    assert executor.deadline() == pytest.approx(0.35)
    assert executor.counters["late_tick"] == 1


def test_the_ladder_in_order_and_on_time() -> None:
    executor = playing()
    seen: list[tuple[float, CommandKind, float]] = []
    modes: list[tuple[float, Mode]] = []
    while (due := executor.deadline()) is not None:
        effects = executor.poll(due)
        seen += [(round(due, 6), command.kind, round(command.progress, 6)) for command in commands(effects)]
        modes += [(round(due, 6), state.mode) for state in only(effects, ExecutionState)]
    hold = [(round(0.05 + k * PERIOD_S, 6), CommandKind.HOLD, 0.0) for k in range(4)]
    slow = [(round(0.25 + k * PERIOD_S, 6), CommandKind.DECELERATE, round(k / 6, 6)) for k in range(6)]
    assert seen == [*hold, *slow, (0.55, CommandKind.STOP, 1.0)]
    first = {mode: min(time for time, other in modes if other is mode) for _, mode in modes}
    assert first == {Mode.HOLD: 0.05, Mode.DECELERATE: 0.25, Mode.ERROR: 0.55}
    assert executor.poll(100.0) == []
    assert [executor.counters[name] for name in ("hold", "decelerate", "error")] == [1, 1, 1]
    state = executor.state(0.65)
    assert (state.held, state.starved) == (True, True)
    assert state.starved_s == pytest.approx(0.6)
    assert state.held_s == pytest.approx(0.6)


def test_error_stays_until_a_new_episode() -> None:
    executor = playing()
    advance(executor, 2.0)
    assert executor.state(2.0).mode is Mode.ERROR
    assert not commands(executor.on_action(action(1, 0), 2.0))
    assert executor.counters["action_stopped"] == 1
    assert not commands(executor.on_robot_state(2.1))
    executor.on_episode(Episode(8, active=True), 3.0)
    assert commands(executor.on_action(action(0, 0, episode=8), 3.0))[0].kind is CommandKind.PLAY


def test_rungs_of_no_length_are_passed_at_once() -> None:
    executor = playing(OPTIONS.changed(hold_s=0.0, decelerate_s=0.0))
    kinds = [command.kind for command in commands(executor.poll(0.05))]
    assert kinds == [CommandKind.HOLD, CommandKind.DECELERATE, CommandKind.STOP]


def test_hold_keeps_the_pose_and_the_absolute_dimension() -> None:
    executor = started()
    executor.on_action(action(0, 0, (0.4, -0.4, 0.7)), 0.0)
    [command] = commands(executor.poll(PERIOD_S))
    assert command.kind is CommandKind.HOLD
    assert command.values == pytest.approx([0.0, 0.0, 0.7])
    assert executor.state(PERIOD_S).cumulative_action == pytest.approx([0.4, -0.4, 0.7])


@pytest.mark.parametrize("at_s", [0.051, 0.21, 0.31])
def test_an_action_ends_the_starvation_at_once(at_s: float) -> None:
    executor = playing()
    executor.poll(at_s - 0.0005)
    effects = executor.on_action(action(0, 1), at_s)
    state = only(effects, ExecutionState)[-1]
    assert commands(effects)[-1].kind is CommandKind.PLAY
    assert (state.held, state.starved) == (False, False)
    assert state.starved_s == pytest.approx(at_s - PERIOD_S)
    assert executor.deadline() == pytest.approx(at_s + PERIOD_S)


def test_starved_time_counts_from_the_end_of_the_action_even_when_polled_late() -> None:
    executor = playing()
    [state] = only(executor.poll(0.08), ExecutionState)
    assert state.starved_s == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (action(0, 0), "duplicate"),
        (action(0, 1), "duplicate"),
        (action(0, 3), "gap"),
        (action(1, 1), "gap"),
        (action(0, -1), "duplicate"),
        (action(1, -1), "gap"),
        (action(0, 2, (0.1, np.nan, 0.1)), "not_finite"),
        (action(0, 2, (0.1, np.inf, 0.1)), "not_finite"),
        (action(0, 2, (0.1, 0.1)), "wrong_shape"),
        (action(0, 2, ()), "wrong_shape"),
        (replace(action(0, 2), values=np.zeros((3, 1))), "wrong_shape"),
        (action(0, 2, episode=6), "other_episode"),
        (action(0, 2, episode=8), "other_episode"),
    ],
)
def test_what_does_not_follow_is_refused_by_name(wrong: Action, reason: str) -> None:
    executor = playing()
    executor.on_action(action(0, 1), 0.01)
    assert executor.on_action(wrong, 0.02) == []
    assert executor.counters.as_dict() == {f"action_{reason}": 1}
    assert executor.state(0.02).rejected == 1
    assert executor.state(0.02).queue_depth == 1
    executor.on_action(action(0, 2), 0.03)
    assert executor.state(0.03).queue_depth == 2, "what follows is still taken"


def test_older_contexts_are_late() -> None:
    executor = playing()
    executor.on_action(action(2, 0), 0.01)
    executor.on_action(action(0, 1), 0.02)
    executor.on_action(action(1, 0), 0.02)
    assert executor.counters.as_dict() == {"action_late": 2}


def test_a_newer_context_is_a_hand_over() -> None:
    executor = playing()
    executor.on_action(action(4, 0), 0.01)
    [state] = only(executor.poll(PERIOD_S), ExecutionState)
    assert (state.context, state.index, state.hand_overs, state.starved_s) == (4, 0, 1, 0.0)


def test_an_action_that_waited_too_long_is_not_played() -> None:
    executor = started(OPTIONS.changed(max_action_age_s=0.12))
    for index in range(4):
        executor.on_action(action(0, index), 0.0)
    kinds = []
    for tick in range(1, 4):
        kinds += [command.kind for command in commands(executor.poll(tick * PERIOD_S))]
    assert kinds == [CommandKind.PLAY, CommandKind.PLAY, CommandKind.HOLD]
    assert executor.counters["action_too_old"] == 1
    executor.on_action(action(0, 4), 0.16)
    assert executor.counters["action_after_flush"] == 1, "action 3 was dropped: 4 must not be played after 2"
    assert commands(executor.on_action(action(1, 0), 0.17))


def test_what_builds_on_an_old_action_goes_with_it() -> None:
    executor = started(OPTIONS.changed(max_action_age_s=0.06))
    executor.on_action(action(0, 0), 0.0)
    executor.on_action(action(0, 1), -0.02)
    executor.on_action(action(0, 2), 0.04)
    executor.on_action(action(1, 0), 0.045)
    [state] = only(executor.poll(PERIOD_S), ExecutionState)
    assert (state.context, state.index) == (1, 0)
    assert (executor.counters["action_too_old"], executor.counters["action_after_too_old"]) == (1, 1)


def test_actions_do_not_wait_for_a_robot_for_ever() -> None:
    executor = Executor(LAYOUT, OPTIONS)
    executor.on_episode(EPISODE, 0.0)
    executor.on_action(action(0, 0), 0.0)
    [state] = executor.poll(OPTIONS.max_action_age_s)
    assert isinstance(state, ExecutionState)
    assert (state.mode, state.queue_depth, state.rejected) == (Mode.WAITING, 0, 1)
    assert not commands(executor.on_robot_state(1.0))


def test_the_queue_is_bounded() -> None:
    executor = playing()
    for index in range(1, 300):
        executor.on_action(action(0, index), 0.01)
    assert executor.state(0.01).queue_depth == 256
    assert executor.counters["action_queue_full"] == 43


def test_a_silent_robot_is_held_and_its_queue_forgotten() -> None:
    executor = playing(OPTIONS.changed(robot_timeout_s=0.07, hold_s=5.0))
    executor.on_action(action(0, 1), 0.0)
    executor.on_action(action(0, 2), 0.0)
    executor.poll(0.05)
    effects = executor.poll(0.07)
    [state] = only(effects, ExecutionState)
    assert commands(effects)[0].kind is CommandKind.HOLD
    assert (state.held, state.starved, state.queue_depth, state.rejected) == (True, False, 0, 1)
    assert not commands(executor.on_action(action(1, 0), 0.08))
    assert executor.counters["action_robot_silent"] == 1
    [back] = executor.on_robot_state(0.10)
    assert isinstance(back, ExecutionState)
    assert (back.starved, back.starved_s) == (True, 0.0)
    state = only(executor.on_action(action(1, 0), 0.12), ExecutionState)[-1]
    assert state.mode is Mode.PLAYING
    assert state.starved_s == pytest.approx(0.02)
    assert state.held_s == pytest.approx(0.05)


def test_limits_are_kept_and_counted() -> None:
    executor = started(OPTIONS.changed(velocity_limit=(10.0, 100.0, 1000.0), jump_limit=(9.0, 0.3, 9.0)))
    [first] = commands(executor.on_action(action(0, 0, (0.9, 0.9, 7.0)), 0.0))
    assert first.values == pytest.approx([0.5, 0.3, 1.0])
    assert executor.counters.as_dict() == {"limit_jump.dy": 1, "limit_value.grip": 1, "limit_velocity.dx": 1}
    executor.on_action(action(0, 1, (0.0, -0.9, -1.0)), 0.01)
    [second] = commands(executor.poll(PERIOD_S))
    assert second.values == pytest.approx([0.0, 0.0, -1.0])


def test_hold_ramps_down_within_the_jump_limit_and_stop_does_not() -> None:
    executor = started(OPTIONS.changed(jump_limit=(0.4, 0.4, 0.4)))
    for index in range(3):
        executor.on_action(action(0, index, (1.0, 0.0, -1.0)), 0.0)
    values = [commands(executor.poll(tick * PERIOD_S))[0].values[0] for tick in range(1, 6)]
    assert values == pytest.approx([0.8, 1.0, 0.6, 0.2, 0.0])
    executor = playing(OPTIONS.changed(jump_limit=(0.05, 0.05, 2.0)))
    [command] = commands(executor.stop(0.01))
    assert command.values == pytest.approx([0.0, 0.0, 0.3])


def test_live_options_hold_from_the_next_action_on() -> None:
    executor = playing()
    executor.on_action(action(0, 1), 0.01)
    executor.update(OPTIONS.changed(control_period_s=0.1))
    assert executor.deadline() == pytest.approx(0.05)
    executor.poll(0.05)
    assert executor.deadline() == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("control_period_s", 0.0),
        ("control_period_s", float("nan")),
        ("hold_s", -0.1),
        ("decelerate_s", float("inf")),
        ("max_action_age_s", 0.0),
        ("robot_timeout_s", -1.0),
        ("start_actions", 0),
    ],
)
def test_options_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        OPTIONS.changed(**{name: value})


def test_limits_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="velocity_limit has 2 values, expected one for each of"):
        OPTIONS.changed(velocity_limit=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"jump_limit has -1"):
        Limits(jump=(1.0, -1.0, 1.0))
    with pytest.raises(ValueError, match="'dx' must include 0"):
        Executor(replace(LAYOUT, low=(0.1, -1.0, -1.0)), OPTIONS)


@pytest.mark.parametrize("period_s", [0.027, 0.0333, 0.05, 0.1])
def test_at_another_period_the_same_actions_are_within_the_limits(period_s: float) -> None:
    options = ExecutorOptions().at_period(period_s)
    executor = Executor(options.layout, options)
    executor.on_episode(EPISODE, 0.0)
    executor.on_robot_state(0.0)
    [command] = commands(executor.on_action(action(0, 0, (1.0, -1.0, 1.0, 1.0)), 0.0))
    assert command.values.tolist() == [1.0, -1.0, 1.0, 1.0] and not executor.counters.as_dict()
    [command] = commands(executor.on_action(action(0, 1, (1.1, 0.0, 0.0, 0.0)), 0.0) + executor.poll(period_s))
    assert command.values[0] == 1.0
