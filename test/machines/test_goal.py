"""A goal: what ends it, that it ends its episode once, and that it is over when the robot stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.machines.events import Episode, ExecutionState, Mode
from streaming_vla.machines.goal import (
    FEEDBACK_PERIOD_S,
    LONGEST_LIMIT_S,
    NOT_HEARD_S,
    STOP_WITHIN_S,
    Ended,
    EndEpisode,
    Goal,
    Outcome,
    Progress,
    limit_problem,
)

NUMBER = 7
OVER = Episode(NUMBER, active=False, instruction="open it")


def state(mode: Mode, context: int = -1, executed: int = 0, episode: int = NUMBER, **fields: Any) -> ExecutionState:
    held = mode in (Mode.HOLD, Mode.DECELERATE, Mode.ERROR)
    values = {"index": 0, "queue_depth": 1, "cumulative_action": np.zeros(4), "held": held, "starved": held,
              "held_s": 0.0, "starved_s": 0.0, "hand_overs": 0, "rejected": 0, **fields}  # fmt: skip
    return ExecutionState(episode=episode, mode=mode, context=context, executed=executed, **values)


def running(time_limit_s: float = 20.0) -> Goal:
    """Return a goal at second 11, whose robot has moved since second 10."""
    goal = Goal(NUMBER, time_limit_s, 10.0)
    goal.on_request(0, 10.0)
    goal.on_state(state(Mode.PLAYING, 0, executed=5), 11.0)
    return goal


ENDS: dict[Ended, Callable[[Goal], list[Any]]] = {
    Ended.SUCCESS: lambda goal: goal.on_success(12.0),
    Ended.CANCELLED: lambda goal: goal.cancel(12.0),
    Ended.ROBOT_ERROR: lambda goal: goal.on_state(state(Mode.ERROR, 0, 5), 12.0),
    Ended.TIME_LIMIT: lambda goal: goal.poll(30.0),
    Ended.NOT_HEARD: lambda goal: goal.poll(11.0 + NOT_HEARD_S),
}


@pytest.mark.parametrize("ended", ENDS)
def test_what_ends_a_goal_ends_its_episode_and_it_is_over_when_the_robot_stands(ended: Ended) -> None:
    goal = running()
    assert ENDS[ended](goal) == [EndEpisode()]
    assert not goal.over and goal.cancel(31.0) == [] == goal.on_success(31.0), "one end, the first"
    assert goal.on_episode(OVER, 31.0) == []
    assert goal.on_state(state(Mode.PLAYING, 0, 6), 31.0) == []
    [outcome] = goal.on_state(state(Mode.IDLE, 0, 6), 31.5)
    assert isinstance(outcome, Outcome)
    assert (outcome.ended, outcome.episode, outcome.executed, outcome.duration_s) == (ended, NUMBER, 6, 21.5)
    assert outcome.reason and "has not said" not in outcome.reason
    assert goal.over and goal.deadline() is None


def test_the_cause_of_a_stop_is_told() -> None:
    for starved, told in ((True, "no action came in time"), (False, "the robot was not heard")):
        goal = running()
        goal.on_state(state(Mode.ERROR, 0, 5, starved=starved), 12.0)
        [outcome] = goal.on_state(state(Mode.IDLE, 0, 5), 12.1)
        assert isinstance(outcome, Outcome) and outcome.reason == f"the executor stopped the robot: {told}"


def test_an_executor_that_does_not_say_that_the_robot_stands_is_told_too() -> None:
    goal = running()
    goal.cancel(12.0)
    assert goal.deadline() == 12.0 + STOP_WITHIN_S and goal.poll(12.0 + STOP_WITHIN_S - 0.01) == []
    [outcome] = goal.poll(12.0 + STOP_WITHIN_S)
    assert isinstance(outcome, Outcome) and outcome.ended is Ended.CANCELLED
    assert outcome.reason == "it was cancelled; the executor has not said within 2 s that the robot stands"


def test_an_episode_that_somebody_ends_ends_the_goal() -> None:
    goal = running()
    assert goal.on_episode(OVER, 12.0) == []
    [outcome] = goal.on_state(state(Mode.IDLE), 12.1)
    assert isinstance(outcome, Outcome)
    assert (outcome.ended, outcome.reason) == (Ended.STOPPED, "somebody ended its episode")


def test_an_episode_that_takes_its_place_ends_the_goal_at_once() -> None:
    goal = running()
    assert goal.on_episode(Episode(NUMBER, active=True, instruction="open it"), 12.0) == []
    [outcome] = goal.on_episode(Episode(NUMBER + 1, active=True, instruction="close it"), 12.0)
    assert isinstance(outcome, Outcome)
    assert (outcome.ended, outcome.reason) == (Ended.STOPPED, "episode 8 was begun in its place")
    assert goal.abandon("away", 12.0) == goal.poll(99.0) == goal.on_state(state(Mode.IDLE), 99.0) == []


def test_nobody_waits_for_the_robot_any_more() -> None:
    [outcome] = running().abandon("the node was deactivated", 12.0)
    assert isinstance(outcome, Outcome)
    assert (outcome.ended, outcome.reason) == (Ended.STOPPED, "the node was deactivated")


def test_feedback_tells_every_mode_and_is_not_more_often_than_needed() -> None:
    goal = Goal(NUMBER, 0.0, 10.0)
    goal.on_request(0, 10.0)
    goal.on_request(1, 11.0)
    [first] = goal.on_state(state(Mode.WAITING), 10.1)
    assert isinstance(first, Progress) and math.isnan(first.observation_age_s)
    [second] = goal.on_state(state(Mode.PLAYING, 0, 1), 10.11)
    assert second == Progress(NUMBER, Mode.PLAYING, 1, False, 0.0, pytest.approx(0.11))
    assert goal.on_state(state(Mode.PLAYING, 0, 2), 10.2) == []
    [third] = goal.on_state(state(Mode.HOLD, 1, 2, held_s=0.5), 11.5)
    assert third == Progress(NUMBER, Mode.HOLD, 2, True, 0.5, pytest.approx(0.5))
    [fourth] = goal.on_state(state(Mode.HOLD, 1, 2), 11.5 + FEEDBACK_PERIOD_S)
    assert isinstance(fourth, Progress)


def test_other_episodes_are_not_heard() -> None:
    goal = running()
    assert goal.on_state(state(Mode.ERROR, episode=NUMBER - 1), 12.0) == []
    assert goal.deadline() == 11.0 + NOT_HEARD_S


def test_without_a_limit_it_takes_as_long_as_it_needs() -> None:
    goal = running(time_limit_s=0.0)
    for second in range(12, 4000, 10):
        assert goal.poll(float(second)) == []
        goal.on_state(state(Mode.PLAYING, 0, second), float(second))


@pytest.mark.parametrize("limit_s", [0.0, 0.5, LONGEST_LIMIT_S])
def test_time_limits(limit_s: float) -> None:
    assert limit_problem(limit_s) == ""


@pytest.mark.parametrize("limit_s", [-1.0, math.nan, math.inf, LONGEST_LIMIT_S * 1.01])
def test_what_is_no_time_limit(limit_s: float) -> None:
    assert limit_problem(limit_s).startswith("time_limit_s is ")


STEPS: list[Callable[[Goal, float], list[Any]]] = [
    Goal.poll,
    Goal.cancel,
    Goal.on_success,
    lambda goal, now: goal.on_episode(OVER, now),
    lambda goal, now: goal.abandon("away", now),
    *(lambda goal, now, mode=mode: goal.on_state(state(mode), now) for mode in Mode),
]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.floats(0.0, 20.0)), max_size=12))
def test_whatever_comes_it_ends_once_and_in_the_end(steps: list[tuple[Any, float]]) -> None:
    goal, now, effects = running(), 11.0, []
    for step, later_s in steps:
        now += later_s
        effects += step(goal, now)
    for _ in range(3):
        now = now if (due_s := goal.deadline()) is None else max(now, due_s)
        effects += goal.poll(now)
    assert sum(isinstance(effect, Outcome) for effect in effects) == 1 and isinstance(effects[-1], Outcome)
    assert sum(isinstance(effect, EndEpisode) for effect in effects) <= 1
    assert goal.over
