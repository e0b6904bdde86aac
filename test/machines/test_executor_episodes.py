"""The executor at the beginning and the end of episodes, and when it is told to stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from executor_cases import OPTIONS, advance, playing, started
from runtime_cases import EPISODE, LAYOUT, action, commands, only

from streaming_vla.machines.events import CommandKind, Episode, ExecutionState, Mode
from streaming_vla.machines.executor import Executor


@pytest.mark.parametrize("number", [7, 9])
def test_the_end_of_an_episode_stops_and_keeps_its_numbers(number: int) -> None:
    executor = playing()
    executor.on_action(action(0, 1), 0.01)
    effects = executor.on_episode(Episode(number, active=False), 0.02)
    [command] = commands(effects)
    assert command.kind is CommandKind.STOP
    moving = ~np.array(LAYOUT.absolute)
    assert not command.values[moving].any(), "the last command of an episode leaves no motion, whatever jump_limit is"
    [state] = only(effects, ExecutionState)
    assert (state.episode, state.mode, state.held) == (number, Mode.IDLE, False)
    assert state.executed == (1 if number == 7 else 0)
    assert executor.deadline() is None
    assert executor.on_action(action(0, 2), 0.03) == []
    assert executor.poll(9.0) == []


def test_an_episode_change_clears_everything() -> None:
    executor = playing()
    executor.on_action(action(0, 1), 0.01)
    executor.on_action(action(0, 5), 0.01)
    executor.poll(0.3)
    [_, state] = executor.on_episode(Episode(8, active=True), 0.3)
    assert isinstance(state, ExecutionState)
    clean = Executor(LAYOUT, OPTIONS)
    [fresh] = only(clean.on_episode(Episode(8, active=True), 0.3), ExecutionState)
    for name in state.__dataclass_fields__:
        assert np.array_equal(getattr(state, name), getattr(fresh, name)), name
    assert executor.on_action(action(0, 2), 0.31) == [], "the old episode's next action"


def test_an_episode_sent_again_changes_nothing_and_an_old_one_is_dropped() -> None:
    executor = playing()
    assert executor.on_episode(replace(EPISODE, instruction="close it"), 0.01) == []
    assert executor.on_episode(Episode(6, active=True), 0.01) == []
    executor.on_episode(Episode(7, active=False), 0.02)
    assert executor.on_episode(EPISODE, 0.03) == [], "an episode that is over does not come back"
    assert executor.counters["old_episode"] == 2


def in_mode(mode: Mode) -> Executor:
    """Return an executor in `mode`."""
    if mode is Mode.WAITING:
        return started()
    executor = playing()
    if mode is Mode.IDLE:
        executor.on_episode(replace(EPISODE, active=False), 0.0)
    starved_s = {Mode.HOLD: 0.1, Mode.DECELERATE: 0.1 + OPTIONS.hold_s, Mode.ERROR: 9.0}
    advance(executor, starved_s.get(mode, 0.0))
    return executor


@pytest.mark.parametrize("mode", Mode)
def test_stop_is_sent_to_a_robot_that_is_commanded_and_lasts(mode: Mode) -> None:
    executor = in_mode(mode)
    assert executor.state(9.0).mode is mode
    *sent, state = executor.stop(9.0)
    moved = mode in (Mode.PLAYING, Mode.HOLD, Mode.DECELERATE)
    assert [command.kind for command in commands(sent)] == [CommandKind.STOP] * moved
    assert isinstance(state, ExecutionState)
    assert state.mode is Mode.IDLE
    assert executor.deadline() is None
    assert not commands(executor.on_action(action(5, 0), 9.01))
