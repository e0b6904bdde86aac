"""The generator: which flow steps it asks for, which actions it sends, and what ends a flow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runtime_cases import ACTS, EPISODE, LAYOUT, context, only, state

from streaming_vla.machines.events import Action, Episode, FlowReply, FlowRequest, Mode, ObserveRequest, Reason
from streaming_vla.machines.generator import (
    LOST_AFTER_S,
    REQUESTS_KEPT,
    Generator,
    GeneratorEffect,
)
from streaming_vla.machines.generator_options import GeneratorOptions

OPTIONS = GeneratorOptions(**ACTS, release="stream", overrun=True, lead_actions=1, flow_step_timeout_s=0.2)


def started(options: GeneratorOptions = OPTIONS) -> Generator:
    """Return a generator in an episode."""
    generator = Generator(LAYOUT, options)
    generator.on_episode(EPISODE, 0.0)
    return generator


def reply(request: FlowRequest, values: tuple[float, ...] = (0.1, 0.2, 0.3), accepted: bool = True) -> FlowReply:
    """Return the model's answer to `request`."""
    return FlowReply(request.episode, request.context, request.index, accepted, np.asarray(values), "")


def one_request(effects: list[GeneratorEffect]) -> FlowRequest:
    """Return the only effect, which is a request."""
    [request] = effects
    assert isinstance(request, FlowRequest)
    return request


def stream(generator: Generator, request: FlowRequest, steps: int) -> tuple[list[Action], FlowRequest | None]:
    """Answer requests and begin actions at once; return the actions and the request that is open then."""
    actions: list[Action] = []
    open_request: FlowRequest | None = request
    while open_request is not None and len(actions) < steps:
        effects = generator.on_flow_reply(reply(open_request), 0.0)
        actions += only(effects, Action)
        requests = only(effects, FlowRequest)
        newest = actions[-1]
        requests += only(
            generator.on_execution_state(state(context=newest.context, index=newest.index, executed=1), 0.0),
            FlowRequest,
        )
        assert len(requests) <= 1
        open_request = requests[0] if requests else None
    return actions, open_request


def test_an_action_is_sent_the_moment_it_exists() -> None:
    generator = started()
    request = one_request(generator.on_context(context(0), 0.0))
    assert (request.context, request.index) == (0, 0)
    assert request.position == pytest.approx([0.0, 0.0, -1.0])
    [action] = generator.on_flow_reply(reply(request), 0.01)
    assert isinstance(action, Action)
    assert (action.episode, action.context, action.index, action.flow_time, action.more) == (7, 0, 0, 0.0, True)
    assert action.values == pytest.approx([0.1, 0.2, 0.3])


def test_the_next_step_waits_until_the_executor_has_begun_the_last_one() -> None:
    generator = started()
    generator.on_flow_reply(reply(one_request(generator.on_context(context(0), 0.0))), 0.0)
    assert generator.on_execution_state(state(Mode.WAITING, queue_depth=1), 0.01) == []
    request = one_request(generator.on_execution_state(state(context=0, index=0, executed=1), 0.02))
    assert request.index == 1
    assert request.position == pytest.approx([0.1, 0.2, 0.3])


def test_lead_actions_are_sent_ahead() -> None:
    generator = started(OPTIONS.changed(lead_actions=3))
    request = one_request(generator.on_context(context(0), 0.0))
    indices = []
    for _ in range(2):
        action, request = generator.on_flow_reply(reply(request), 0.0)
        assert isinstance(action, Action)
        assert isinstance(request, FlowRequest)
        indices.append(action.index)
    [action] = generator.on_flow_reply(reply(request), 0.0)
    assert isinstance(action, Action)
    assert [*indices, action.index] == [0, 1, 2]
    assert one_request(generator.on_execution_state(state(context=0, index=0, executed=1), 0.0)).index == 3


@pytest.mark.parametrize(("overrun", "expected"), [(True, 6), (False, 4)])
def test_the_horizon_ends_a_context(overrun: bool, expected: int) -> None:
    generator = started(OPTIONS.changed(overrun=overrun))
    actions, open_request = stream(generator, one_request(generator.on_context(context(0), 0.0)), 100)
    assert open_request is None
    assert [action.index for action in actions] == list(range(expected))
    assert [action.more for action in actions] == [True, True, True, False, False, False][:expected]
    assert [action.flow_time for action in actions] == pytest.approx([index / 6 for index in range(expected)])


def test_a_newer_context_takes_over_with_the_sum_at_zero() -> None:
    generator = started()
    _, request = stream(generator, one_request(generator.on_context(context(0), 0.0)), 2)
    assert request is not None
    assert generator.on_context(context(1), 0.0) == [], "a flow step is in flight"
    actions, request = stream(generator, request, 1)
    assert [(action.context, action.index) for action in actions] == [(0, 2)]
    assert request is not None
    assert (request.context, request.index) == (1, 0)
    assert request.position == pytest.approx([0.0, 0.0, 0.3]), "sums begin anew, the gripper stays as it is"


def test_a_newer_context_is_preferred_to_overrun() -> None:
    generator = started()
    _, request = stream(generator, one_request(generator.on_context(context(0), 0.0)), 4)
    assert request is not None
    assert request.index == 4
    generator.on_context(context(1), 0.0)
    _, request = stream(generator, request, 1)
    assert request is not None
    assert (request.context, request.index) == (1, 0)


def test_only_the_newest_of_waiting_contexts_is_used() -> None:
    generator = started()
    _, request = stream(generator, one_request(generator.on_context(context(0), 0.0)), 1)
    generator.on_context(context(1), 0.0)
    generator.on_context(context(4), 0.0)
    assert request is not None
    _, request = stream(generator, request, 1)
    assert request is not None
    assert request.context == 4


def test_values_are_clipped_and_the_flow_goes_on_from_what_was_sent() -> None:
    generator = started()
    request = one_request(generator.on_context(context(0), 0.0))
    [action] = generator.on_flow_reply(reply(request, (3.0, -3.0, 0.5)), 0.0)
    assert isinstance(action, Action)
    assert action.values == pytest.approx([1.0, -1.0, 0.5])
    request = one_request(generator.on_execution_state(state(context=0, index=0, executed=1), 0.0))
    assert request.position == pytest.approx([1.0, -1.0, 0.5])


def test_chunk_sends_everything_at_once_and_never_overruns() -> None:
    generator = started(OPTIONS.changed(release="chunk"))
    request = one_request(generator.on_context(context(0), 0.0))
    for index in range(3):
        assert request.index == index
        request = one_request(generator.on_flow_reply(reply(request), 0.0))
    assert request.position == pytest.approx([0.3, 0.6, 0.3])
    actions = generator.on_flow_reply(reply(request), 0.0)
    assert [action.index for action in only(actions, Action)] == [0, 1, 2, 3]
    assert len(actions) == 4
    assert generator.on_execution_state(state(context=0, index=3, executed=4), 1.0) == []


def test_a_chunk_is_finished_before_the_next_context() -> None:
    generator = started(OPTIONS.changed(release="chunk"))
    request = one_request(generator.on_context(context(0, horizon=2), 0.0))
    request = one_request(generator.on_flow_reply(reply(request), 0.0))
    generator.on_context(context(1, horizon=2), 0.0)
    *actions, request = generator.on_flow_reply(reply(request), 0.0)  # type: ignore[assignment]
    assert [action.context for action in only(actions, Action)] == [0, 0]
    assert isinstance(request, FlowRequest)
    assert (request.context, request.index) == (1, 0)


@pytest.mark.parametrize("release", ["stream", "chunk"])
@pytest.mark.parametrize(
    ("values", "accepted", "reason"),
    [
        ((0.1, 0.1, 0.1), False, "flow_refused"),
        ((0.1, float("nan"), 0.1), True, "flow_not_finite"),
        ((0.1, float("inf"), 0.1), True, "flow_not_finite"),
        ((0.1, 0.1), True, "flow_wrong_shape"),
        ((), True, "flow_wrong_shape"),
    ],
)
def test_a_bad_reply_ends_the_flow(release: str, values: tuple[float, ...], accepted: bool, reason: str) -> None:
    generator = started(OPTIONS.changed(release=release))
    request = one_request(generator.on_context(context(0), 0.0))
    assert generator.on_flow_reply(reply(request, values, accepted), 0.0) == []
    assert generator.counters.as_dict() == {reason: 1}
    assert generator.on_execution_state(state(Mode.WAITING), 0.0) == []
    assert one_request(generator.on_context(context(1), 0.0)).index == 0


def test_a_bad_reply_hands_over_at_once_when_a_newer_context_waits() -> None:
    generator = started()
    request = one_request(generator.on_context(context(0), 0.0))
    generator.on_context(context(1), 0.0)
    assert one_request(generator.on_flow_reply(reply(request, accepted=False), 0.0)).context == 1


def test_a_reply_that_never_comes_is_given_up() -> None:
    generator = started()
    request = one_request(generator.on_context(context(0), 1.0))
    assert generator.deadline() == pytest.approx(1.2)
    assert generator.poll(1.19) == []
    assert generator.poll(1.2) == []
    assert generator.counters["flow_timeout"] == 1
    assert generator.deadline() is None
    assert generator.on_flow_reply(reply(request), 1.3) == []
    assert generator.counters["flow_reply_unexpected"] == 1
    assert one_request(generator.on_context(context(1), 1.4)).context == 1


def test_a_reply_after_its_time_is_not_played() -> None:
    """The process was paused: the reply lies there before anybody has looked at the clock."""
    generator = started()
    request = one_request(generator.on_context(context(0), 1.0))
    assert generator.on_flow_reply(reply(request), 3.5) == []
    assert generator.counters["flow_timeout"] == 1
    assert generator.counters["flow_reply_unexpected"] == 1


def test_unexpected_replies_are_dropped() -> None:
    generator = started()
    assert generator.on_flow_reply(FlowReply(7, 0, 0, True, np.zeros(3)), 0.0) == []
    request = one_request(generator.on_context(context(0), 0.0))
    for wrong in (replace(request, index=1), replace(request, context=3), replace(request, episode=6)):
        assert generator.on_flow_reply(reply(wrong), 0.0) == []
    assert generator.counters["flow_reply_unexpected"] == 4
    assert len(generator.on_flow_reply(reply(request), 0.0)) == 1


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
def test_contexts_that_do_not_count(wrong: object, reason: str) -> None:
    generator = started()
    generator.on_context(context(2), 0.0)
    assert generator.on_context(wrong, 0.0) == []  # type: ignore[arg-type]
    assert generator.counters.as_dict() == {reason: 1}


def asked_for(generator: Generator, sequence: int, now: float) -> None:
    """Let the generator hear that observation `sequence` is asked for."""
    assert generator.on_request(ObserveRequest(7, sequence, Reason.EARLY), now) == []


@pytest.mark.parametrize(("age_s", "taken"), [(4.9, True), (5.1, False)])
def test_a_context_of_a_request_of_long_ago_is_refused(age_s: float, taken: bool) -> None:
    generator = started()
    asked_for(generator, 0, 1.0)
    assert bool(generator.on_context(context(0), 1.0 + age_s)) == taken
    assert generator.counters.as_dict() == ({} if taken else {"context_too_old": 1})
    asked_for(generator, 1, 3.0)  # a younger one is not in its shadow
    generator.on_context(context(1), 7.0)
    assert generator.counters["context_not_newer"] == 0


def test_a_context_whose_request_was_not_heard_counts_as_new() -> None:
    generator = started()
    asked_for(generator, 0, 1.0)
    assert one_request(generator.on_context(context(1), 99.0)).context == 1


def test_a_context_that_waits_for_too_long_does_not_take_over() -> None:
    """The executor begins nothing meanwhile, as while the robot is silent."""
    generator = started()
    generator.on_flow_reply(reply(one_request(generator.on_context(context(0), 1.0))), 1.0)
    asked_for(generator, 1, 1.0)
    assert generator.on_context(context(1), 1.1) == [], "an action waits at the executor"
    late = one_request(generator.on_execution_state(state(context=0, index=0, executed=1), 6.1))
    assert (late.context, late.index) == (0, 1)
    assert generator.counters.as_dict() == {"context_too_old": 1}


def test_the_largest_age_of_a_context_is_live_and_of_the_newest_episode() -> None:
    generator = started()
    asked_for(generator, 0, 1.0)
    generator.update(OPTIONS.changed(max_context_age_s=10.0))
    assert one_request(generator.on_context(context(0), 7.0)).context == 0
    generator.update(OPTIONS)
    generator.on_episode(Episode(8, active=True), 8.0)
    assert one_request(generator.on_context(context(0, episode=8), 9.0)).context == 0


def test_the_times_of_the_newest_requests_only_are_remembered() -> None:
    generator = started()
    for sequence in range(REQUESTS_KEPT + 1):
        asked_for(generator, sequence, 1.0)
    assert generator.on_context(context(1), 9.0) == [], "the oldest that is remembered"
    assert one_request(generator.on_context(context(0), 9.0)).context == 0


def test_nothing_happens_outside_of_an_episode() -> None:
    generator = Generator(LAYOUT, OPTIONS)
    assert generator.on_context(context(0), 0.0) == []
    generator.on_episode(EPISODE, 0.0)
    request = one_request(generator.on_context(context(0), 0.0))
    generator.on_episode(replace(EPISODE, active=False), 0.0)
    assert generator.on_flow_reply(reply(request), 0.0) == []
    assert generator.on_execution_state(state(), 0.0) == []
    assert generator.deadline() is None


def test_an_episode_change_clears_everything() -> None:
    generator = started()
    request = one_request(generator.on_context(context(5), 0.0))
    generator.on_flow_reply(reply(request), 0.0)
    generator.on_context(context(6), 0.0)
    generator.on_episode(Episode(8, active=True), 0.0)
    assert generator.deadline() is None
    request = one_request(generator.on_context(context(0, episode=8), 0.0))
    assert request.position == pytest.approx([0.0, 0.0, -1.0]), "the gripper starts as the robot does"


def test_an_episode_sent_again_changes_nothing() -> None:
    generator = started()
    request = one_request(generator.on_context(context(0), 0.0))
    generator.on_episode(replace(EPISODE, instruction="close it"), 0.0)
    generator.on_episode(Episode(6, active=True), 0.0)
    assert len(generator.on_flow_reply(reply(request), 0.0)) == 1
    assert generator.counters.as_dict() == {"old_episode": 1}


def test_actions_that_never_reached_the_executor_are_given_up() -> None:
    generator = started()
    request = one_request(generator.on_context(context(0), 1.0))
    generator.on_flow_reply(reply(request), 1.0)
    generator.on_execution_state(state(Mode.WAITING), 1.0)
    generator.on_context(context(1), 1.1)
    assert generator.deadline() == pytest.approx(1.0 + LOST_AFTER_S)
    assert generator.poll(1.0 + LOST_AFTER_S - 0.01) == []
    request = one_request(generator.poll(1.0 + LOST_AFTER_S))
    assert (request.context, request.index) == (1, 0)
    assert generator.counters.as_dict() == {"action_lost": 1}


@pytest.mark.parametrize("alive", [state(Mode.WAITING, queue_depth=1), state(Mode.PLAYING, context=0, index=0)])
def test_actions_are_not_lost_while_the_executor_has_something(alive: object) -> None:
    generator = started(OPTIONS.changed(lead_actions=2))
    request = one_request(generator.on_context(context(0, horizon=2, trained=2), 1.0))
    _, request = generator.on_flow_reply(reply(request), 1.0)  # type: ignore[assignment]
    assert isinstance(request, FlowRequest)
    generator.on_flow_reply(reply(request), 1.0)
    generator.on_execution_state(alive, 1.0)  # type: ignore[arg-type]
    assert generator.deadline() is None
    assert generator.poll(9.0) == []
    assert generator.counters.as_dict() == {}


def test_a_reply_for_a_flow_that_was_given_up_is_not_sent() -> None:
    generator = started(OPTIONS.changed(lead_actions=2, flow_step_timeout_s=5.0))
    request = one_request(generator.on_context(context(0), 1.0))
    _, request = generator.on_flow_reply(reply(request), 1.0)  # type: ignore[assignment]
    assert isinstance(request, FlowRequest)
    generator.on_execution_state(state(Mode.WAITING), 1.0)
    generator.poll(1.0 + LOST_AFTER_S)
    assert generator.on_flow_reply(reply(request), 1.6) == []
    assert generator.counters.as_dict() == {"action_lost": 1, "flow_ended": 1}


def test_a_generator_that_was_restarted_keeps_the_absolute_dimensions() -> None:
    generator = started()
    generator.on_execution_state(state(Mode.HOLD, context=3, index=9, executed=40), 0.0)
    request = one_request(generator.on_context(context(4), 0.0))
    assert request.position == pytest.approx([0.0, 0.0, 0.25])


def test_live_options_hold_from_the_next_step_on() -> None:
    generator = started()
    generator.on_flow_reply(reply(one_request(generator.on_context(context(0), 0.0))), 0.0)
    generator.update(OPTIONS.changed(lead_actions=2))
    assert one_request(generator.on_execution_state(state(Mode.WAITING, queue_depth=1), 0.0)).index == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("release", "both"), ("lead_actions", -1), ("flow_step_timeout_s", 0.0), ("max_context_age_s", 0.0)],
)
def test_options_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        OPTIONS.changed(**{name: value})
