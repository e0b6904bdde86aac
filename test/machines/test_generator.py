"""The generator: which steps it grants, which actions it sends, and what ends a flow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rig import Rig
from runtime_cases import ACTS, EPISODE, context, state

from streaming_vla.machines.credits import SPARE_STEPS
from streaming_vla.machines.events import Action, ContextReady, Episode, GeneratedAction, GenerateRequest, Mode
from streaming_vla.machines.flows import CANDIDATES, REQUESTS_KEPT
from streaming_vla.machines.generator import LOST_AFTER_S
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.lead import UNKNOWN_AHEAD

OPTIONS = GeneratorOptions(**ACTS, lead_actions=1, generate_timeout_s=0.2, trained_delay=4)
AHEAD, SPARE = UNKNOWN_AHEAD, SPARE_STEPS  # nothing is known of how long actions take


def test_an_action_is_sent_the_moment_it_exists() -> None:
    rig = Rig(OPTIONS)
    [request] = rig.context(context(0, horizon=10, trained=20))
    assert isinstance(request, GenerateRequest)
    assert (request.episode, request.context, request.step, request.until) == (7, 0, 0, AHEAD + SPARE)
    assert request.position == pytest.approx([0.0, 0.0, -1.0])
    rig.answer(0)
    [action] = rig.actions
    assert (action.episode, action.context, action.index, action.flow_time, action.more) == (7, 0, 0, 0.0, True)
    assert action.values == pytest.approx([0.1, 0.2, 0.3])


def test_the_next_action_waits_until_the_executor_has_begun_the_last_one() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0)
    rig.answer(0)
    assert rig.says(queue_depth=1) == [] and len(rig.actions) == 1
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1)]


def test_lead_actions_are_sent_ahead() -> None:
    rig = Rig(OPTIONS.changed(lead_actions=3))
    rig.context(0)
    for _ in range(5):
        rig.answer(0)
    assert rig.sent() == [(0, 0), (0, 1), (0, 2)]
    rig.begin()
    assert rig.sent()[3:] == [(0, 3)]


def test_steps_are_granted_one_by_one_as_actions_begin() -> None:
    rig = Rig(OPTIONS)
    for _ in range(9):
        rig.generator.learn(0.06)  # an action lasts 0.05
    rig.context(context(0, horizon=50, trained=50))
    rig.answer_all(0)
    for _ in range(4):  # some spare steps were granted to it while it was to come
        rig.begin()
    rig.answer_all(0)
    rig.begin()
    rig.requests.clear()
    for _ in range(10):
        rig.now += 0.06
        rig.answer_all(0)
        rig.begin()
    assert all(request.until - request.step == 1 for request in rig.requests) and len(rig.requests) == 10
    assert len({request.revision for request in rig.requests}) == 1, "the model follows the flow by itself"
    assert rig.request.position == pytest.approx([0.1 * rig.request.step, 0.2 * rig.request.step, 0.3])


@pytest.mark.parametrize(("overrun", "expected"), [(True, 6), (False, 4)])
def test_the_horizon_ends_a_context(overrun: bool, expected: int) -> None:
    rig = Rig(OPTIONS.changed(overrun=overrun))
    rig.context(0)
    rig.play(0, expected)
    assert rig.owed(0) == 0
    assert rig.sent() == [(0, index) for index in range(expected)]
    assert [action.more for action in rig.actions] == [True, True, True, False, False, False][:expected]
    assert [action.flow_time for action in rig.actions] == pytest.approx([index / 6 for index in range(expected)])
    assert rig.generator.counters["overrun"] == max(0, expected - 4)
    assert rig.generator.deadline() is None


def test_a_newer_context_takes_over_with_the_sum_at_zero() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.play(0, 2)
    rig.context(1)
    assert (rig.request.context, rig.request.step) == (1, 0)
    assert rig.request.position == pytest.approx([0.0, 0.0, 0.3]), "sums begin anew, the gripper stays as it is"
    rig.answer(0)
    rig.begin()
    rig.answer(0)
    rig.answer(1)
    assert rig.sent()[2:] == [(0, 2), (0, 3)], "it was not there when there was room"
    rig.begin()
    assert rig.sent()[4:] == [(1, 0)]


def test_what_the_old_context_gave_and_was_not_sent_is_dropped_and_counted() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0)
    rig.answer(0)
    late = rig.next_action(0)
    rig.context(1)
    rig.answer(1)
    rig.begin()
    assert rig.sent() == [(0, 0), (1, 0)]
    assert rig.generator.counters.as_dict() == {"action_superseded": 1}
    rig.arrive(late)
    assert rig.generator.counters.as_dict() == {"action_superseded": 1, "generated_outdated": 1}
    assert len(rig.actions) == 2


def test_a_newer_context_is_preferred_to_overrun() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.play(0, 3)
    rig.answer(0)
    rig.context(1)
    rig.answer(1)
    rig.begin()
    assert rig.sent()[-2:] == [(0, 3), (1, 0)]
    assert rig.generator.counters["overrun"] == 0


def test_only_the_newest_of_waiting_contexts_is_used() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.play(0, 1)
    rig.answer(0)
    rig.context(1)
    rig.context(4)
    rig.answer(4)
    rig.begin()
    assert rig.sent()[-1] == (4, 0)
    assert rig.generator.counters["context_superseded"] == 1


def test_values_are_clipped_and_the_flow_goes_on_from_what_was_sent() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    first = rig.request
    rig.answer(0, (3.0, -3.0, 0.5))
    assert rig.actions[0].values == pytest.approx([1.0, -1.0, 0.5])
    assert (rig.request.context, rig.request.step) == (0, 1) and rig.request.revision > first.revision
    assert rig.request.position == pytest.approx([1.0, -1.0, 0.5])


def test_chunk_sends_everything_at_once_and_never_overruns() -> None:
    rig = Rig(OPTIONS.changed(release="chunk"))
    [request] = rig.context(0)
    assert isinstance(request, GenerateRequest) and (request.step, request.until) == (0, 4)
    for _ in range(3):
        assert rig.answer(0) == []
    actions = rig.answer(0)
    assert [action.index for action in actions if isinstance(action, Action)] == [0, 1, 2, 3] and len(actions) == 4
    for _ in range(4):
        assert rig.begin() == []
    assert rig.generator.deadline() is None


def test_a_chunk_is_asked_for_when_the_one_before_it_is_out() -> None:
    rig = Rig(OPTIONS.changed(release="chunk"))
    assert rig.picture(0) == [], "nothing is granted ahead"
    rig.context(context(0, horizon=2))
    rig.answer(0)
    assert rig.picture(1) == [] and rig.context(context(1, horizon=2)) == []
    *actions, request = rig.answer(0)
    assert [action.context for action in actions if isinstance(action, Action)] == [0, 0]
    assert isinstance(request, GenerateRequest) and (request.context, request.step) == (1, 0)


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


# contexts to come


def test_the_first_steps_are_granted_with_the_picture() -> None:
    rig = Rig(OPTIONS)
    [first] = rig.picture(0)
    assert isinstance(first, GenerateRequest)
    assert (first.context, first.step, first.until) == (0, 0, AHEAD + SPARE)
    rig.context(context(0, horizon=10, trained=20))
    rig.answer(0)
    assert rig.sent() == [(0, 0)]
    [second] = rig.picture(1)
    assert isinstance(second, GenerateRequest)
    assert (second.context, second.step, second.until) == (1, 0, AHEAD + SPARE)
    assert second.revision > first.revision


def test_first_actions_may_come_before_their_context_and_wait_for_it() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0)
    rig.picture(1)
    rig.answer(1)
    rig.begin()
    rig.answer(0)
    assert rig.sent() == [(0, 0), (0, 1)]
    rig.context(1)
    rig.begin()
    assert rig.sent()[2:] == [(1, 0)]


def test_a_flow_to_come_begins_anew_when_the_gripper_has_moved_and_not_when_it_hardly_has() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0, (0.1, 0.1, 0.5))
    [first] = rig.picture(1)
    assert isinstance(first, GenerateRequest)
    rig.answer(0, (0.1, 0.1, 0.53))
    assert [r for r in rig.begin() if isinstance(r, GenerateRequest) and r.context == 1] == [], "0.03 of 2"
    rig.answer(0, (0.1, 0.1, 0.55))
    [again] = [r for r in rig.begin() if isinstance(r, GenerateRequest) and r.context == 1]
    assert (again.revision > first.revision, again.step, again.until) == (True, 0, first.until)
    assert again.position == pytest.approx([0.0, 0.0, 0.55])
    stale = replace(rig.next_action(1), revision=first.revision)
    rig.context(1)
    assert rig.arrive(stale) == [] and rig.generator.counters["generated_outdated"] == 1


def test_a_flow_that_begun_from_an_outdated_gripper_is_begun_again() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0, (0.1, 0.1, 0.5))
    rig.picture(1)
    rig.context(1)
    rig.answer(1)
    rig.answer(0, (0.1, 0.1, -0.5))  # too late: the new one has been asked
    rig.generator.update(OPTIONS.changed(lead_actions=2))
    rig.says(queue_depth=1)
    assert rig.sent() == [(0, 0), (1, 0)], "it was there first"
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0, (0.1, 0.1, 0.5))
    rig.answer(0, (0.1, 0.1, -0.5))
    rig.picture(1)
    rig.begin()
    before = rig.model[1].revision
    rig.context(1)
    rig.answer(1)
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1), (1, 0)] and rig.model[1].revision == before


def late(rig: Rig, sequence: int, actions: int) -> None:
    """Play actions of context 0 since the picture of an observation was taken."""
    rig.picture(sequence)
    rig.play(0, actions)


@pytest.mark.parametrize(("delay", "skipped"), [(1, 0), (2, 1), (3, 2)])
def test_a_context_that_takes_over_late_skips_the_actions_that_are_over(delay: int, skipped: int) -> None:
    """Trained to begin at the second action behind its picture: there are spare steps, so nothing is asked again."""
    rig = Rig(OPTIONS.changed(trained_delay=2))
    rig.context(context(0, horizon=4, trained=10))
    rig.answer(0)
    rig.begin()
    rig.answer(0)
    rig.picture(1)
    asked = len(rig.requests)
    rig.context(context(1, horizon=4, trained=10))
    for _ in range(delay - 1):
        rig.answer(0)
        rig.begin()
    for number in range(skipped + 1):
        rig.answer(1, (number / 10, 0.0, 0.3))
    rig.begin()
    assert rig.sent()[-1] == (1, 0)
    assert rig.actions[-1].values[0] == pytest.approx(skipped / 10)
    assert rig.actions[-1].flow_time == pytest.approx(skipped / 10)
    assert {r.revision for r in rig.requests[asked:] if r.context == 1} <= {rig.model[1].revision}
    assert rig.generator.counters["flow_begun_late"] == int(skipped > 0)
    assert rig.generator.counters["flow_begun_again"] == 0


def test_the_action_that_fits_is_waited_for_when_it_is_on_its_way() -> None:
    rig = Rig(OPTIONS.changed(trained_delay=2))
    rig.context(context(0, horizon=4, trained=10))
    rig.play(0, 1)
    rig.answer(0)
    rig.picture(1)
    rig.context(context(1, horizon=4, trained=10))
    rig.answer(0)
    rig.answer(1, (0.0, 0.0, 0.3))
    rig.generator.update(OPTIONS.changed(trained_delay=1))
    asked = len(rig.requests)
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1), (0, 2)], "step 0 of the new context is over, step 1 is on its way"
    assert not [request for request in rig.requests[asked:] if request.context == 1]
    rig.answer(1, (0.1, 0.0, 0.3))
    rig.answer(1, (0.2, 0.0, 0.3))
    rig.begin()
    assert rig.sent()[3:] == [(1, 0)] and rig.actions[-1].values[0] == pytest.approx(0.2)
    assert rig.generator.counters["flow_begun_again"] == 0


def test_a_context_that_is_later_than_its_spare_steps_is_begun_again() -> None:
    """Its first action came in time, the next ones come more slowly than the executor plays."""
    rig = Rig(OPTIONS.changed(trained_delay=2))
    for _ in range(9):
        rig.generator.learn(0.01)  # one action ahead is enough
    rig.context(context(0, horizon=4, trained=16))
    rig.play(0, 1)
    rig.answer_all(0)
    rig.picture(1)
    rig.context(context(1, horizon=4, trained=16))
    assert rig.owed(1) == 1 + SPARE
    for number in range(4):
        if number == 2:
            rig.answer(1)
        rig.begin()
        rig.answer_all(0)
        assert rig.generator.counters["flow_begun_again"] == int(number >= 3)
    again = next(request for request in reversed(rig.requests) if request.context == 1)
    assert again.step == rig.model[1].step and rig.sent()[-1][0] == 0, "the old one goes on meanwhile"
    assert again.position[0] == pytest.approx(0.1 * again.step), "with the sum of what was skipped"
    for _ in range(2):  # the old context has given one action more since then
        rig.answer(1)
    rig.begin()
    assert rig.sent()[-1] == (1, 0) and rig.actions[-1].flow_time == pytest.approx((again.step + 1) / 16)


def test_no_more_is_granted_than_the_first_context_turns_out_to_have() -> None:
    rig = Rig(OPTIONS)
    rig.picture(0)
    assert rig.owed(0) == AHEAD + SPARE
    for _ in range(5):
        rig.answer(0)
    rig.context(context(0, horizon=2, trained=3))
    assert rig.sent() == [(0, 0)] and rig.generator.deadline() is None, "nothing more is waited for"
    for _ in range(3):
        rig.begin()
    assert rig.sent() == [(0, 0), (0, 1), (0, 2)]


def test_a_robot_state_that_is_not_finite_is_counted_and_not_sent_on() -> None:
    rig = Rig(OPTIONS)
    rig.take(rig.generator.on_robot_state(np.array([1.0, 2.0]), 0.0))
    rig.take(rig.generator.on_robot_state(np.array([1.0, np.nan]), 0.0))
    rig.context(0)
    assert rig.request.state is not None and rig.request.state.tolist() == [1.0, 2.0]
    assert rig.generator.counters.as_dict() == {"robot_state_not_finite": 1}


def spread(rig: Rig) -> None:
    """Let it be known that actions take from 0.5 to 3 control periods to come."""
    for number in range(20):
        rig.generator.learn((0.5 if number % 2 else 3.0) * OPTIONS.control_period_s)


def test_a_context_takes_over_once_what_has_come_outlasts_a_delay_on_the_way() -> None:
    rig = Rig(OPTIONS)
    spread(rig)
    rig.context(context(0, horizon=8, trained=16))
    rig.answer_all(0)
    rig.begin()
    rig.picture(1)
    rig.context(context(1, horizon=8, trained=16))
    for number in range(2):
        rig.answer(1)
        rig.begin()
        assert rig.sent()[-1][0] == 0, f"{number + 1} of it would not last for 2.5 periods, and the old one has more"
    rig.answer(1)
    rig.begin()
    assert rig.sent()[-1] == (1, 0)


def test_a_context_takes_over_with_what_there_is_when_the_arm_would_stop() -> None:
    rig = Rig(OPTIONS.changed(overrun=False))
    spread(rig)
    rig.context(context(0, horizon=2, trained=2))
    rig.answer_all(0)
    rig.begin()
    rig.context(context(1, horizon=8, trained=16))
    rig.answer(1)
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1), (1, 0)]


def test_an_episode_begins_once_what_has_come_outlasts_a_delay_on_the_way() -> None:
    rig = Rig(OPTIONS)
    spread(rig)
    rig.context(context(0, horizon=8, trained=16))
    for _ in range(2):
        rig.answer(0)
    assert rig.sent() == []
    rig.answer(0)
    assert rig.sent() == [(0, 0)]


def test_contexts_to_come_are_bounded_but_one_that_is_there_is_used_however_many_are_asked_for() -> None:
    rig = Rig(OPTIONS)
    for sequence in range(CANDIDATES + 2):
        rig.picture(sequence)
    for sequence in range(2):
        rig.answer(sequence)
    assert rig.generator.counters["generated_outdated"] == 2, "they are not to come any more"
    rig.context(0)
    rig.answer(0)
    assert rig.sent() == [(0, 0)]
    rig.answer(2)
    rig.context(2)
    rig.begin()
    assert rig.sent() == [(0, 0), (2, 0)]


def test_a_context_whose_candidate_was_dropped_is_asked_for_again() -> None:
    rig = Rig(OPTIONS)
    rig.picture(0)
    rig.refuse(0, accepted=False)
    rig.context(0)
    rig.answer(0)
    assert rig.sent() == [(0, 0)]


def test_requests_carry_the_robots_newest_state_and_its_age() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    assert rig.request.state is None and np.isnan(rig.request.state_age_s)
    rig.now = 1.0
    assert rig.take(rig.generator.on_robot_state(np.array([1.0, 2.0]), rig.now)) == []
    rig.answer(0)
    rig.now = 1.03
    rig.picture(1)
    assert rig.request.state is not None and rig.request.state.tolist() == [1.0, 2.0]
    assert rig.request.state_age_s == pytest.approx(0.03)
    rig.take(rig.generator.on_episode(Episode(8, active=True), 1.05))
    rig.now = 1.05
    rig.context(context(0, episode=8))
    assert rig.request.state is not None and rig.request.state_age_s == pytest.approx(0.05)


def test_a_picture_comes_with_what_is_planned_behind_it() -> None:
    rig = Rig(OPTIONS.changed(lead_actions=2))
    rig.picture(0)
    assert rig.request.planned is not None and rig.request.planned.shape == (0, 3) and rig.request.delay == 0
    rig.context(context(0, horizon=4, trained=9))
    for _ in range(5):
        rig.answer(0, lambda step: (step / 10, 0.0, 0.3))
    rig.begin()
    rig.picture(1)
    planned = rig.request.planned
    assert planned is not None
    assert planned[:, 0] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4]), "being played, sent, and come but not sent"
    rig.context(context(1, horizon=4, trained=9))
    rig.answer_all(1)
    rig.begin()
    assert rig.sent()[-1] == (1, 0)
    rig.picture(2)
    assert rig.request.delay == 3, "context 1 took over three actions behind its picture"
    told = [request.context for request in rig.requests if request.planned is not None]
    assert told == [0, 1, 2], "with each picture, and never again"


def chunk(sequence: int, rows: int = 8) -> ContextReady:
    """Return a context whose rows belong to fixed times."""
    return ContextReady(7, sequence, 4, rows, chunk=True)


def test_a_chunk_is_granted_whole_and_takes_over_at_the_row_that_fits() -> None:
    rig = Rig(OPTIONS)
    rig.context(chunk(0))
    assert (rig.request.step, rig.request.until) == (0, 8)
    rig.answer_all(0, lambda row: (row / 10, 0.0, 0.3 + row / 20))
    rig.begin()
    [asked] = rig.picture(1)
    assert isinstance(asked, GenerateRequest)
    assert (asked.step, asked.until) == (2, 8), "row 0 is being played when the picture is taken, row 1 is sent"
    assert asked.planned is not None and len(asked.planned) == 8, "all rows are there"
    for _ in range(3):
        rig.begin()
    rig.context(chunk(1))
    rig.answer_all(1, lambda row: (row / 10, 0.5, 0.3))
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]
    assert rig.actions[-1].values == pytest.approx([0.5, 0.5, 0.3]), "row 5 belongs to now: five lie behind the picture"
    assert rig.model[1].revision == asked.revision, "its rows were granted with the picture"


def test_of_a_chunk_that_is_all_over_the_last_row_is_played() -> None:
    rig = Rig(OPTIONS)
    rig.context(chunk(0, rows=12))
    rig.answer_all(0, lambda row: (row / 20, 0.0, 0.3))
    rig.begin()
    rig.picture(1)
    for _ in range(9):
        rig.begin()
    rig.context(chunk(1, rows=6))
    rig.answer_all(1, (0.5, 0.0, 0.3))
    rig.begin()
    assert rig.sent()[-1] == (1, 0) and rig.actions[-1].flow_time == pytest.approx(5 / 6)


def test_rows_that_have_come_are_played_wherever_the_gripper_is() -> None:
    """Nobody told of its picture, so nothing is skipped."""
    rig = Rig(OPTIONS)
    rig.context(chunk(0))
    rig.answer_all(0, lambda row: (0.0, 0.0, row / 10))
    rig.context(chunk(1))
    asked = rig.model[1].revision
    rig.begin()
    rig.answer_all(1, (0.0, 0.0, -1.0))
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1), (1, 0)] and rig.model[1].revision == asked
    assert rig.generator.counters["flow_begun_again"] == 0


def test_a_chunk_begins_nothing_anew_because_the_gripper_has_moved() -> None:
    rig = Rig(OPTIONS)
    rig.context(chunk(0))
    rig.answer_all(0, lambda row: (0.0, 0.0, row / 10))
    rig.begin()
    [asked] = rig.picture(1)
    assert isinstance(asked, GenerateRequest)
    for _ in range(2):
        assert not [r for r in rig.begin() if isinstance(r, GenerateRequest)]
    assert rig.model[1].revision == asked.revision
