"""The generator: contexts to come, whose first steps are granted with the picture, and that take over late."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rig import Rig
from runtime_cases import ACTS, context

from streaming_vla.machines.credits import SPARE_STEPS
from streaming_vla.machines.events import Episode, GenerateRequest
from streaming_vla.machines.flows import CANDIDATES
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.lead import UNKNOWN_AHEAD

OPTIONS = GeneratorOptions(**ACTS, lead_actions=1, generate_timeout_s=0.2, trained_delay=4)
AHEAD, SPARE = UNKNOWN_AHEAD, SPARE_STEPS  # nothing is known of how long actions take


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
