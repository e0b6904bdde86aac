"""What is said of holds and stops: of states as the executor's machine gives them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from executor_cases import OPTIONS, playing
from runtime_cases import PERIOD_S, action, only

from streaming_vla.machines.events import ExecutionState
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.halting import measure
from streaming_vla.machines.stops import Level, Said, Speaker, stop_of


class Listener:
    """Hands an executor's states to a speaker and keeps what is said."""

    def __init__(self, options: ExecutorOptions = OPTIONS) -> None:
        self.executor: Executor = playing(options)
        self.speaker = Speaker()
        self.states: list[tuple[float, ExecutionState]] = [(0.0, self.executor.state(0.0))]
        self.heard: list[Said] = []
        self.take([self.executor.state(0.0)], 0.0)

    def take(self, effects: list[object], now: float, why: str = "") -> None:
        for state in only(effects, ExecutionState):
            self.states.append((now, state))
            said = self.speaker.on_state(state, self.executor.counters.as_dict(), why, now)
            self.heard += [said] if said else []

    def starve(self, seconds: float, since_s: float = 0.0, why: str = "") -> None:
        for step in range(1, round(seconds / 0.01) + 1):
            now = since_s + 0.01 * step
            self.take(self.executor.poll(now), now, why)


def test_a_starved_executor_says_hold_deceleration_and_stop_with_cause_age_and_what_to_do() -> None:
    listener = Listener()
    listener.starve(0.1)
    listener.executor.on_action(action(0, 5), 0.1)  # a gap: it is refused
    listener.starve(0.6, 0.1)
    hold, decelerate, stop = listener.heard
    assert [said.level for said in listener.heard] == [Level.WARN, Level.WARN, Level.ERROR]
    assert hold.sentence == "the robot is held: no action came in time; action 0 of context 0 is the newest"
    assert decelerate.sentence.startswith("the robot is brought to rest: held for 0.2 s, no action came in time")
    assert stop.sentence.startswith("the robot was stopped after 0.5 s: no action came in time; action 0 of context 0")
    assert "refused meanwhile: action_gap 1" in stop.sentence
    assert "call start_episode" in stop.sentence


def test_a_silent_robot_is_named_as_the_cause() -> None:
    listener = Listener(OPTIONS.changed(robot_timeout_s=0.1, max_action_age_s=9.0))
    for index in range(1, 20):
        listener.executor.on_action(action(0, index), 0.0)
    listener.starve(1.0, why="no joint states on '/joint_states'")
    assert "no joint states on '/joint_states'" in listener.heard[-1].sentence
    assert stop_of([state for _, state in listener.states]) == (
        "the executor stopped the robot: the robot was not heard for 0.5 s, action 1 of context 0 is the newest"
    )


def test_a_stutter_is_said_once_a_second_and_a_stop_always() -> None:
    listener = Listener()
    now = 0.0
    for index in range(1, 30):  # each action comes 0.05 s late
        now = 2 * PERIOD_S * index
        listener.take(listener.executor.poll(now), now)
        listener.take(listener.executor.on_action(action(0, index), now), now)
    sentences = [said.sentence for said in listener.heard]
    assert sum("is held" in sentence for sentence in sentences) == 3
    assert sum("moves again" in sentence for sentence in sentences) == 3
    listener.starve(0.6, now)
    assert [said.level for said in listener.heard[-2:]] == [Level.WARN, Level.ERROR]


def test_a_gap_that_ends_in_a_stop_counts_as_halting_and_what_follows_the_stop_does_not() -> None:
    listener = Listener()
    listener.starve(0.8)
    end_s = 5.0
    states = [*listener.states, (end_s, listener.executor.state(end_s))]
    halting = measure(states, PERIOD_S)
    assert halting.hand_overs == 0
    assert halting.halts_ms == pytest.approx((500.0,), abs=10.1)  # hold_s and decelerate_s, after the only action
    assert halting.t_action_ms == pytest.approx(50.0 + halting.starved_ms)
    assert halting.stopped.startswith("the executor stopped the robot: no action came in time for 0.5 s")


@pytest.mark.parametrize("succeeded", [True, False])
def test_a_gap_that_the_end_of_the_episode_cut_off_counts_nowhere(succeeded: bool) -> None:
    listener = Listener()
    listener.starve(0.2)
    states = [*listener.states, (0.2, replace(listener.executor.state(0.2)))]
    done = measure(states, PERIOD_S, succeeded=succeeded)
    assert (done.starved_ms, done.halts_ms, done.stopped) == (0.0, (), "")


def test_an_episode_that_succeeded_needed_no_action_after_the_last_one() -> None:
    listener = Listener()
    listener.starve(0.8)
    states = [*listener.states, (5.0, listener.executor.state(5.0))]
    assert measure(states, PERIOD_S, succeeded=True).halts_ms == ()
