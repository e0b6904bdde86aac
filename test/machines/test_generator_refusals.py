"""The generator: what ends a flow, what it drops and counts, and what it forgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rig import Rig
from runtime_cases import ACTS, EPISODE, context, state

from streaming_vla.machines.credits import SPARE_STEPS
from streaming_vla.machines.events import ContextReady, Episode, GeneratedAction, Mode
from streaming_vla.machines.flows import REQUESTS_KEPT
from streaming_vla.machines.generator import LOST_AFTER_S
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.lead import UNKNOWN_AHEAD

OPTIONS = GeneratorOptions(**ACTS, lead_actions=1, generate_timeout_s=0.2, trained_delay=4)
AHEAD, SPARE = UNKNOWN_AHEAD, SPARE_STEPS  # nothing is known of how long actions take


BAD = [
    ({"accepted": False, "values": np.zeros(0), "code": "no_context"}, "generate_refused"),
    ({"values": np.array([0.1, np.nan, 0.1])}, "generated_not_finite"),
    ({"values": np.array([0.1, np.inf, 0.1])}, "generated_not_finite"),
    ({"values": np.array([0.1, 0.1])}, "generated_wrong_shape"),
    ({"values": np.zeros(0)}, "generated_wrong_shape"),
    ({"values": np.zeros((3, 1))}, "generated_wrong_shape"),
    ({"step": 1}, "generated_out_of_order"),
]


@pytest.mark.parametrize("release", ["stream", "chunk"])
@pytest.mark.parametrize(("what", "reason"), BAD, ids=[f"{reason} {number}" for number, (_, reason) in enumerate(BAD)])
def test_a_bad_action_ends_the_flow(release: str, what: dict[str, object], reason: str) -> None:
    rig = Rig(OPTIONS.changed(release=release))
    rig.context(0)
    assert rig.refuse(0, **what) == []
    assert rig.generator.counters.as_dict() == {reason: 1}
    assert rig.says() == [] and rig.generator.deadline() is None
    rig.context(1)
    assert (rig.request.context, rig.request.step) == (1, 0)


@pytest.mark.parametrize(("what", "reason"), BAD, ids=[f"{reason} {number}" for number, (_, reason) in enumerate(BAD)])
def test_a_bad_action_of_a_context_to_come_lets_the_old_one_go_on(what: dict[str, object], reason: str) -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.play(0, 1)
    rig.picture(1)
    rig.context(1)
    rig.refuse(1, **what)
    assert rig.generator.counters.as_dict() == {reason: 1}
    rig.play(0, 2)
    assert rig.sent() == [(0, index) for index in range(3)]


def test_a_bad_action_hands_over_at_once_when_a_newer_context_is_there() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0)
    rig.context(1)
    rig.answer(1)
    rig.refuse(0, accepted=False)
    rig.begin()
    assert rig.sent() == [(0, 0), (1, 0)]


def test_an_action_that_never_comes_is_given_up() -> None:
    rig = Rig(OPTIONS)
    rig.now = 1.0
    rig.context(0)
    late = rig.next_action(0)
    assert rig.generator.deadline() == pytest.approx(1.2)
    rig.now = 1.19
    assert rig.poll() == []
    rig.now = 1.2
    assert rig.poll() == []
    assert rig.generator.counters["generate_timeout"] == 1
    assert rig.generator.deadline() is None
    rig.now = 1.3
    assert rig.arrive(late) == []
    assert rig.generator.counters["generated_outdated"] == 1
    rig.context(1)
    assert rig.request.context == 1


def test_an_action_after_its_time_is_not_played() -> None:
    """The process was paused: the action lies there before anybody has looked at the clock."""
    rig = Rig(OPTIONS)
    rig.now = 1.0
    rig.context(0)
    rig.now = 3.5
    assert rig.answer(0) == []
    assert rig.generator.counters.as_dict() == {"generate_timeout": 1, "generated_outdated": 1}


def test_every_action_has_the_timeout_for_itself() -> None:
    rig = Rig(OPTIONS)
    rig.now = 1.0
    rig.context(0)
    for _ in range(4):
        rig.now += 0.15
        rig.answer(0)
        rig.begin()
    assert rig.generator.counters.as_dict() == {}
    assert rig.generator.deadline() == pytest.approx(rig.now + 0.2)


def test_a_context_to_come_is_not_waited_for_its_first_action_is() -> None:
    rig = Rig(OPTIONS)
    rig.now = 1.0
    rig.picture(0)
    assert rig.generator.deadline() is None
    rig.now = 4.0
    assert rig.poll() == []
    rig.context(0)
    assert rig.generator.deadline() == pytest.approx(4.2)
    rig.now = 4.2
    rig.poll()
    assert rig.generator.counters["generate_timeout"] == 1


def test_unexpected_actions_are_dropped() -> None:
    rig = Rig(OPTIONS)
    rig.arrive(GeneratedAction(7, 0, 1, 0, True, np.zeros(3)))
    rig.context(0)
    first = rig.next_action(0)
    for wrong in (replace(first, revision=9), replace(first, context=3, revision=8), replace(first, episode=6)):
        assert rig.arrive(wrong) == []
    assert rig.generator.counters.as_dict() == {"generated_unexpected": 4}
    rig.arrive(first)
    assert len(rig.actions) == 1
    rig.answer_all(0)
    rig.model[0].until += 1  # a model that sends what was not granted
    rig.answer(0)
    assert rig.generator.counters["generated_outdated"] == 1, "of the revision that is followed, but not granted"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (context(3, episode=6), "context_other_episode"),
        (context(3, episode=8), "context_other_episode"),
        (context(2), "context_not_newer"),
        (context(1), "context_not_newer"),
        (context(3, horizon=0), "context_bad_horizon"),
        (context(3, horizon=7, trained=6), "context_bad_horizon"),
    ],
)
def test_contexts_that_do_not_count(wrong: ContextReady, reason: str) -> None:
    rig = Rig(OPTIONS)
    rig.context(2)
    assert rig.context(wrong) == []
    assert rig.generator.counters.as_dict() == {reason: 1}


def asked_for(rig: Rig, sequence: int, at_s: float) -> None:
    """Let the generator hear at a time that observation `sequence` is asked for."""
    rig.now = at_s
    rig.picture(sequence)


@pytest.mark.parametrize(("age_s", "taken"), [(4.9, True), (5.1, False)])
def test_a_context_of_a_request_of_long_ago_is_refused(age_s: float, taken: bool) -> None:
    rig = Rig(OPTIONS)
    asked_for(rig, 0, 1.0)
    rig.now += age_s
    rig.context(0)
    rig.arrive(rig.next_action(0))
    assert bool(rig.actions) == taken
    expected = {} if taken else {"context_too_old": 1, "generated_outdated": 1}
    assert rig.generator.counters.as_dict() == expected
    asked_for(rig, 1, 7.0)  # a younger one is not in its shadow
    rig.context(1)
    assert rig.generator.counters["context_not_newer"] == 0


def test_a_context_whose_request_was_not_heard_counts_as_new() -> None:
    rig = Rig(OPTIONS)
    asked_for(rig, 0, 1.0)
    rig.now = 99.0
    rig.context(1)
    assert rig.request.context == 1 and rig.generator.counters.as_dict() == {}


def test_a_context_that_waits_for_too_long_does_not_take_over() -> None:
    """The executor begins nothing meanwhile, as while the robot is silent."""
    rig = Rig(OPTIONS.changed(generate_timeout_s=9.0))
    rig.now = 1.0
    rig.context(0)
    rig.answer(0)
    rig.answer(0)
    asked_for(rig, 1, 1.0)
    rig.context(1)
    rig.answer(1)
    assert len(rig.actions) == 1, "an action waits at the executor"
    rig.now = 6.1
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1)]
    assert rig.generator.counters.as_dict() == {"context_too_old": 1}


def test_the_largest_age_of_a_context_is_live_and_of_the_newest_episode() -> None:
    rig = Rig(OPTIONS)
    asked_for(rig, 0, 1.0)
    rig.generator.update(OPTIONS.changed(max_context_age_s=10.0))
    rig.now = 7.0
    rig.context(0)
    assert rig.generator.counters.as_dict() == {}
    rig.generator.update(OPTIONS)
    rig.take(rig.generator.on_episode(Episode(8, active=True), 8.0))
    rig.now = 9.0
    rig.context(context(0, episode=8))
    assert rig.generator.counters.as_dict() == {} and rig.request.episode == 8


def test_the_times_of_the_newest_requests_only_are_remembered() -> None:
    rig = Rig(OPTIONS)
    for sequence in range(REQUESTS_KEPT + 1):
        asked_for(rig, sequence, 1.0)
    rig.now = 9.0
    rig.context(1)  # the oldest that is remembered
    assert rig.generator.counters["context_too_old"] == 1
    rig.context(0)
    assert rig.generator.counters["context_too_old"] == 1 and rig.request.context == 0


def test_nothing_happens_outside_of_an_episode() -> None:
    rig = Rig(OPTIONS, episode=False)
    assert rig.context(0) == [] and rig.picture(0) == []
    rig.take(rig.generator.on_episode(EPISODE, 0.0))
    rig.context(0)
    action = rig.next_action(0)
    rig.take(rig.generator.on_episode(replace(EPISODE, active=False), 0.0))
    assert rig.arrive(action) == [] and rig.says() == [] and rig.picture(1) == []
    assert rig.generator.deadline() is None


def test_an_episode_change_clears_everything() -> None:
    rig = Rig(OPTIONS)
    rig.context(5)
    rig.answer(5)
    old = rig.next_action(5)
    rig.context(6)
    rig.picture(7)
    rig.take(rig.generator.on_episode(Episode(8, active=True), 0.0))
    assert rig.generator.deadline() is None
    rig.context(context(0, episode=8))
    assert rig.request.position == pytest.approx([0.0, 0.0, -1.0]), "the gripper starts as the robot does"
    assert (rig.request.episode, rig.request.context) == (8, 0)
    before = len(rig.actions)
    rig.arrive(old)
    assert len(rig.actions) == before


def test_an_episode_sent_again_changes_nothing() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.take(rig.generator.on_episode(replace(EPISODE, instruction="close it"), 0.0))
    rig.take(rig.generator.on_episode(Episode(6, active=True), 0.0))
    rig.answer(0)
    assert len(rig.actions) == 1
    assert rig.generator.counters.as_dict() == {"old_episode": 1}


def test_actions_that_never_reached_the_executor_are_given_up() -> None:
    rig = Rig(OPTIONS.changed(generate_timeout_s=9.0))
    rig.now = 1.0
    rig.context(0)
    rig.answer(0)
    rig.says()
    rig.now = 1.1
    rig.context(1)
    rig.answer(1)
    assert rig.generator.deadline() == pytest.approx(1.0 + LOST_AFTER_S)
    rig.now = 1.0 + LOST_AFTER_S - 0.01
    assert rig.poll() == []
    rig.now = 1.0 + LOST_AFTER_S
    rig.poll()
    assert rig.sent() == [(0, 0), (1, 0)]
    assert rig.generator.counters["action_lost"] == 1


@pytest.mark.parametrize("alive", [state(Mode.WAITING, queue_depth=1), state(Mode.PLAYING, context=0, index=0)])
def test_actions_are_not_lost_while_the_executor_has_something(alive: object) -> None:
    rig = Rig(OPTIONS.changed(lead_actions=2))
    rig.now = 1.0
    rig.context(context(0, horizon=2, trained=2))
    rig.answer(0)
    rig.answer(0)
    rig.take(rig.generator.on_execution_state(alive, 1.0))  # type: ignore[arg-type]
    assert rig.generator.deadline() is None
    rig.now = 9.0
    assert rig.poll() == []
    assert rig.generator.counters.as_dict() == {}


def test_an_action_for_a_flow_that_was_given_up_is_not_sent() -> None:
    rig = Rig(OPTIONS.changed(lead_actions=2, generate_timeout_s=5.0))
    rig.now = 1.0
    rig.context(0)
    rig.answer(0)
    late = rig.next_action(0)
    rig.says()
    rig.now = 1.0 + LOST_AFTER_S
    rig.poll()
    rig.now = 1.6
    assert rig.arrive(late) == []
    assert rig.generator.counters.as_dict() == {"action_lost": 1, "generated_outdated": 1}


def test_a_generator_that_was_restarted_keeps_the_absolute_dimensions() -> None:
    rig = Rig(OPTIONS)
    rig.says(Mode.HOLD, context=3, index=9, executed=40)
    rig.context(4)
    assert rig.request.position == pytest.approx([0.0, 0.0, 0.25])


def test_live_options_hold_from_the_next_action_on() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0)
    rig.answer(0)
    rig.generator.update(OPTIONS.changed(lead_actions=2))
    rig.says(queue_depth=1)
    assert rig.sent() == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("release", "both"), ("lead_actions", -1), ("generate_timeout_s", 0.0), ("max_context_age_s", 0.0)],
)
def test_options_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        OPTIONS.changed(**{name: value})
