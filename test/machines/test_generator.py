"""The generator: which steps it grants, which actions it sends, and when a newer context takes over."""

from __future__ import annotations

import pytest
from rig import Rig
from runtime_cases import ACTS, context

from streaming_vla.machines.credits import SPARE_STEPS
from streaming_vla.machines.events import Action, GenerateRequest
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
