"""The order of work: slices, priorities, bounds and overtaken observations. No thread, so nothing is chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import (
    LAYOUT,
    SPEC,
    TOKENS,
    DoubtingToy,
    PlanningToy,
    Served,
    ToyPolicy,
    flow,
    observation,
    options,
    question,
    served,
)

from streaming_vla.engine.engine import MAX_GRANTS, MAX_REQUESTS, Engine
from streaming_vla.engine.values import ContextReport, Reply, ResetResult
from streaming_vla.machines.events import GeneratedAction, SaliencyReply

torch.set_num_threads(1)


def test_a_prefill_gives_a_context() -> None:
    policy = ToyPolicy()
    made = served(policy)
    report = made.prefilled(0, mark=7.0)
    assert (report.session, report.episode, report.sequence) == ("/a", 1, 0)
    assert (report.execution_horizon, report.trained_horizon, report.tokens) == (3, 5, TOKENS)
    assert report.stats.tokens == report.stats.full_tokens == TOKENS
    assert report.flow_step_s == 0.0 and not report.chunk and report.trained_delay == 0
    seen = policy.seen[0]
    assert seen.images.shape == (2, 32, 32, 3) and seen.images.dtype == np.uint8
    assert abs(int(seen.images[0].mean()) - 100) <= 1 and abs(int(seen.images[1].mean()) - 200) <= 1
    assert seen.instruction == "open" and seen.state.tolist() == [7.0, 0.0, 0.0]
    result = made.stepped(flow(0, step=4))
    assert result.accepted
    np.testing.assert_allclose(result.values, [0.007, 0.007], rtol=1e-6)
    assert made.engine.counts() == {"served.generate": 1, "served.prefill": 1}


def test_a_context_says_where_its_history_begins() -> None:
    made = served(ToyPolicy())
    assert [made.prefilled(sequence).history_from for sequence in (3, 4)] == [3, 3]
    assert made.prefilled(0, episode=2).history_from == 0
    assert not made.prefilled(1, episode=2).remembers, "a window forgets of itself"


def test_one_slice_at_a_time_and_flow_steps_in_between() -> None:
    policy = ToyPolicy(slices=3)
    made = served(policy, contexts=1)
    made.observe(observation(1, mark=2.0))
    for number in range(4):
        made.poll()  # decoding, then a slice of the policy each
        made.ask(flow(0, step=number))
        made.poll()
    assert policy.names() == ["flow 0", "slice 0", "flow 1", "slice 1", "flow 2", "slice 2", "flow 3"]
    made.finish()
    assert made.engine.counts()["served.prefill"] == 2


def kind(reply: Reply) -> str:
    """Return what a reply answers."""
    if isinstance(reply.value, GeneratedAction):
        return f"flow {reply.value.step}"
    return {ContextReport: "prefill", SaliencyReply: "saliency", ResetResult: "reset"}[type(reply.value)]


def test_priorities() -> None:
    made = served(ToyPolicy(slices=2), contexts=1)
    made.replies.clear()
    made.observe(observation(0, session="/b"))
    made.engine.predict_saliency("/a", question(0), 1)
    made.ask(flow(0, steps=2))
    made.engine.reset("/b", 1, 2)
    made.finish()
    assert [kind(reply) for reply in made.replies] == ["reset", "flow 0", "flow 1", "saliency", "prefill"]


def test_a_prefill_that_has_begun_ends_before_the_next_begins() -> None:
    policy = ToyPolicy(slices=2)
    made = served(policy)
    made.observe(observation(0, session="/a", mark=1.0))
    made.poll()
    made.observe(observation(0, session="/b", mark=2.0))
    made.finish()
    assert policy.log == [("slice 0", 1.0), ("slice 1", 1.0), ("slice 0", 2.0), ("slice 1", 2.0)]
    assert made.report(0, "/a").session == "/a" and made.report(0, "/b").session == "/b"


def test_a_newer_observation_takes_the_place_of_the_waiting_one() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    made.observe(observation(1, mark=1.0))
    made.poll()
    made.observe(observation(2, mark=2.0))
    made.observe(observation(3, mark=3.0))
    made.poll()
    waiting = made.refusal(2)
    made.observe(observation(2, mark=4.0))
    made.finish()
    assert made.report(1).sequence == 1 and made.report(3).sequence == 3
    assert waiting.code == "superseded" and "observation 3" in waiting.reason
    assert made.refusal(2).code == "old_sequence"
    assert {mark for _, mark in policy.log} == {1.0, 3.0}
    assert made.engine.counts()["superseded"] == made.engine.counts()["old_sequence"] == 1


def test_old_episodes_and_sequences_are_refused_and_counted() -> None:
    made = served(ToyPolicy(), contexts=1)
    assert made.prefilled(5, episode=3).stats.full_tokens == TOKENS  # a newer episode begins anew
    for sequence, episode, code in ((5, 3, "old_sequence"), (4, 3, "old_sequence"), (9, 2, "old_episode")):
        refusal = made.refused(sequence, episode=episode)
        assert refusal.code == code and (refusal.sequence, refusal.episode) == (sequence, episode)
    old = made.stepped(flow(0, episode=1))
    assert old.code == "old_episode" and "in 3" in old.reason and old.values.shape == (0,)
    gone = made.stepped(flow(4, episode=3))
    assert gone.code == "no_context" and "there is 5" in gone.reason
    assert made.engine.counts()["old_sequence"] == 2 and made.engine.counts()["old_episode"] == 2
    assert made.prefilled(6, episode=3).stats.full_tokens == 2 * TOKENS


def test_a_new_episode_stops_the_prefill_of_the_old_one() -> None:
    policy = ToyPolicy(slices=5)
    made = served(policy, contexts=1)
    made.observe(observation(1, mark=1.0))
    made.poll()
    made.poll()
    made.observe(observation(0, episode=2, mark=2.0))
    made.finish()
    assert made.refusal(1).code == "old_episode"
    assert policy.names() == ["slice 0", "let go", "slice 0", "slice 1", "slice 2", "slice 3", "slice 4"]
    assert made.report(0).stats.full_tokens == TOKENS


def test_a_reset_is_not_undone_by_an_observation_that_was_waiting() -> None:
    made = served(ToyPolicy(slices=3), contexts=1)
    made.observe(observation(0, session="/b", mark=1.0))
    made.poll()
    made.observe(observation(5, session="/a", episode=60_000_000))
    made.engine.reset("/a", 1, 1)
    made.finish()
    assert made.result(1) == ResetResult(True) and made.report(0, "/b").sequence == 0
    assert made.refusal(5).code == "reset"
    assert made.prefilled(0, session="/a", episode=1).stats.full_tokens == TOKENS
    made.observe(observation(0, session="/a", episode=2))  # of the episode that the reset begins
    made.engine.reset("/a", 2, 2)
    made.finish()
    assert made.report(0).episode == 2


def test_a_reset_forgets_and_stops_the_prefill() -> None:
    policy = ToyPolicy(slices=5)
    made = served(policy, contexts=1)
    made.observe(observation(1))
    made.poll()
    made.poll()
    made.engine.reset("/a", 1, 1)
    made.poll()
    made.ask(flow(0))  # of before the reset: the robot does not know yet
    made.finish()
    assert made.result(1) == ResetResult(True)
    assert made.refusal(1).code == "reset" and policy.log[-1][0] == "let go"
    assert made.actions() == [], "context 0 of the episode that begins here is still to come"
    assert made.prefilled(0).stats.full_tokens == TOKENS  # sequences count from 0 again
    made.engine.reset("/a", 0, 2)  # a number that was wrong can be undone
    assert made.prefilled(0, episode=0).episode == 0


def test_a_reset_forgets_what_was_granted_but_not_for_the_episode_that_it_begins() -> None:
    made = served(ToyPolicy(), contexts=1)
    made.ask(flow(1, steps=2))
    made.poll()
    made.engine.reset("/a", 1, 1)
    made.prefilled(1)
    assert made.actions() == [], "it was granted before the episode began again"
    made.ask(flow(0, steps=2, episode=2))
    made.poll()
    made.engine.reset("/a", 2, 2)
    made.prefilled(0, episode=2)
    assert made.steps() == [(0, 0), (0, 1)]


def test_only_the_newest_contexts_are_kept() -> None:
    made = served(ToyPolicy(), contexts=1, contexts_kept=2)
    for sequence in (1, 2):
        made.prefilled(sequence, mark=10.0 * sequence)
    gone, before, newest = (made.stepped(flow(context)) for context in (0, 1, 2))
    assert gone.code == "no_context" and "there is 1, 2" in gone.reason
    np.testing.assert_allclose(before.values, [11.0 / 2000, 0.010], rtol=1e-6)
    np.testing.assert_allclose(newest.values, [31.0 / 3000, 0.020], rtol=1e-6)


def test_an_older_context_keeps_its_numbers_while_the_window_moves() -> None:
    made = served(ToyPolicy(), cache_recent=8, contexts_kept=3)
    for sequence in range(20):
        made.prefilled(sequence, mark=float(sequence))
        for context in range(max(0, sequence - 2), sequence + 1):
            mean = (context + max(0, context - 1)) / 2
            np.testing.assert_allclose(made.stepped(flow(context)).values, [mean / 1000, context / 1000], rtol=1e-5)


def test_two_sessions_do_not_leak() -> None:
    made = served(ToyPolicy())
    marks = {"/a": 1.0, "/b": 5.0}
    for sequence in range(6):
        asked = {}
        for name, mark in marks.items():
            made.observe(observation(sequence, session=name, mark=mark))
            if sequence:
                asked[name] = made.ask(flow(sequence - 1), name)
        made.finish()
        assert [made.report(sequence, name).stats.full_tokens for name in marks] == [TOKENS * (sequence + 1)] * 2
        for name, request in asked.items():
            values = made.answer(request, name).values
            np.testing.assert_allclose(values, [marks[name] / 1000, marks[name] / 1000], rtol=1e-6)
    made.engine.reset("/a", 2, 1)
    assert made.stepped(flow(5), "/b").accepted


def test_waiting_requests_are_bounded() -> None:
    made = served(ToyPolicy(), contexts=1)
    for number in range(MAX_REQUESTS + 4):
        made.engine.predict_saliency("/a", question(0), number)
    made.engine.predict_saliency("/b", question(0), 99)  # another robot's do not count
    made.finish()
    codes = [made.result(number).code for number in range(MAX_REQUESTS + 4)]
    assert codes == [""] * MAX_REQUESTS + ["too_many_waiting"] * 4
    assert "requests of kind saliency of /a" in made.result(MAX_REQUESTS).reason
    assert made.result(99).code == "no_session"
    made.engine.predict_saliency("/a", question(0), 100)
    made.finish()
    assert made.result(100).accepted


def test_requests_to_generate_are_bounded_and_so_is_what_they_cost() -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    requests = [made.ask(flow(0)) for _ in range(MAX_GRANTS + 3)]
    made.finish()
    codes = [made.answer(request).code for request in requests[MAX_GRANTS:]]
    assert codes == ["too_many_waiting"] * 3
    assert policy.names() == ["flow 0"], "each began the flow anew, the newest counts"
    assert made.stepped(flow(0)).accepted


@pytest.mark.parametrize("sessions", [1, 2])
def test_robots_that_grant_without_ever_observing_are_bounded(sessions: int) -> None:
    made = served(ToyPolicy(), max_sessions=sessions)
    asked = [made.ask(flow(0), f"/{number}") for number in range(3)]
    made.finish()
    assert [len(made.actions(f"/{number}")) for number in range(3)] == [0] * sessions + [1] * (3 - sessions)
    assert made.answer(asked[2], "/2").code == "sessions_full"


def test_saliency() -> None:
    policy = ToyPolicy(saliency=0.25)
    made = served(policy, contexts=1)

    def ask(made: Served = made, session: str = "/a", **what: object) -> SaliencyReply:
        number = len(made.replies) + 1000
        made.engine.predict_saliency(session, question(**({"context": 0} | what)), number)  # type: ignore[arg-type]
        made.finish()
        result = made.result(number)
        assert isinstance(result, SaliencyReply)
        return result

    assert ask() == SaliencyReply(1, 0, 0, True, 0.25)
    assert ask(served(ToyPolicy(saliency=None), contexts=1)).code == "no_predictor"
    policy.saliency = float("inf")
    assert ask().code == "policy_failed"
    assert ask(pending=[0.0]).code == "bad_pending"
    assert ask(context=3).code == "no_context"
    assert ask(session="/z").code == "no_session"
    assert ask(of="sounds").code == "bad_saliency_of"
    assert ask(of="plan").code == "no_plan"
    assert np.isnan(ask(of="plan").saliency)


def test_saliency_of_a_plan() -> None:
    policy = PlanningToy()
    made = served(policy, contexts=1)

    def ask(index: int, made: Served = made, context: int = 0) -> SaliencyReply:
        number = len(made.replies) + 1000
        made.engine.predict_saliency("/a", question(context, index, "plan"), number)
        made.finish()
        result = made.result(number)
        assert isinstance(result, SaliencyReply)
        return result

    assert [ask(index).saliency for index in (0, 2, 3)] == pytest.approx([1.5, 1.5, 0.5]), "what comes is counted"
    assert policy.names() == ["plan"], "once for a context"
    assert ask(5).code == "bad_index" and ask(3, context=7).code == "no_context"
    assert ask(0, served(PlanningToy(grip=[float("nan")] * 5), contexts=1)).code == "policy_failed"
    layout = replace(LAYOUT, absolute=(False, False))
    made = served(PlanningToy(spec=replace(SPEC, layout=layout)), contexts=1)
    assert ask(0, made).code == "nothing_switches"


def test_saliency_of_a_doubt_is_that_of_the_next_step() -> None:
    policy = DoubtingToy()
    made = served(policy, contexts=1)

    def ask(made: Served = made, context: int = 0) -> SaliencyReply:
        number = len(made.replies) + 1000
        made.engine.predict_saliency("/a", question(context, of="doubt"), number)
        made.finish()
        result = made.result(number)
        assert isinstance(result, SaliencyReply)
        return result

    assert ask().code == "no_flow"
    made.stepped(flow(0, steps=2))
    assert ask().saliency == 0.25 and policy.doubted[0].index == 2
    made.stepped(flow(0, steps=5))
    assert ask().accepted and policy.doubted[1].index == 4, "its last step, where nothing is left"
    assert ask(context=3).code == "no_flow"
    policy.said = float("nan")
    assert ask().code == "policy_failed"
    policy.doubts = False
    assert ask().code == "no_doubt"
    assert ask(served(ToyPolicy(), contexts=1)).code == "no_doubt"


def test_times_are_those_of_the_given_clock() -> None:
    policy = ToyPolicy(slices=3)
    made = Served(Engine(policy, options(), stopwatch=lambda: made.now))

    def tick(_name: str) -> None:
        made.now += 1.0

    policy.hook = tick
    made.observe(observation(0))
    made.now += 10.0
    made.poll()
    made.now += 5.0
    made.finish()
    report = made.report(0)
    assert (report.prefill_s, report.queued_s) == (3.0, 15.0)
    request = made.ask(flow(0, steps=2))
    made.now += 2.0
    made.finish()
    first, second = made.actions()
    assert made.answer(request) is first
    assert (first.compute_s, first.queued_s, second.compute_s, second.queued_s) == (1.0, 2.0, 1.0, 0.0)
    assert made.prefilled(1).flow_step_s == 1.0, "the first step was cold, the second counts"


def test_a_step_of_a_context_to_come_has_waited_since_there_was_one() -> None:
    made = served(ToyPolicy(), contexts=1)
    made.ask(flow(1))
    made.now += 3.0
    made.prefilled(1)
    assert [action.queued_s for action in made.actions()] == [0.0]
