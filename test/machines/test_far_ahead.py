"""Numbers that no episode comes to are refused and counted, and what is meant goes on."""

from __future__ import annotations

import numpy as np
import pytest
from executor_cases import OPTIONS, playing
from runtime_cases import LAYOUT, action, commands, state

from streaming_vla.machines.episodes import LARGEST_EPISODE, Change, CurrentEpisode
from streaming_vla.machines.events import CommandKind, ContextReady, Episode, Mode, ObserveRequest, Reason
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.observer_options import ObserverOptions

NOW_NUMBER = 95_000_000  # as a clock numbers them three years after 2023
FORGED = 2**32 - 1


def test_the_first_episode_may_be_any_of_a_clock_and_a_later_one_a_year_ahead() -> None:
    current = CurrentEpisode()
    assert current.take(Episode(FORGED, True)) is Change.FAR
    assert current.take(Episode(1, True)) is Change.NEW
    assert current.take(Episode(NOW_NUMBER, True)) is Change.NEW
    assert current.take(Episode(NOW_NUMBER + 365 * 86400, True)) is Change.NEW
    assert current.take(Episode(2**31, True)) is Change.FAR
    assert current.number == NOW_NUMBER + 365 * 86400


def test_a_forged_episode_does_not_end_the_one_that_runs() -> None:
    executor = Executor(LAYOUT, OPTIONS)
    executor.on_episode(Episode(NOW_NUMBER, True), 0.0)
    assert executor.on_episode(Episode(FORGED, False), 0.1) == []
    assert executor.counters["episode_far_ahead"] == 1
    assert executor.state(0.1).mode is Mode.WAITING


def test_a_forged_context_does_not_make_every_action_late() -> None:
    executor = playing()
    executor.on_action(action(FORGED, 0), 0.01)
    assert executor.counters["action_far_ahead"] == 1
    executor.on_action(action(0, 1), 0.02)
    [command] = commands(executor.poll(0.05))
    assert command.kind is CommandKind.PLAY


def test_a_forged_request_does_not_make_every_later_one_a_repetition() -> None:
    observer = Observer(ObserverOptions(cameras=("front",), camera_topics=("front",)))
    observer.on_episode(Episode(1, True), 0.0)
    for sequence in (FORGED, 0):
        observer.on_request(ObserveRequest(1, sequence, Reason.START), 0.0)
    observer.on_frame("front", None, 1, 0.0)
    [snapshot] = observer.on_state(np.zeros(4), 0.0)
    assert snapshot.request.sequence == 0
    assert observer.counters["request_far_ahead"] == 1


def test_a_monitor_neither_follows_a_forged_state_nor_begins_what_the_executor_would_not_take() -> None:
    monitor = Monitor(MonitorOptions(), last_episode=NOW_NUMBER)
    monitor.on_context(ContextReady(FORGED, 0, 4, 6), 0.0)
    monitor.on_execution_state(state(episode=FORGED), 0.0)
    assert monitor.counters.as_dict() == {"context_far_ahead": 1, "state_far_ahead": 1}
    with pytest.raises(ValueError, match=f"the executor is in episode {FORGED}, far ahead .* start the nodes"):
        monitor.start_episode(0.1, "open the drawer")
    monitor.on_execution_state(state(episode=NOW_NUMBER, mode=Mode.IDLE), 0.2)
    begun = monitor.start_episode(0.3, "open the drawer")[0]
    assert isinstance(begun, Episode) and begun.number == NOW_NUMBER + 1


def test_no_episode_begins_behind_the_largest_number() -> None:
    monitor = Monitor(MonitorOptions(), last_episode=LARGEST_EPISODE)
    with pytest.raises(ValueError, match="start the nodes of the robot again"):
        monitor.start_episode(0.0, "open the drawer")
