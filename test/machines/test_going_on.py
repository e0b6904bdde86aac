"""What the monitor makes of an executor that has stopped or is away, and of an inference without its history."""

from __future__ import annotations

from dataclasses import replace

import pytest
from runtime_cases import ACTS, context, only, state

from streaming_vla.machines.away import SUPERVISORS, Away
from streaming_vla.machines.events import ContextReady, Episode, ExecutionState, Mode, NodesAway, ObserveRequest
from streaming_vla.machines.monitor import Monitor, MonitorEffect
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.stops import Level, Said

OPTIONS = MonitorOptions(**ACTS, mode="off", max_silence_s=600.0, request_timeout_s=60.0)


def says(mode: Mode, resumes: bool = False, played: int = -1) -> ExecutionState:
    return replace(state(mode, played, min(played, 0)), resumes=resumes, respawn_hold_s=5.0)


def begun(options: MonitorOptions = OPTIONS) -> Monitor:
    """Return a monitor in episode 7 whose context 0 is there."""
    monitor = Monitor(options, last_episode=6)
    monitor.start_episode(0.0, "open the drawer")
    monitor.on_context(context(0), 0.1)
    return monitor


def later(sequence: int, history_from: int, remembers: bool) -> ContextReady:
    return replace(context(sequence), history_from=history_from, remembers=remembers)


def requests(effects: list[MonitorEffect]) -> int:
    return len(only(effects, ObserveRequest))


@pytest.mark.parametrize("resumes", [False, True])
def test_an_error_is_kept_for_an_executor_that_is_started_again(resumes: bool) -> None:
    monitor = begun()
    effects = monitor.on_execution_state(says(Mode.ERROR, resumes, played=0), 0.2)
    assert [episode.stopped for episode in only(effects, Episode)] == [True] * (not resumes)
    assert requests(effects) == resumes, "the stream returns where it may move the robot"
    again = monitor.on_execution_state(says(Mode.WAITING, resumes), 3.0)
    assert only(again, Episode) == [] and requests(again) == 0
    assert (monitor.deadline() is None) is not resumes
    [new, *_] = monitor.start_episode(4.0, "close it")
    assert new == Episode(8, active=True, instruction="close it")


def test_an_executor_that_is_away_for_a_while_goes_on() -> None:
    monitor = begun()
    monitor.on_execution_state(says(Mode.PLAYING, played=0), 0.2)
    assert monitor.poll(5.1) == []
    effects = monitor.on_execution_state(says(Mode.WAITING), 5.15)
    assert only(effects, Episode) == [] and requests(effects) == 1


def test_an_executor_that_is_away_for_too_long_is_given_up_before_it_is_back() -> None:
    monitor = begun()
    monitor.on_execution_state(says(Mode.PLAYING, played=0), 0.2)
    assert monitor.deadline() == pytest.approx(5.2)
    [episode, said] = monitor.poll(5.2)
    assert isinstance(episode, Episode) and episode.stopped and episode.active
    assert isinstance(said, Said) and said.level is Level.ERROR and "not heard for 5.0 s" in said.sentence
    assert monitor.on_execution_state(says(Mode.WAITING), 5.3) == []
    assert monitor.counters["episode_stopped"] == 1


def test_an_executor_that_may_go_on_after_an_error_is_waited_for() -> None:
    monitor = begun()
    monitor.on_execution_state(says(Mode.PLAYING, resumes=True, played=0), 0.2)
    assert monitor.poll(500.0) == []


@pytest.mark.parametrize(
    ("remembers", "allowed", "level", "goes_on"),
    [
        (False, False, Level.WARN, True),
        (True, True, Level.WARN, True),
        (True, False, Level.ERROR, False),
    ],
)
def test_a_history_that_was_lost_is_said_and_ends_the_episode_where_it_mattered(
    remembers: bool, allowed: bool, level: Level, goes_on: bool
) -> None:
    monitor = begun(OPTIONS.changed(continue_without_history=allowed))
    effects = monitor.on_context(later(3, 3, remembers), 1.0)
    [said] = only(effects, Said)
    assert said.level is level and "its history begins at observation 3" in said.sentence
    assert [episode.active for episode in only(effects, Episode)] == [] if goes_on else [False]
    assert monitor.counters["history_lost"] == 1
    if goes_on:
        assert only(monitor.on_context(later(4, 3, remembers), 1.1), Said) == [], "once"


def test_a_history_that_began_late_has_lost_nothing() -> None:
    monitor = Monitor(OPTIONS, last_episode=6)
    monitor.start_episode(0.0, "open the drawer")
    assert only(monitor.on_context(later(2, 2, True), 1.0), Said) == [], "observations 0 and 1 never arrived"
    assert only(monitor.on_context(later(3, 2, True), 1.1), Said) == []


def test_a_monitor_that_was_started_again_knows_what_was_played() -> None:
    monitor = Monitor(OPTIONS, last_episode=6)
    monitor.on_execution_state(says(Mode.PLAYING, played=5), 0.0)
    assert [said.level for said in only(monitor.on_context(later(1007, 1007, True), 1.0), Said)] == [Level.ERROR]


def test_a_robot_that_waits_is_helped_as_soon_as_a_node_is_back() -> None:
    monitor = begun()
    monitor.on_execution_state(says(Mode.HOLD, played=0), 0.2)  # asks, and nobody answers
    [again] = monitor.on_nodes_back(0.9)
    assert isinstance(again, ObserveRequest) and again.sequence == 2
    monitor.on_execution_state(says(Mode.PLAYING, played=0), 1.0)
    assert monitor.on_nodes_back(1.1) == [], "the stream flows"
    monitor.stop_episode(1.2)
    assert monitor.on_nodes_back(1.3) == []


def test_a_node_is_back_when_it_is_told_no_more() -> None:
    away = Away()
    assert away.hear(NodesAway("up")), "who may have come back before is not known"
    assert not away.hear(NodesAway("up", ("observer", "generator"), (0.1, 0.1)))
    assert not away.hear(NodesAway("up", ("observer", "generator"), (1.1, 1.1)))
    assert away.hear(NodesAway("up", ("generator",), (1.2,)))
    for number in range(1000):
        away.hear(NodesAway(f"forged {number}", ("x",), (0.0,)))
    assert len(away._told) == SUPERVISORS
