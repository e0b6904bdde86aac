"""Executors that have begun, for the tests of the executor's machine."""

from __future__ import annotations

from runtime_cases import EPISODE, LAYOUT, PERIOD_S, PLAYS, action

from streaming_vla.machines.events import Mode
from streaming_vla.machines.executor import Executor, ExecutorEffect
from streaming_vla.machines.executor_options import ExecutorOptions

OPTIONS = ExecutorOptions(
    **PLAYS,
    control_period_s=PERIOD_S,
    hold_s=0.2,
    decelerate_s=0.3,
    max_action_age_s=0.4,
    robot_timeout_s=10.0,
)


def started(options: ExecutorOptions = OPTIONS, now: float = 0.0) -> Executor:
    """Return an executor in an episode with a robot that has just been heard."""
    executor = Executor(LAYOUT, options)
    executor.on_episode(EPISODE, now)
    executor.on_robot_state(now)
    return executor


def playing(options: ExecutorOptions = OPTIONS, now: float = 0.0) -> Executor:
    """Return an executor that has just begun action 0 of context 0."""
    executor = started(options, now)
    executor.on_action(action(0, 0), now)
    assert executor.state(now).mode is Mode.PLAYING
    return executor


def advance(executor: Executor, now: float) -> list[ExecutorEffect]:
    """Poll at every deadline up to `now`, as a process does that is never stopped; return all effects."""
    effects: list[ExecutorEffect] = []
    while (due_s := executor.deadline()) is not None and due_s <= now:
        effects += executor.poll(due_s)
    return effects
