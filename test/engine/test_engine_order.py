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
    Answer,
    PlanningToy,
    ToyPolicy,
    finish,
    flow,
    observation,
    observe,
    options,
    refusal_of,
    report_of,
    step,
)

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.values import FlowResult, ResetResult, SaliencyRequest, SaliencyResult

torch.set_num_threads(1)


def prepared(policy: ToyPolicy, **changes: int | str) -> Engine:
    """Return an engine whose session /a has context 0."""
    engine = Engine(policy, options(**changes))
    report_of(run(engine, 0))
    policy.log.clear()
    return engine


def run(engine: Engine, sequence: int, **which: float | int | str) -> Answer:
    """Prefill an observation at once."""
    answer = observe(engine, observation(sequence, **which))  # type: ignore[arg-type]
    finish(engine)
    return answer


def test_a_prefill_gives_a_context() -> None:
    policy = ToyPolicy()
    engine = Engine(policy, options())
    report = report_of(run(engine, 0, mark=7.0))
    assert (report.session, report.episode, report.sequence) == ("/a", 1, 0)
    assert (report.execution_horizon, report.trained_horizon, report.tokens) == (3, 5, TOKENS)
    assert report.stats.tokens == report.stats.full_tokens == TOKENS
    assert report.flow_step_s == 0.0
    seen = policy.seen[0]
    assert seen.images.shape == (2, 32, 32, 3) and seen.images.dtype == np.uint8
    assert abs(int(seen.images[0].mean()) - 100) <= 1 and abs(int(seen.images[1].mean()) - 200) <= 1
    assert seen.instruction == "open" and seen.state.tolist() == [7.0, 0.0, 0.0]
    result = step(engine, flow(0, index=4))
    finish(engine)
    assert result.get().accepted
    np.testing.assert_allclose(result.get().values, [0.007, 0.007], rtol=1e-6)
    assert engine.counts() == {"served.flow_step": 1, "served.prefill": 1}


def test_one_slice_at_a_time_and_flow_steps_in_between() -> None:
    policy = ToyPolicy(slices=3)
    engine = prepared(policy)
    observe(engine, observation(1, mark=2.0))
    for number in range(4):
        engine.work()  # decoding, then a slice of the policy each
        step(engine, flow(0, index=number))
        engine.work()
    assert policy.names() == ["flow 0", "slice 0", "flow 1", "slice 1", "flow 2", "slice 2", "flow 3"]
    finish(engine)
    assert engine.counts()["served.prefill"] == 2


def test_priorities() -> None:
    policy = ToyPolicy(slices=2)
    engine = prepared(policy)
    order: list[str] = []
    request = SaliencyRequest(1, 0, 0, np.zeros(2), "pictures")
    engine.observe(observation(0, session="/b"), lambda _result: order.append("prefill"))
    engine.predict_saliency("/a", request, lambda _result: order.append("saliency"))
    engine.flow_step("/a", flow(0), lambda _result: order.append("flow 0"))
    engine.flow_step("/a", flow(0, index=1), lambda _result: order.append("flow 1"))
    engine.reset("/b", 1, lambda _result: order.append("reset"))
    finish(engine)
    assert order == ["reset", "flow 0", "flow 1", "saliency", "prefill"]


def test_a_prefill_that_has_begun_ends_before_the_next_begins() -> None:
    policy = ToyPolicy(slices=2)
    engine = Engine(policy, options())
    first = observe(engine, observation(0, session="/a", mark=1.0))
    engine.work()
    second = observe(engine, observation(0, session="/b", mark=2.0))
    finish(engine)
    assert policy.log == [("slice 0", 1.0), ("slice 1", 1.0), ("slice 0", 2.0), ("slice 1", 2.0)]
    assert report_of(first).session == "/a" and report_of(second).session == "/b"


def test_a_newer_observation_takes_the_place_of_the_waiting_one() -> None:
    policy = ToyPolicy()
    engine = prepared(policy)
    running = observe(engine, observation(1, mark=1.0))
    engine.work()
    waiting = observe(engine, observation(2, mark=2.0))
    newer = observe(engine, observation(3, mark=3.0))
    older = observe(engine, observation(2, mark=4.0))
    finish(engine)
    assert report_of(running).sequence == 1 and report_of(newer).sequence == 3
    assert refusal_of(waiting).code == "superseded" and "observation 3" in refusal_of(waiting).reason
    assert refusal_of(older).code == "old_sequence"
    assert {mark for _, mark in policy.log} == {1.0, 3.0}
    assert engine.counts()["superseded"] == engine.counts()["old_sequence"] == 1


def test_old_episodes_and_sequences_are_refused_and_counted() -> None:
    engine = prepared(ToyPolicy())
    assert report_of(run(engine, 5, episode=3)).stats.full_tokens == TOKENS  # a newer episode begins anew
    for sequence, episode, code in ((5, 3, "old_sequence"), (4, 3, "old_sequence"), (9, 2, "old_episode")):
        refusal = refusal_of(run(engine, sequence, episode=episode))
        assert refusal.code == code and (refusal.sequence, refusal.episode) == (sequence, episode)
    old, unknown = step(engine, flow(0, episode=1)), step(engine, flow(5, episode=4))
    finish(engine)
    assert (old.get().code, unknown.get().code) == ("old_episode", "no_context")
    assert "in 3" in old.get().reason and old.get().values.shape == (0,)
    assert engine.counts()["old_sequence"] == 2 and engine.counts()["old_episode"] == 2
    assert report_of(run(engine, 6, episode=3)).stats.full_tokens == 2 * TOKENS


def test_a_new_episode_stops_the_prefill_of_the_old_one() -> None:
    policy = ToyPolicy(slices=5)
    engine = prepared(policy)
    old = observe(engine, observation(1, mark=1.0))
    engine.work()
    engine.work()
    new = observe(engine, observation(0, episode=2, mark=2.0))
    finish(engine)
    assert refusal_of(old).code == "old_episode"
    assert policy.names() == ["slice 0", "let go", "slice 0", "slice 1", "slice 2", "slice 3", "slice 4"]
    assert report_of(new).stats.full_tokens == TOKENS


def test_a_reset_is_not_undone_by_an_observation_that_was_waiting() -> None:
    engine = prepared(ToyPolicy(slices=3))
    running = observe(engine, observation(0, session="/b", mark=1.0))
    engine.work()
    late = observe(engine, observation(5, session="/a", episode=60_000_000))
    done: Answer[ResetResult] = Answer()
    engine.reset("/a", 1, done)
    finish(engine)
    assert done.get().accepted and report_of(running).sequence == 0
    assert refusal_of(late).code == "reset"
    assert report_of(run(engine, 0, session="/a", episode=1)).stats.full_tokens == TOKENS
    new = observe(engine, observation(0, session="/a", episode=2))  # of the episode that the reset begins
    engine.reset("/a", 2, lambda _result: None)
    finish(engine)
    assert report_of(new).episode == 2


def test_a_reset_forgets_and_stops_the_prefill() -> None:
    policy = ToyPolicy(slices=5)
    engine = prepared(policy)
    cut = observe(engine, observation(1))
    engine.work()
    engine.work()
    answer: Answer[ResetResult] = Answer()
    engine.reset("/a", 1, answer)
    pending = step(engine, flow(0))
    finish(engine)
    assert answer.get().accepted
    assert refusal_of(cut).code == "reset" and policy.log[-1][0] == "let go"
    assert pending.get().code == "no_context"
    assert report_of(run(engine, 0)).stats.full_tokens == TOKENS  # sequences count from 0 again
    engine.reset("/a", 0, lambda _result: None)  # a number that was wrong can be undone
    assert report_of(run(engine, 0, episode=0)).episode == 0


def test_only_the_newest_contexts_are_kept() -> None:
    engine = prepared(ToyPolicy(), contexts_kept=2)
    for sequence in (1, 2):
        report_of(run(engine, sequence, mark=10.0 * sequence))
    answers = [step(engine, flow(context)) for context in (0, 1, 2)]
    finish(engine)
    gone, before, newest = (answer.get() for answer in answers)
    assert gone.code == "no_context" and "there is 1, 2" in gone.reason
    np.testing.assert_allclose(before.values, [11.0 / 2000, 0.010], rtol=1e-6)
    np.testing.assert_allclose(newest.values, [31.0 / 3000, 0.020], rtol=1e-6)


def test_an_older_context_keeps_its_numbers_while_the_window_moves() -> None:
    engine = Engine(ToyPolicy(), options(cache_recent=8, contexts_kept=3))
    for sequence in range(20):
        report_of(run(engine, sequence, mark=float(sequence)))
        answers = [(context, step(engine, flow(context))) for context in range(max(0, sequence - 2), sequence + 1)]
        finish(engine)
        for context, answer in answers:
            mean = (context + max(0, context - 1)) / 2
            np.testing.assert_allclose(answer.get().values, [mean / 1000, context / 1000], rtol=1e-5)


def test_two_sessions_do_not_leak() -> None:
    engine = Engine(ToyPolicy(), options())
    for sequence in range(6):
        pair = [
            observe(engine, observation(sequence, session=name, mark=mark)) for name, mark in (("/a", 1.0), ("/b", 5.0))
        ]
        steps = [step(engine, flow(sequence - 1), name) for name in ("/a", "/b")] if sequence else []
        finish(engine)
        assert [report_of(answer).stats.full_tokens for answer in pair] == [TOKENS * (sequence + 1)] * 2
        for answer, mark in zip(steps, (1.0, 5.0), strict=False):
            np.testing.assert_allclose(answer.get().values, [mark / 1000, mark / 1000], rtol=1e-6)
    engine.reset("/a", 2, lambda _result: None)
    still = step(engine, flow(5), "/b")
    finish(engine)
    assert still.get().accepted


def test_waiting_requests_are_bounded() -> None:
    engine = prepared(ToyPolicy())
    answers = [step(engine, flow(0)) for _ in range(12)]
    finish(engine)
    codes = [answer.get().code for answer in answers]
    assert codes == [""] * 8 + ["too_many_waiting"] * 4
    again: Answer[FlowResult] = step(engine, flow(0))
    finish(engine)
    assert again.get().accepted


def test_saliency() -> None:
    policy = ToyPolicy(saliency=0.25)
    engine = prepared(policy)

    def ask(
        context: int,
        pending: list[float],
        session: str = "/a",
        engine: Engine = engine,
        index: int = 0,
        of: str = "pictures",
    ) -> SaliencyResult:
        answer: Answer[SaliencyResult] = Answer()
        engine.predict_saliency(session, SaliencyRequest(1, context, index, np.array(pending), of), answer)
        finish(engine)
        return answer.get()

    assert ask(0, [0.0, 0.0]) == SaliencyResult(True, "", "", 0.25)
    assert ask(0, [0.0, 0.0], engine=prepared(ToyPolicy(saliency=None))).code == "no_predictor"
    policy.saliency = float("inf")
    assert ask(0, [0.0, 0.0]).code == "policy_failed"
    assert ask(0, [0.0]).code == "bad_pending"
    assert ask(3, [0.0, 0.0]).code == "no_context"
    assert ask(0, [0.0, 0.0], "/z").code == "no_session"
    assert ask(0, [0.0, 0.0], of="sounds").code == "bad_saliency_of"
    assert ask(0, [0.0, 0.0], of="plan").code == "no_plan"


def test_saliency_of_a_plan() -> None:
    policy = PlanningToy()
    engine = prepared(policy)

    def ask(index: int, engine: Engine = engine, context: int = 0) -> SaliencyResult:
        answer: Answer[SaliencyResult] = Answer()
        engine.predict_saliency("/a", SaliencyRequest(1, context, index, np.zeros(2), "plan"), answer)
        finish(engine)
        return answer.get()

    assert ask(0).planned
    assert [ask(index).saliency for index in (0, 2, 3)] == pytest.approx([1.5, 1.5, 0.5]), "what comes is counted"
    assert policy.names() == ["plan"], "once for a context"
    assert not ask(0).planned
    assert ask(5).code == "bad_index" and ask(3, context=7).code == "no_context"
    assert ask(0, prepared(PlanningToy(grip=[float("nan")] * 5))).code == "policy_failed"
    layout = replace(LAYOUT, absolute=(False, False))
    assert ask(0, prepared(PlanningToy(spec=replace(SPEC, layout=layout)))).code == "nothing_switches"


def test_times_are_those_of_the_given_clock() -> None:
    now = [0.0]

    def tick(_name: str) -> None:
        now[0] += 1.0

    engine = Engine(ToyPolicy(slices=3, hook=tick), options(), clock=lambda: now[0])
    answer = observe(engine, observation(0))
    now[0] += 10.0
    engine.work()
    now[0] += 5.0
    finish(engine)
    report = report_of(answer)
    assert (report.prefill_s, report.queued_s) == (3.0, 15.0)
    result = step(engine, flow(0))
    now[0] += 2.0
    finish(engine)
    assert (result.get().compute_s, result.get().queued_s) == (1.0, 2.0)
    step(engine, flow(0, index=1))
    finish(engine)
    assert report_of(run(engine, 1)).flow_step_s == 1.0
