"""What a robot grants: steps ahead, contexts to come, corrected states, and what ends a flow."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import SPEC, ToyPolicy, flow, served

from streaming_vla.engine.grants import CONTEXTS_TO_COME, Flow, Grants
from streaming_vla.machines.events import GenerateRequest

torch.set_num_threads(1)


def test_granted_steps_come_one_by_one_and_the_flow_follows_its_own_actions() -> None:
    policy = ToyPolicy()
    made = served(policy)
    made.prefilled(0, mark=100.0)
    request = made.ask(flow(0, step=1, steps=3, position=(0.5, -0.5)))
    came = []
    while made.engine.deadline() <= made.now:
        came.append(len([reply for reply in made.poll()]))
    assert came == [1, 1, 1], "each goes out when it exists"
    assert made.steps() == [(0, 1), (0, 2), (0, 3)]
    assert {action.revision for action in made.actions()} == {request.revision}
    assert [query.index for query in policy.queries] == [1, 2, 3]
    assert [(query.first, query.begun.tolist()) for query in policy.queries] == [(1, [0.5, -0.5])] * 3
    np.testing.assert_allclose(
        [query.position for query in policy.queries], [[0.5, -0.5], [0.6, 0.1], [0.7, 0.1]], rtol=1e-6
    )


def test_more_steps_of_the_same_revision_are_granted_and_none_is_done_twice() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    first = made.ask(flow(0, steps=2))
    made.finish()
    for until in (1, 2, 4, 3, 4):  # requests overtake each other on the way
        made.ask(replace(first, step=until - 1, until=until, position=np.array([9.0, 9.0])))
        made.finish()
    assert made.steps() == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert policy.queries[2].position[0] == pytest.approx(2e-3), "the service follows the flow by itself"


def test_more_steps_than_a_flow_has_are_granted_as_far_as_it_goes() -> None:
    made = served(ToyPolicy(), contexts=1)
    request = made.ask(flow(0, step=3, steps=99))
    made.finish()
    made.ask(replace(request, until=999))
    made.finish()
    assert made.steps() == [(0, 3), (0, 4)]


def test_first_actions_travel_with_the_context_that_they_were_granted_for() -> None:
    made = served(ToyPolicy(), contexts=1)
    request = made.ask(flow(1, steps=2))
    made.ask(flow(0, steps=1))
    made.finish()
    assert made.steps() == [(0, 0)], "the other one does not exist yet"
    made.replies.clear()
    made.prefilled(1)
    made.finish()
    assert made.report(1) is made.replies[0].value
    assert made.steps() == [(1, 0), (1, 1)]
    assert {action.revision for action in made.actions()} == {request.revision}


def test_first_actions_of_the_very_first_context_are_granted_before_there_is_a_session() -> None:
    made = served(ToyPolicy())
    made.ask(flow(0, episode=4))
    made.finish()
    assert made.replies == []
    made.prefilled(0, episode=4)
    assert made.steps() == [(0, 0)]


def test_contexts_to_come_are_bounded_the_newest_stay() -> None:
    made = served(ToyPolicy(), contexts=1)
    for context in range(1, CONTEXTS_TO_COME + 3):
        made.ask(flow(context))
    for context in range(1, CONTEXTS_TO_COME + 3):
        made.prefilled(context)
    assert made.steps() == [(context, 0) for context in range(3, CONTEXTS_TO_COME + 3)]


def test_the_newest_context_goes_first_and_going_on_with_it_ends_older_flows() -> None:
    made = served(ToyPolicy(), contexts=2)
    made.ask(flow(0, steps=5))
    newer = made.ask(flow(1, steps=1))
    made.poll()
    made.poll()
    assert made.steps() == [(1, 0), (0, 0)], "the robot may need the older one until it has taken over"
    made.ask(replace(newer, step=1, until=3))
    made.finish()
    assert made.steps() == [(1, 0), (0, 0), (1, 1), (1, 2)]


def test_a_context_that_does_not_exist_yet_ends_no_flow() -> None:
    made = served(ToyPolicy(), contexts=1)
    coming = made.ask(flow(1, steps=1))
    made.ask(flow(0, steps=5))
    made.poll()
    made.ask(replace(coming, until=2))
    made.finish()
    assert made.steps() == [(0, step) for step in range(5)]


def test_a_higher_revision_goes_on_from_the_corrected_state() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    made.ask(flow(0, steps=4, revision=1))
    made.poll()
    made.poll()
    made.ask(flow(0, step=2, steps=2, revision=2, position=(0.25, -0.25)))
    made.finish()
    assert [(a.revision, a.step) for a in made.actions()] == [(1, 0), (1, 1), (2, 2), (2, 3)]
    assert policy.queries[2].position.tolist() == [0.25, -0.25]


def test_a_revision_that_was_overtaken_on_the_way_changes_nothing() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    made.ask(replace(flow(0, step=1, steps=2, revision=7), state=np.full(3, 7.0), state_age_s=0.0))
    made.poll()
    made.ask(replace(flow(0, step=0, steps=5, revision=6), state=np.full(3, 6.0), state_age_s=0.0))
    made.finish()
    assert policy.queries[-1].state is not None and policy.queries[-1].state[0] == 7.0, "it is older"
    assert [(action.revision, action.step) for action in made.actions()] == [(7, 1), (7, 2)]
    assert len(made.replies) == 3, "nobody is told: the robot has thrown it away by itself"


def test_a_step_in_work_keeps_the_revision_that_it_was_asked_with() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    corrected = flow(0, step=1, steps=1, revision=2, position=(0.5, 0.5))
    policy.hook = lambda name: made.ask(corrected) and None if name == "flow 0" else None
    made.ask(flow(0, steps=3, revision=1))
    made.finish()
    assert [(action.revision, action.step) for action in made.actions()] == [(1, 0), (2, 1)]
    assert policy.queries[1].position.tolist() == [0.5, 0.5]


def test_requests_of_an_old_episode_are_refused_and_a_newer_one_forgets_the_old() -> None:
    made = served(ToyPolicy(), contexts=1)
    made.ask(flow(0, steps=5))
    made.poll()
    made.ask(flow(0, steps=1, episode=2))  # its first observation is on the way
    made.finish()
    assert made.steps() == [(0, 0)]
    assert made.stepped(flow(0, step=1)).code == "old_episode"
    made.prefilled(0, episode=2)
    assert [(a.episode, a.context, a.step) for a in made.actions() if a.accepted] == [(1, 0, 0), (2, 0, 0)]


def test_a_step_in_work_belongs_to_the_episode_that_it_was_asked_in() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    policy.hook = lambda name: made.ask(flow(0, episode=2)) and None if name == "flow 0" else None
    made.ask(flow(0, steps=3))
    made.finish()
    assert [(action.episode, action.step) for action in made.actions()] == [(1, 0)]


def test_the_robots_newest_state_and_its_age_reach_every_step() -> None:
    policy = ToyPolicy(hook=lambda name: None)
    made = served(policy, contexts=1)
    asked = replace(flow(0, steps=2), state=np.array([1.0, 2.0, 3.0]), state_age_s=0.5)
    made.ask(asked)
    made.now += 0.25
    made.poll()
    made.now += 0.25
    made.poll()
    made.ask(replace(asked, step=2, until=3, state=np.array([4.0, 5.0, 6.0]), state_age_s=float("nan")))
    made.poll()
    made.ask(replace(asked, step=3, until=4, state=None))
    made.poll()
    states = [query.state for query in policy.queries]
    assert [state.tolist() for state in states if state is not None] == [[1, 2, 3]] * 2 + [[4, 5, 6]] * 2
    assert all(state is not None and state.dtype == np.float32 for state in states)
    assert [query.state_age_s for query in policy.queries] == pytest.approx([0.75, 1.0, 0.0, 0.0])
    made.stepped(flow(0))
    assert policy.queries[-1].state is None and np.isnan(policy.queries[-1].state_age_s)


def test_the_robots_state_is_the_newest_and_lacks_what_was_generated_since() -> None:
    grants = Grants()

    def ask(
        context: int, position: float, until: int, now: float, state: float | None, pending: float, sent: float
    ) -> Flow:
        told = None if state is None else np.full(3, state)
        numbers = (1, context, 1, 0, np.array([position, 0.0]), until)
        sums = (np.array([pending, 0.0]), np.array([sent, 0.0]))
        grants.take(GenerateRequest(*numbers, told, 0.0, *sums), None, SPEC, now)
        return grants.flow(context)

    def lacked(flow: Flow) -> tuple[float, float]:
        robot, pending = grants.robot(flow)
        assert robot is not None and pending is not None
        return robot.values[0], pending[0]

    old = ask(0, 2.0, 1, 10.0, 5.0, pending=0.25, sent=10.0)
    assert lacked(old) == (5.0, 0.25)
    old.position = np.array([3.0, 0.0])  # an action of 1 was generated
    assert lacked(old) == (5.0, 1.25)
    new = ask(1, 0.0, 2, 10.1, 5.5, pending=0.5, sent=10.5)  # with its picture
    assert lacked(new) == (5.5, 0.5) and lacked(old) == (5.0, 1.25)
    old = ask(0, 3.0, 3, 10.3, 6.0, pending=0.75, sent=11.0)  # the old context goes on: the robot is there by now
    old.position = np.array([5.0, 0.0])
    assert lacked(new) == (6.0, 0.25), "from there to where it begins, whatever was generated of the old one"
    new.position = np.array([0.5, 0.0])
    assert lacked(new) == (6.0, 0.75)
    unsaid = ask(0, 4.0, 4, 10.4, None, 0.0, 12.0)
    assert grants.robot(unsaid)[0] is old.robot, "a request that tells no state changes none"
    grants.take(GenerateRequest(1, 0, 1, 0, np.zeros(2), 5, np.full(3, 7.0), 0.0), None, SPEC, 10.5)
    assert grants.robot(old)[1] is None, "a state of which nobody says what it shows"


def test_what_is_planned_is_asked_for_when_the_policy_looks_at_it() -> None:
    policy = ToyPolicy(slices=2)
    made = served(policy, contexts=1)
    planned = np.arange(14.0).reshape(7, 2)
    made.ask(replace(flow(1), planned=planned, delay=2))
    made.ask(replace(flow(1), planned=None))  # a new beginning of the same context; its picture shows what it showed
    made.prefilled(1)
    found = policy.seen[-1].planned()
    assert found is not None and found.delay == 2
    assert found.actions.tolist() == planned[:5].tolist(), "as many as a context has actions"
    made.prefilled(2)
    assert policy.seen[-1].planned() is None, "nobody told"
    made.prefilled(1, episode=2)
    assert policy.seen[-1].planned() is None, "of another episode"


def test_generation_goes_on_when_more_is_granted_as_the_last_step_ends() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    first = flow(0, steps=1)

    def hook(name: str) -> None:
        step = int(name.split()[1]) + 1
        if step < 5:
            made.ask(replace(first, step=step, until=step + 1))

    policy.hook = hook
    made.ask(first)
    made.finish()
    assert made.steps() == [(0, step) for step in range(5)]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), st.integers(0, 4), st.integers(0, 5)), max_size=30))
def test_no_step_of_a_revision_comes_twice_or_out_of_order_whatever_is_asked(
    asked: list[tuple[int, int, int, int]],
) -> None:
    """Context 0 exists, 1 is to come; requests grant, correct, or were overtaken on the way."""
    made = served(ToyPolicy(slices=1), contexts=1)
    granted: dict[tuple[int, int], int] = {}
    for context, revision, step, until in asked:
        granted[context, revision] = max(granted.get((context, revision), 0), until)
        made.ask(GenerateRequest(1, context, revision, step, np.zeros(2), until))
        made.poll()
    made.prefilled(1)
    assert all(action.accepted for action in made.actions())
    for context in (0, 1):
        came = [(action.revision, action.step) for action in made.actions() if action.context == context]
        for before, after in itertools.pairwise(came):
            assert after[0] > before[0] or after == (before[0], before[1] + 1)
        assert all(step < granted[context, revision] for revision, step in came)
        revisions = [revision for number, revision, _, _ in asked if number == context]
        if revisions:  # of the newest revision all that was granted has come, from where it began
            newest = max(revisions)
            first = next(step for number, revision, step, _ in asked if (number, revision) == (context, newest))
            wanted = range(first, granted[context, newest])
            assert [step for revision, step in came if revision == newest] == list(wanted)


def test_a_flow_that_a_policy_failed_in_is_begun_again_by_its_next_request() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    policy.hook = lambda name: 1 // 0 and None
    request = made.ask(flow(0, steps=3))
    made.finish()
    policy.hook = lambda name: None
    made.finish()
    assert [action.code for action in made.actions()] == ["policy_failed"]
    made.ask(replace(request, step=1, until=3))
    made.finish()
    assert made.steps() == [(0, 1), (0, 2)]
