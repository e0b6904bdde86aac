"""The monitor: when it asks for an observation, with which reason, and how it takes an episode over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from runtime_cases import ACTS, context, only, state

from streaming_vla.machines.events import Episode, ExecutionState, Mode, ObserveRequest, Reason
from streaming_vla.machines.monitor import ADOPTION_GAP, Monitor, MonitorEffect
from streaming_vla.machines.monitor_options import MonitorOptions

OPTIONS = MonitorOptions(
    **ACTS,
    mode="always",
    early_actions=2,
    lead_actions=1,
    control_period_s=0.05,
    max_silence_s=5.0,
    request_timeout_s=1.0,
    warm_up_contexts=0,
)


def started(options: MonitorOptions = OPTIONS) -> Monitor:
    """Return a monitor that has just begun episode 7."""
    monitor = Monitor(options, last_episode=6)
    monitor.start_episode(0.0, "open the drawer")
    return monitor


def played(options: MonitorOptions = OPTIONS) -> Monitor:
    """Return a monitor whose first context is played: action 0 of 4."""
    monitor = started(options)
    assert monitor.on_context(context(0), 0.1) == []
    assert monitor.on_execution_state(state(context=0, index=0, executed=1), 0.1) == []
    return monitor


def reasons(effects: list[MonitorEffect]) -> list[tuple[int, Reason]]:
    """Return sequence and reason of the requests."""
    return [(request.sequence, request.reason) for request in only(effects, ObserveRequest)]


def starved(context_sequence: int = 0, index: int = 3, mode: Mode = Mode.HOLD) -> ExecutionState:
    """Return the state of an executor that has nothing to execute."""
    return state(mode, context_sequence, index, executed=index + 1)


def test_an_episode_begins_with_an_observation() -> None:
    monitor = Monitor(OPTIONS, last_episode=6)
    assert monitor.episode is None
    assert monitor.deadline() is None
    episode, request = monitor.start_episode(0.0, " open the drawer ")
    assert episode == Episode(7, active=True, instruction="open the drawer") == monitor.episode
    assert isinstance(request, ObserveRequest)
    assert (request.episode, request.sequence, request.reason) == (7, 0, Reason.START)


def test_an_episode_takes_the_newest_instruction() -> None:
    monitor = Monitor(OPTIONS)
    with pytest.raises(ValueError, match="no instruction"):
        monitor.start_episode(0.0)
    monitor.on_instruction("close the window")
    assert monitor.start_episode(0.0, "  ")[0] == Episode(1, active=True, instruction="close the window")
    assert monitor.start_episode(1.0, "push")[0] == Episode(2, active=True, instruction="push")


def test_an_episode_ends_once() -> None:
    monitor = played()
    assert monitor.stop_episode(0.2) == [Episode(7, active=False, instruction="open the drawer")]
    assert monitor.stop_episode(0.2) == []
    assert monitor.deadline() is None
    assert monitor.poll(99.0) == []
    assert monitor.on_execution_state(starved(), 0.3) == []
    assert monitor.on_context(context(1), 0.3) == []


@pytest.mark.parametrize("mode", ["off", "always"])
def test_an_empty_queue_observes(mode: str) -> None:
    monitor = played(OPTIONS.changed(mode=mode))
    assert reasons(monitor.on_execution_state(starved(), 0.3)) == [(1, Reason.QUEUE_EMPTY)]


def test_nothing_is_asked_while_a_request_is_outstanding() -> None:
    monitor = played()
    monitor.on_execution_state(starved(), 0.3)
    assert monitor.on_execution_state(starved(), 0.4) == []
    assert monitor.poll(0.5) == []
    assert monitor.deadline() == pytest.approx(1.3)


def test_a_context_gets_time_to_be_played() -> None:
    monitor = played()
    monitor.on_execution_state(starved(), 0.3)
    assert monitor.on_context(context(1), 0.4) == []
    assert monitor.on_execution_state(starved(), 0.41) == []
    assert monitor.deadline() == pytest.approx(1.4)
    assert reasons(monitor.poll(1.4)) == [(2, Reason.QUEUE_EMPTY)]
    assert monitor.counters["context_not_played"] == 1


@pytest.mark.parametrize(("early", "first_index"), [(1, 3), (2, 2), (3, 1), (9, 0)])
def test_early_with_m_actions_left_the_one_that_begins_included(early: int, first_index: int) -> None:
    monitor = started(OPTIONS.changed(early_actions=early))
    monitor.on_context(context(0), 0.1)
    asked = []
    for index in range(4):
        asked += [
            (index, request.reason)
            for request in only(
                monitor.on_execution_state(state(context=0, index=index, executed=index + 1), 0.1), ObserveRequest
            )
        ]
    assert asked == [(first_index, Reason.EARLY)]


def test_off_is_never_early() -> None:
    monitor = played(OPTIONS.changed(mode="off"))
    for index in range(6):
        assert monitor.on_execution_state(state(context=0, index=index, executed=index + 1), 0.2) == []


def test_early_is_asked_when_the_context_comes_late_into_its_horizon() -> None:
    monitor = played()
    assert reasons(monitor.on_execution_state(state(context=0, index=5, executed=3), 0.3)) == [(1, Reason.EARLY)]


def test_rows_that_a_late_chunk_leaves_out_are_no_actions_that_are_left() -> None:
    """A checkpoint of LeRobot executes its whole chunk: its execution horizon never comes when it begins late."""
    monitor = started()
    monitor.on_context(replace(context(0, 6, 6), chunk=True), 0.1)
    for index in range(5):
        asked = monitor.on_execution_state(state(context=0, index=index, executed=index + 1), 0.1)
    assert reasons(asked) == [(1, Reason.EARLY)], "two actions are left"
    monitor.on_context(replace(context(1, 6, 6), chunk=True), 0.3)
    found = [
        reasons(monitor.on_execution_state(state(context=1, index=index, executed=8 + index), 0.3))
        for index in range(2)  # three rows were over when it took over, so three are played
    ]
    assert found == [[], [(2, Reason.EARLY)]], "two actions are left"


def test_the_old_context_does_not_count_once_there_is_a_newer_one() -> None:
    monitor = played()
    monitor.on_execution_state(state(context=0, index=2, executed=3), 0.2)
    monitor.on_context(context(1), 0.25)
    assert monitor.on_execution_state(state(context=0, index=3, executed=4), 0.25) == []
    assert monitor.on_execution_state(state(context=1, index=0, executed=5), 0.3) == []
    assert reasons(monitor.on_execution_state(state(context=1, index=2, executed=7), 0.4)) == [(2, Reason.EARLY)]


@pytest.mark.parametrize(
    ("observe_s", "lead", "expected"),
    [(0.0, 1, 3), (0.04, 1, 3), (0.05, 1, 4), (0.09, 1, 4), (0.09, 2, 5), (0.19, 1, 6)],
)
def test_m_is_chosen_from_the_measured_latencies(observe_s: float, lead: int, expected: int) -> None:
    """m = ceil((T_o + 0.01) / 0.05) actions, the one that begins and the lead."""
    monitor = started(OPTIONS.changed(early_actions=0, lead_actions=lead))
    monitor.on_context(context(0, horizon=10, trained=12), observe_s)
    for index in range(10):
        if monitor.on_execution_state(state(context=0, index=index, executed=index + 1), 0.3):
            assert 10 - index == expected
            return
    pytest.fail("no early observation")


def test_warm_up_contexts_do_not_count() -> None:
    monitor = started(OPTIONS.changed(early_actions=0, warm_up_contexts=1, request_timeout_s=9.0))
    monitor.on_context(context(0), 4.0)
    assert monitor.request_latency.smoothed_s is None
    monitor.on_execution_state(starved(), 5.0)
    monitor.on_context(context(1), 5.25)
    assert monitor.request_latency.smoothed_s == pytest.approx(0.25)


def test_maximum_silence_observes_in_every_mode() -> None:
    monitor = played(OPTIONS.changed(mode="off"))
    assert monitor.deadline() == pytest.approx(5.0)
    assert monitor.poll(4.9) == []
    assert reasons(monitor.poll(5.0)) == [(1, Reason.MAX_SILENCE)]


def test_maximum_silence_needs_no_executor() -> None:
    monitor = started()
    monitor.on_context(context(0), 0.1)
    assert reasons(monitor.poll(5.0)) == [(1, Reason.MAX_SILENCE)]


@pytest.mark.parametrize("reason", [Reason.START, Reason.QUEUE_EMPTY, Reason.EARLY, Reason.MAX_SILENCE])
def test_a_request_that_nothing_comes_of_is_asked_again(reason: Reason) -> None:
    if reason is Reason.START:
        monitor, asked_s = started(), 0.0
    else:
        monitor, asked_s = played(), 5.0 if reason is Reason.MAX_SILENCE else 0.3
    if reason is Reason.QUEUE_EMPTY:
        monitor.on_execution_state(starved(), asked_s)
    elif reason is Reason.EARLY:
        monitor.on_execution_state(state(context=0, index=2, executed=3), asked_s)
    elif reason is Reason.MAX_SILENCE:
        monitor.poll(asked_s)
    first = int(reason is not Reason.START)
    assert monitor.deadline() == pytest.approx(asked_s + 1.0)
    assert reasons(monitor.poll(asked_s + 1.0)) == [(first + 1, reason)]
    assert reasons(monitor.poll(asked_s + 2.0)) == [(first + 2, reason)]
    assert monitor.counters["request_timeout"] == 2


def test_an_early_request_that_failed_becomes_must_send_when_the_queue_is_dry() -> None:
    monitor = played()
    monitor.on_execution_state(state(context=0, index=2, executed=3), 0.3)
    assert monitor.on_execution_state(starved(), 0.4) == []
    assert reasons(monitor.poll(1.3)) == [(2, Reason.QUEUE_EMPTY)]


def test_the_context_of_a_request_that_was_given_up_is_used_but_answers_nothing() -> None:
    monitor = started()
    monitor.poll(1.0)
    assert monitor.on_context(context(0), 1.1) == []
    assert monitor.counters["context_late"] == 1
    assert monitor.deadline() == pytest.approx(2.0), "sequence 1 is still outstanding"
    assert monitor.on_context(context(1), 1.2) == []
    assert monitor.on_context(context(0), 1.2) == []
    assert monitor.counters["context_not_newer"] == 1


def test_nothing_is_asked_of_an_executor_that_takes_nothing() -> None:
    monitor = played()
    assert monitor.on_execution_state(starved(mode=Mode.IDLE), 0.3) == []
    assert monitor.deadline() is None
    assert monitor.poll(99.0) == []
    assert reasons(monitor.on_execution_state(state(Mode.WAITING), 99.0)) == [(1, Reason.QUEUE_EMPTY)]


def test_an_executor_that_was_restarted_gets_a_new_context_at_once() -> None:
    monitor = played()
    assert reasons(monitor.on_execution_state(state(Mode.WAITING), 0.2)) == [(1, Reason.QUEUE_EMPTY)]


def test_other_episodes_do_not_count() -> None:
    monitor = played()
    assert monitor.on_execution_state(replace(starved(), episode=6), 0.2) == []
    assert monitor.on_execution_state(replace(starved(), episode=8), 0.2) == []
    assert monitor.on_context(context(5, episode=6), 0.2) == []
    assert monitor.counters["state_other_episode"] == 2
    assert monitor.counters["context_other_episode"] == 1
    assert reasons(monitor.on_execution_state(starved(), 0.3)) == [(1, Reason.QUEUE_EMPTY)]


def test_numbers_are_above_everything_that_was_heard() -> None:
    monitor = Monitor(OPTIONS, last_episode=3)
    monitor.on_execution_state(state(Mode.IDLE, episode=20), 0.0)
    monitor.on_context(context(0, episode=30), 0.0)
    assert monitor.start_episode(0.0, "go")[0] == Episode(31, active=True, instruction="go")


def test_requests_carry_the_number_of_the_episode_that_runs() -> None:
    monitor = played()
    monitor.on_execution_state(replace(starved(), episode=50), 0.2)
    [request] = monitor.on_execution_state(starved(), 0.3)
    assert isinstance(request, ObserveRequest)
    assert request.episode == 7


def test_a_new_episode_clears_everything() -> None:
    monitor = played()
    monitor.on_execution_state(starved(), 0.3)
    effects = monitor.start_episode(0.4, "again")
    assert effects[0] == Episode(8, active=True, instruction="again")
    assert reasons(effects) == [(0, Reason.START)]
    assert monitor.on_context(context(0, episode=8), 0.5) == []
    assert monitor.on_execution_state(state(Mode.WAITING, episode=8), 0.5) == []


def test_a_monitor_that_was_restarted_adopts_the_episode() -> None:
    monitor = Monitor(OPTIONS, last_episode=100)
    monitor.on_instruction("close the drawer")  # what the robot is doing counts, not what was said since
    effects = monitor.on_execution_state(replace(starved(context_sequence=12), instruction="open the drawer"), 0.0)
    assert effects[0] == Episode(7, active=True, instruction="open the drawer")
    assert reasons(effects) == [(12 + ADOPTION_GAP, Reason.QUEUE_EMPTY)]
    assert monitor.start_episode(1.0)[0] == Episode(101, active=True, instruction="close the drawer")


def test_adoption_waits_for_the_actions_that_are_left() -> None:
    monitor = Monitor(OPTIONS)
    monitor.on_instruction("open the drawer")
    effects = monitor.on_execution_state(state(context=3, index=2, executed=3), 0.0)
    assert [type(effect) for effect in effects] == [Episode]
    assert reasons(monitor.on_execution_state(starved(3), 0.1)) == [(3 + ADOPTION_GAP, Reason.QUEUE_EMPTY)]


@pytest.mark.parametrize("mode", [Mode.IDLE, Mode.ERROR])
def test_what_is_over_is_not_adopted(mode: Mode) -> None:
    monitor = Monitor(OPTIONS)
    monitor.on_instruction("open the drawer")
    assert monitor.on_execution_state(state(mode), 0.0) == []
    assert monitor.episode is None


def test_what_is_known_to_be_over_is_not_adopted_from_a_late_state() -> None:
    monitor = Monitor(OPTIONS, ended=7)
    assert monitor.on_execution_state(starved(), 0.0) == []
    assert monitor.on_execution_state(replace(starved(), episode=8, instruction="go"), 0.1)[0].number == 8


def test_a_monitor_that_conducts_adopts_nothing() -> None:
    monitor = played()
    monitor.stop_episode(0.2)
    assert monitor.on_execution_state(replace(starved(), episode=9), 0.3) == []
    assert monitor.episode == Episode(7, active=False, instruction="open the drawer")


def test_live_mode_takes_effect_with_the_next_action() -> None:
    monitor = played(OPTIONS.changed(mode="off"))
    assert monitor.on_execution_state(state(context=0, index=2, executed=3), 0.2) == []
    monitor.update(OPTIONS)
    assert reasons(monitor.on_execution_state(state(context=0, index=3, executed=4), 0.25)) == [(1, Reason.EARLY)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "sometimes"),
        ("early_actions", -1),
        ("lead_actions", -1),
        ("control_period_s", 0.0),
        ("max_silence_s", -1.0),
        ("request_timeout_s", float("nan")),
        ("warm_up_contexts", -1),
    ],
)
def test_options_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        OPTIONS.changed(**{name: value})
