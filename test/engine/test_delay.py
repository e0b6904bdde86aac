"""A latency profile in the live engine: answers are as late as it says, and other work goes on meanwhile."""

from __future__ import annotations

import threading
import time

import pytest
from streaming_vla.engine.delay import Delay, held_answer
from toy import WAIT_S, Answer, ToyPolicy, flow, observation, observe, options, refusal_of, report_of, step

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.values import FlowResult, SaliencyResult

OBSERVE_MS, STEP_MS, NETWORK_MS = 60.0, 20.0, 5.0


def constant(observe_ms: float = OBSERVE_MS) -> LatencyProfile:
    """Return a profile without jitter."""
    return LatencyProfile(
        "test", "a test", 50.0, Spread(observe_ms, observe_ms), Spread(STEP_MS, STEP_MS), Spread(NETWORK_MS, NETWORK_MS)
    )


def delayed(profile: LatencyProfile) -> tuple[Engine, Delay]:
    """Return a running engine with a profile."""
    delay = Delay(profile, time.perf_counter)
    engine = Engine(ToyPolicy(), options(), time.perf_counter, delay)
    engine.start()
    return engine, delay


def test_answers_are_as_late_as_the_profile_says_and_report_its_times() -> None:
    engine, _ = delayed(constant())
    try:
        begin_s = time.perf_counter()
        report = report_of(observe(engine, observation(0)))
        assert time.perf_counter() - begin_s >= (OBSERVE_MS + 2 * NETWORK_MS) / 1000
        assert report.prefill_s >= OBSERVE_MS / 1000 and report.queued_s >= 2 * NETWORK_MS / 1000
        assert report.flow_step_s == pytest.approx(STEP_MS / 1000)
        begin_s = time.perf_counter()
        result = step(engine, flow(0)).get()
        assert time.perf_counter() - begin_s >= (STEP_MS + 2 * NETWORK_MS) / 1000
        assert result.accepted and result.compute_s >= STEP_MS / 1000
    finally:
        engine.close()


def test_a_flow_step_overtakes_an_observation_that_is_held() -> None:
    engine, _ = delayed(constant(observe_ms=2000.0))
    try:
        observe(engine, observation(0))
        context = observe(engine, observation(0, session="/b"))
        answer: Answer[FlowResult] = Answer()
        while True:  # the context exists in the engine long before its report is handed over
            answer = step(engine, flow(0))
            if answer.get().accepted:
                break
        assert context.results == []
    finally:
        engine.close()


def test_refusals_are_not_held() -> None:
    engine, _ = delayed(constant(observe_ms=2000.0))
    try:
        observe(engine, observation(5))
        begin_s = time.perf_counter()
        step(engine, flow(77, episode=0)).get()
        refusal_of(observe(engine, observation(3)))
        assert time.perf_counter() - begin_s < 2.0
    finally:
        engine.close()


def test_a_question_takes_the_time_of_a_flow_step_only_if_it_takes_a_plan() -> None:
    nothing = Spread(0.0, 0.0)
    delay = Delay(
        LatencyProfile("test", "a test", 50.0, nothing, Spread(60_000.0, 60_000.0), nothing), time.perf_counter
    )
    delay.start()
    answers: list[SaliencyResult] = []
    for planned in (True, False):
        held_answer(delay, time.perf_counter(), answers.append)(SaliencyResult(True, "", "", 1.0, planned))
    assert [answer.planned for answer in answers] == [False]
    assert delay.late() == 0, "the profile has no time for it"
    delay.close()
    assert [answer.planned for answer in answers] == [False, True]


def test_close_hands_over_what_is_held() -> None:
    engine, _ = delayed(constant(observe_ms=60_000.0))
    answers = [observe(engine, observation(0)), observe(engine, observation(0, session="/b"))]
    first = step(engine, flow(0))
    first.get()
    engine.close()
    assert all(len(answer.results) == 1 for answer in answers), "each is answered once: a report, or that it is closed"
    engine.close()


def fail(result: object) -> None:
    """Take an answer badly."""
    raise ValueError("whoever waited is gone")


def test_an_answer_that_raises_keeps_no_other_one_back() -> None:
    engine, delay = delayed(constant(observe_ms=1.0))
    try:
        engine.observe(observation(0), fail)
        report_of(observe(engine, observation(0, session="/b")))
        assert delay.failed() == engine.counts()["callback_failed"] == 1
    finally:
        engine.close()


def test_close_hands_over_what_is_behind_an_answer_that_raises() -> None:
    delay = Delay(constant(), time.perf_counter)
    came: list[str] = []
    due_s = time.perf_counter() + 60.0
    delay.hold(due_s, fail, "first")
    delay.hold(due_s, came.append, "second")
    delay.close()
    assert came == ["second"] and delay.failed() == 1


def test_answers_in_the_order_of_their_time_and_late_ones_are_counted() -> None:
    delay = Delay(constant(), time.perf_counter)
    delay.start()
    came: list[str] = []
    done = threading.Event()
    now = time.perf_counter()
    delay.hold(now + 0.10, lambda name: (came.append(name), done.set()), "second")
    delay.hold(now + 0.05, came.append, "first")
    assert done.wait(WAIT_S)
    assert came == ["first", "second"] and delay.late() == 0
    delay.hold(now, came.append, "late")
    delay.close()
    assert came[-1] == "late" and delay.late() == 1
    delay.hold(now + 99.0, came.append, "after the end")
    assert came[-1] == "after the end"
